import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, UserAdapter
from ppd.adapters.attention import user_attention
from ppd.user_embedding import UserEmbedding

HASH = "0123456789abcdef" * 4


def config(**changes):
    values = {"family": "pocket", "encoder": "pocket-clip", "encoder_hash": HASH, "embedding_dim": 6, "layers": (8, 16)}
    return CrossAttentionConfig(**{**values, "tokens": 3, "token_dim": 5, "hidden": 7, **changes})


def trained(**changes):
    """An adapter whose values are not zero any more."""
    torch.manual_seed(0)
    adapter = CrossAttentionAdapter(config(**changes))
    for layer in adapter.layers:
        torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"))
    return adapter


def embedding(**changes):
    values = {
        "u": torch.ones(1, 6),
        "encoder": "pocket-clip",
        "encoder_hash": HASH,
        "pairs": 4,
        "created": "2026-01-31",
    }
    return UserEmbedding(**{**values, **changes})


def message(error):
    """The error's text, which must be one sentence."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
    return text


def rewrite(path, tensors=None, **metadata):
    """Change a file's metadata, and add or replace tensors."""
    with safe_open(path, framework="pt") as file:
        texts = {**file.metadata(), **metadata}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {name: text for name, text in texts.items() if text is not None}
    save_file({**found, **(tensors or {})}, path, metadata=kept)


def test_shapes():
    adapter = CrossAttentionAdapter(config())
    u = torch.randn(4, 2, 6)
    assert adapter.user_tokens(u).shape == (4, 2 * 3, 5)
    shapes = [(k.shape, v.shape) for k, v in adapter.keys_values(u)]
    assert shapes == [((4, 6, 8), (4, 6, 8)), ((4, 6, 16), (4, 6, 16))]


def test_literal_tokens_keys_and_values():
    adapter = CrossAttentionAdapter(config(embedding_dim=1, layers=(2,), tokens=2, token_dim=1, hidden=1))
    weights = {
        "projector.0.weight": [[2.0]],
        "projector.2.weight": [[1.0], [-1.0]],
        "layers.0.to_k_user.weight": [[1.0], [3.0]],
        "layers.0.to_v_user.weight": [[0.5], [0.0]],
    }
    adapter.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    silu = 0.7310586  # SiLU(2 * .5) = sigmoid(1)
    ((k, v),) = adapter.keys_values(torch.tensor([[[0.5]]]))
    torch.testing.assert_close(k, silu * torch.tensor([[[1.0, 3.0], [-1.0, -3.0]]]))
    torch.testing.assert_close(v, silu * torch.tensor([[[0.5, 0.0], [-0.5, 0.0]]]))


def test_every_user_vector_makes_its_own_tokens():
    adapter = trained()
    u = torch.randn(1, 2, 6)
    expected = torch.cat([adapter.user_tokens(u[:, :1]), adapter.user_tokens(u[:, 1:])], dim=1)
    torch.testing.assert_close(adapter.user_tokens(u), expected)


def test_starts_at_the_base_with_tokens_of_unit_size():
    torch.manual_seed(0)
    adapter = CrossAttentionAdapter(config(embedding_dim=48, layers=(96, 288), tokens=4, token_dim=64, hidden=128))
    u = torch.nn.functional.normalize(torch.randn(64, 1, 48), dim=-1)
    assert 0.7 < adapter.user_tokens(u).square().mean().sqrt() < 1.4
    for k, v in adapter.keys_values(u):
        assert 0.7 < k.square().mean().sqrt() < 1.4
        assert not v.any()


def gradients(adapter):
    q, target = torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    k, v = adapter.keys_values(torch.randn(2, 1, 6))[0]
    (user_attention(q, k, v, 2) - target).square().mean().backward()
    return {
        name: parameter.grad for name, parameter in adapter.named_parameters() if name.startswith(("proj", "layers.0"))
    }


def test_zero_values_still_learn():
    torch.manual_seed(0)
    found = gradients(CrossAttentionAdapter(config()))
    assert found["layers.0.to_v_user.weight"].abs().max() > 1e-4
    assert not found["projector.0.weight"].any()  # they follow once the values have left zero


def test_projector_and_values_both_zero_would_never_learn():
    adapter = CrossAttentionAdapter(config())
    torch.nn.init.zeros_(adapter.projector.get_parameter("2.weight"))
    assert not any(gradient.any() for gradient in gradients(adapter).values())


def test_null_user_has_values_of_exactly_zero():
    for _, v in trained().keys_values(torch.zeros(2, 1, 6)):
        assert torch.equal(v, torch.zeros_like(v))


def test_effect_vanishes_continuously_towards_the_null_user():
    adapter, u, q = trained(), torch.randn(1, 1, 6), torch.randn(1, 9, 8)
    effects = []
    for length in (1e-1, 1e-2, 1e-3, 1e-4):
        k, v = adapter.keys_values(length * u)[0]
        effects.append(user_attention(q, k, v, 2).abs().max().item())
    ratios = [small / large for large, small in zip(effects, effects[1:], strict=False)]
    assert ratios == pytest.approx([0.1, 0.1, 0.1], rel=0.3)  # linear in |u| near 0
    assert ratios[-1] == pytest.approx(0.1, rel=1e-2)


def test_scaled_multiplies_the_values_of_a_copy():
    adapter, u = trained(), torch.randn(1, 1, 6)
    before = [(k.clone(), v.clone()) for k, v in adapter.keys_values(u)]
    for (k, v), (k_half, v_half) in zip(before, adapter.scaled(0.5).keys_values(u), strict=True):
        torch.testing.assert_close(k_half, k)
        torch.testing.assert_close(v_half, v * 0.5)
    for (_, v), (_, v_after) in zip(before, adapter.keys_values(u), strict=True):
        assert torch.equal(v, v_after)


def test_timesteps_of_the_active_range():
    assert config().timesteps == (0.0, 999.0)
    low, high = config(start_percent=0.1, end_percent=0.5).timesteps
    assert (low, high) == (pytest.approx(499.5), pytest.approx(899.1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_percent": 0.6, "end_percent": 0.5}, "start_percent must be below end_percent"),
        ({"end_percent": 1.5}, "from 0 to 1 as end_percent"),
        ({"unconditional": "other"}, "none, same"),
    ],
)
def test_config_refuses_nonsense(changes, words):
    with pytest.raises(ValueError) as error:
        config(**changes)
    assert words in message(error)


def test_file_round_trip(tmp_path):
    summary = {"steps": 300, "beta": 500.0}
    adapter = trained(start_percent=0.1, end_percent=0.5, unconditional="same", training=summary)
    adapter.save(tmp_path / "a.safetensors")
    loaded = UserAdapter.load(tmp_path / "a.safetensors", family="pocket")
    assert loaded.config == adapter.config
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_file_layout(tmp_path):
    trained().save(tmp_path / "a.safetensors", dtype=torch.float16)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
        assert file.get_tensor("layers.0.to_k_user.weight").dtype == torch.float16
    layers = {f"layers.{i}.{name}.weight" for i in range(2) for name in ("to_k_user", "to_v_user")}
    assert names == layers | {"projector.0.weight", "projector.2.weight"}
    assert (metadata["format"], metadata["version"], metadata["family"]) == ("ppd-user-adapter", "1", "pocket")
    assert json.loads(metadata["layers"]) == [8, 16]
    assert (
        UserAdapter.load(tmp_path / "a.safetensors").get_parameter("layers.0.to_k_user.weight").dtype == torch.float32
    )


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": "ppd-user-embedding"}, ["a.safetensors", "ppd-user-adapter", "ppd-user-embedding"]),
        ({"format": None}, ["a.safetensors", "ppd-user-adapter"]),
        ({"version": "7"}, ["a.safetensors", "'7'", "'1'"]),
        ({"encoder": None}, ["a.safetensors", "encoder"]),
        ({"tokens": "three"}, ["a.safetensors", "damaged"]),
        ({"layers": "8"}, ["a.safetensors", "damaged"]),
        ({"start_percent": "2"}, ["a.safetensors", "damaged", "start_percent"]),
        ({"tokens": "4"}, ["a.safetensors", "projector.2.weight", "[20, 7]", "[15, 7]"]),
        ({"layers": "[8, 24]"}, ["a.safetensors", "layers.1", "[24, 5]", "[16, 5]"]),
        ({"layers": "[8]"}, ["a.safetensors", "layers.1", "expected None"]),
    ],
    ids=str,
)
def test_load_refuses_metadata_that_does_not_fit(tmp_path, metadata, words):
    path = tmp_path / "a.safetensors"
    trained().save(path)
    rewrite(path, **metadata)
    with pytest.raises(ValueError) as error:
        UserAdapter.load(path)
    assert all(word in message(error) for word in words)


def test_load_refuses_surplus_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    trained().save(path)
    rewrite(path, tensors={"layers.2.to_k_user.weight": torch.zeros(8, 5)})
    with pytest.raises(ValueError, match=r"layers\.2\.to_k_user\.weight"):
        UserAdapter.load(path)


def test_load_refuses_another_family(tmp_path):
    trained().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError) as error:
        UserAdapter.load(tmp_path / "a.safetensors", family="sdxl")
    assert "'pocket'" in message(error) and "'sdxl'" in message(error)


def test_load_refuses_what_is_not_safetensors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        UserAdapter.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="missing.safetensors"):
        UserAdapter.load(tmp_path / "missing.safetensors")


def test_check_embedding():
    adapter = trained()
    adapter.config.check_embedding(embedding())
    with pytest.raises(ValueError) as error:
        adapter.config.check_embedding(embedding(encoder="ViT-H-14", encoder_hash="f" * 64))
    assert all(word in message(error) for word in ("user embedding", "user adapter", "ViT-H-14", "pocket-clip"))
    with pytest.raises(ValueError) as error:
        adapter.config.check_embedding(embedding(u=torch.ones(1, 4)))
    assert "4 dimensions" in message(error) and "takes 6" in message(error)


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 6), (6,)])
def test_user_tokens_refuses_other_shapes(shape):
    with pytest.raises(ValueError) as error:
        trained().user_tokens(torch.zeros(shape))
    assert str(list(shape)) in message(error) and "[B, N, 6]" in message(error)


def test_check_layers():
    adapter = trained()
    adapter.config.check_layers([8, 16])
    for widths in ([16, 8], [8], []):
        with pytest.raises(ValueError) as error:
            adapter.config.check_layers(widths)
        assert "'pocket'" in message(error) and "8, 16" in message(error)
