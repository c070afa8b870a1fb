"""The user embedding: its file, what it refuses, and the blend."""

import random
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ppd.taste_file import TasteCard
from ppd.user_embedding import UserEmbedding, blend, covariance_factor, null_user

METADATA = {
    "format": "ppd-user-embedding",
    "version": "1",
    "encoder": "pocket",
    "encoder_hash": "ab" * 32,
    "pairs": "4",
    "created": "2025-06-07",
}


def embedding(u=((1.0, -2.0, 0.5),), **more):
    return UserEmbedding(
        **{
            "u": torch.tensor(u),
            "encoder": "pocket",
            "encoder_hash": "ab" * 32,
            "pairs": 4,
            "created": "2025-06-07",
            **more,
        }
    )


def test_round_trip_without_and_with_covariance(tmp_path):
    factor = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 0.1]])
    one = embedding(covariance_factor=factor)
    one.save(tmp_path / "deep" / "a.safetensors")
    back = UserEmbedding.load(tmp_path / "deep" / "a.safetensors")
    assert torch.equal(back.u, one.u)
    assert back.covariance_factor is None and back.uncertainty is None
    assert (back.encoder, back.encoder_hash, back.pairs, back.created) == ("pocket", "ab" * 32, 4, "2025-06-07")
    one.save(tmp_path / "b.safetensors", with_covariance=True)
    assert torch.equal(UserEmbedding.load(tmp_path / "b.safetensors").covariance_factor, factor)
    assert [file.name for file in tmp_path.glob("*")] != [] and not list(tmp_path.rglob("*.part"))


def test_the_file_holds_only_what_the_contract_names(tmp_path):
    embedding(covariance_factor=torch.eye(3)).save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"u"}
        assert file.metadata() == METADATA


def test_covariance_only_if_known(tmp_path):
    with pytest.raises(ValueError, match="no covariance to save"):
        embedding().save(tmp_path / "a.safetensors", with_covariance=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "ppd-user-adapter"},
            "no user embedding: expected format 'ppd-user-embedding', got 'ppd-user-adapter'",
        ),
        ({"format": None}, "got None"),
        ({"version": "2"}, "version '2', expected '1'"),
        ({"version": None}, "version None"),
        ({"encoder": None}, "lacks encoder"),
        ({"encoder_hash": None}, "lacks encoder_hash"),
        ({"encoder_hash": ""}, "lacks encoder_hash"),
        ({"pairs": None}, "lacks pairs"),
        ({"pairs": "four"}, "number of pairs.*'four'"),
        ({"pairs": "-1"}, "number of pairs.*'-1'"),
        ({"pairs": "9" * 4299}, "number of pairs.*'999"),
        ({"pairs": "٣"}, "number of pairs"),
        ({"encoder": "x" * 100_000}, "name of at most 200 letters, got 'xxx"),
        ({"encoder": "two\nlines"}, "name of at most 200 letters"),
        ({"encoder_hash": "AB" * 32}, "sha256, got 'ABAB"),
        ({"encoder_hash": "ab"}, "sha256, got 'ab'"),
        ({"created": None}, "lacks created"),
        ({"created": "yesterday"}, "ISO date.*'yesterday'"),
    ],
)
def test_every_metadata_mismatch(tmp_path, change, message):
    metadata = {key: value for key, value in {**METADATA, **change}.items() if value is not None}
    save_file({"u": torch.ones(1, 3)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match=message) as caught:
        UserEmbedding.load(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value) and len(str(caught.value)) < 300


def test_mutations_of_a_file_are_refused_in_our_words(tmp_path):
    draw, path, refused = random.Random(0), tmp_path / "x.safetensors", 0
    embedding(covariance_factor=torch.eye(3)).save(
        path, with_covariance=True, card=TasteCard("Ann", "a note").metadata()
    )
    whole = path.read_bytes()
    types = [b"BF16", b"F64", b"I64", b"U8", b"BOOL", b"C64", b"F8_E4M3", b"F4", b"F8_E8M0", b"U16"]
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.choice([draw.randrange(256), *b'0219af":,[]{}'])
        if draw.random() < 0.3:
            data = bytearray(whole.replace(b"F32", draw.choice(types)))
        path.write_bytes(data[: draw.choice([None, None, draw.randrange(len(data))])])
        try:
            found, card = UserEmbedding.load(path), TasteCard.of_file(path)
            assert found.u.dtype == torch.float32 and len(card.name) <= 80
        except ValueError as error:
            refused += 1
            assert str(error).startswith("x.safetensors") and len(str(error)) < 400
    assert refused > 300


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"v": torch.ones(1, 3)}, "lacks u"),
        ({"u": torch.ones(3)}, r"shape \[N, d\], N at most 255 and d at most 65536, got \[3\]"),
        ({"u": torch.ones(0, 3)}, r"got \[0, 3\]"),
        ({"u": torch.ones(256, 3)}, r"N at most 255 .* got \[256, 3\]"),
        ({"u": torch.ones(1, 65537)}, r"d at most 65536, got \[1, 65537\]"),
        (
            {"u": torch.full((1, 3), torch.nan)},
            "numbers of at most 1e\\+06 as 'u', got nan; download it or make it again",
        ),
        ({"u": torch.tensor([[1.0, -torch.inf]])}, "as 'u', got inf"),
        ({"u": torch.ones(1, 3, dtype=torch.complex64)}, "expected BF16, F16, F32, F64 as 'u', got C64"),
        ({"u": torch.ones(1, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, "as 'u', got F4"),
        ({"u": torch.full((1, 3), 9e5)}, r"u to have a length of at most 1e\+06, got 1.558\d*e\+06"),
        ({"u": torch.full((1, 3), 1e300, dtype=torch.float64)}, r"at most 1e\+06 as 'u', got 1e\+300"),
        ({"u": torch.ones(1, 3), "covariance_factor": torch.full((3, 1), 9e5)}, "covariance_factor to have a length"),
        ({"u": torch.ones(1, 3), "covariance_factor": torch.ones(3, 4)}, r"shape \[3, r\], r at most 3, got \[3, 4\]"),
        ({"u": torch.ones(1, 3), "covariance_factor": torch.ones(2, 2)}, r"covariance factor of shape \[3, r\]"),
    ],
)
def test_every_tensor_mismatch(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors", METADATA)
    with pytest.raises(ValueError, match=message):
        UserEmbedding.load(tmp_path / "x.safetensors")


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="There is no user embedding file"):
        UserEmbedding.load(tmp_path / "gone.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        UserEmbedding.load(tmp_path / "x.safetensors")
    torch.save({"u": torch.ones(1, 3)}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        UserEmbedding.load(tmp_path / "pickle.safetensors")


def test_half_precision_files_load_as_float32(tmp_path):
    save_file({"u": torch.ones(1, 3).half()}, tmp_path / "x.safetensors", METADATA)
    assert UserEmbedding.load(tmp_path / "x.safetensors").u.dtype == torch.float32


def test_taste_encoders_on_one_tower_are_told_apart():
    sentence = "again with the user adapter's own taste encoder, another or an earlier one on pocket, or choose"
    with pytest.raises(ValueError, match=sentence):
        embedding().check_encoder("pocket", "cd" * 32)


def test_check_encoder_names_both_and_the_fix():
    embedding().check_encoder("pocket", "ab" * 32)
    with pytest.raises(ValueError) as caught:
        embedding().check_encoder("ViT-B-32", "cd" * 32)
    for part in (
        "user embedding",
        "user adapter",
        "pocket",
        "abababababab",
        "ViT-B-32",
        "cdcdcdcdcdcd",
        "encode the pairs",
    ):
        assert part in str(caught.value)


def test_null_user():
    one = embedding(covariance_factor=torch.eye(3))
    null = null_user(one)
    assert null.is_null and not one.is_null
    assert null.u.shape == one.u.shape and null.encoder_hash == one.encoder_hash
    assert null.pairs == 0 and null.covariance_factor is None


def test_uncertainty_is_the_trace():
    factor = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 0.1]])
    one = embedding(covariance_factor=factor)
    assert one.uncertainty == pytest.approx(1 + 0.25 + 4 + 0.01)
    torch.testing.assert_close(one.covariance, factor @ factor.T)


def test_blend_literal_numbers():
    a = embedding(covariance_factor=torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    b = embedding(((5.0, 2.0, 0.5),), covariance_factor=2 * torch.eye(3), pairs=2, created="2025-07-01")
    mixed = blend(a, b, 0.25)
    torch.testing.assert_close(mixed.u, torch.tensor([[2.0, -1.0, 0.5]]))
    torch.testing.assert_close(
        mixed.covariance, torch.diag(torch.tensor([0.5625 + 0.25, 2.25 + 0.25, 5.0625 + 0.25])), rtol=1e-5, atol=1e-6
    )
    assert mixed.covariance_factor.shape[1] <= 3
    assert mixed.pairs == 6 and mixed.created == "2025-07-01"


def test_blend_ends_are_the_people_bit_for_bit():
    a, b = embedding(((0.1, 0.7, -0.3),)), embedding(((5.3, 2.0, 0.5),))
    assert torch.equal(blend(a, b, 0.0).u, a.u) and torch.equal(blend(a, b, 1.0).u, b.u)
    assert blend(a, b, 0.5).covariance_factor is None


def test_blend_refuses():
    one = embedding()
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0"):
            blend(one, one, weight)
    with pytest.raises(ValueError, match="does not fit"):
        blend(one, replace(one, encoder_hash="cd" * 32), 0.5)
    with pytest.raises(ValueError, match="one shape"):
        blend(one, embedding(((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))), 0.5)


def test_covariance_factor_of_low_rank():
    low = torch.tensor([[1.0], [2.0], [-1.0]])
    factor = covariance_factor(low @ low.T)
    assert factor.shape == (3, 1)
    torch.testing.assert_close((factor @ factor.T).float(), low @ low.T)
    assert covariance_factor(torch.zeros(3, 3)).abs().max() == 0
