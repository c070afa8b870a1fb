"""Taste codes: there and back, and a sentence for what is no code of ours."""

from __future__ import annotations

import base64
import random

import pytest
import torch
from torch.nn import functional as F

from ppd.privacy import Guarantee
from ppd.taste_code import _HEAD, PREFIX, _check, decode, encode
from ppd.user_embedding import UserEmbedding, null_user

HASH = "0123456789abcdef" * 4
KNOWN = [("other", "f" * 64), ("tower", HASH)]


def an_embedding(u, pairs=16):
    return UserEmbedding(u, "tower", HASH, pairs, "2026-11-27")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (1, 48), (3, 32)])
def test_there_and_back(shape, scale):
    """At 8 bits a value is off by half a step of the largest value's 127th, and the direction by next to nothing."""
    embedding = an_embedding(scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    found = decode(encode(embedding), KNOWN)
    assert (found.encoder, found.encoder_hash, found.pairs, found.created) == ("tower", HASH, 16, "2026-11-27")
    assert float((found.u - embedding.u).abs().max()) <= float(embedding.u.abs().max()) / 127 / 2 * 1.001
    assert float(F.cosine_similarity(found.u.flatten(), embedding.u.flatten(), dim=0)) > 0.9995
    assert encode(found) == encode(embedding)


def test_its_length_and_letters():
    code = encode(an_embedding(torch.randn(1, 32, generator=torch.Generator().manual_seed(0))))
    assert code.startswith(PREFIX) and len(code) == 76
    assert all(letter.isalnum() or letter in "-_" for letter in code.removeprefix(PREFIX))


def test_nobody_and_many_picks():
    nobody = decode(encode(null_user(an_embedding(torch.ones(1, 6)))), KNOWN)
    assert nobody.is_null and nobody.pairs == 0
    assert decode(encode(an_embedding(torch.ones(1, 6), pairs=100_000)), KNOWN).pairs == 65535


def test_lines_and_spaces_of_a_message_do_no_harm():
    embedding = an_embedding(torch.tensor([[1.0, -2.0, 0.5]]))
    code = encode(embedding)
    broken = f"  {code[:20]}\n{code[20:33]} {code[33:]}\r\n"
    assert torch.equal(decode(broken, KNOWN).u, decode(code, KNOWN).u)


def test_any_letter_changed_or_missing_is_told():
    code = encode(an_embedding(torch.tensor([[1.0, -2.0, 0.5, 4.0]])))
    for place in range(len(PREFIX), len(code)):
        other = "A" if code[place] != "A" else "B"
        for wrong in (code[:place], code[:place] + code[place + 1 :], code[:place] + "*" + code[place + 1 :]):
            with pytest.raises(ValueError, match="damaged or cut short: copy the whole of it again"):
                decode(wrong, KNOWN)
        changed = code[:place] + other + code[place + 1 :]
        if place < len(code) - 1:  # of the last letter some bits say nothing
            with pytest.raises(ValueError, match="damaged or cut short"):
                decode(changed, KNOWN)
    with pytest.raises(ValueError, match="damaged or cut short"):
        decode(PREFIX, KNOWN)


def test_what_is_no_code_and_another_version_and_another_encoder():
    with pytest.raises(ValueError, match="begins with ppd1:, got 'hello'"):
        decode("hello", KNOWN)
    with pytest.raises(ValueError, match="another version: update this software"):
        decode("ppd3:abc", KNOWN)
    code = encode(an_embedding(torch.ones(1, 6)))
    with pytest.raises(ValueError, match=r"encoder 0123456789abcdef, and here are other \(ffffffffffffffff\): ask for"):
        decode(code, KNOWN[:1])


def a_code(count, most, body, prefix=HASH[:16]):
    """A code whose checksum is right."""
    data = _HEAD.pack(bytes.fromhex(prefix), 16, 20_000, count, most) + body
    return PREFIX + base64.urlsafe_b64encode(data + _check(PREFIX, data)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("count", "most", "body", "words"),
    [
        (0, 1.0, b"\1\2", "damaged or cut short"),
        (3, 1.0, b"\1\2", "damaged or cut short"),
        (1, -1.0, b"\1\2", "damaged or cut short"),
        (1, float("nan"), b"\1\2", "damaged or cut short"),
        (1, float("inf"), b"\1\2", "not finite"),
        (1, 3e38, b"\1\2", r"length of at most 1e\+06, got 5.28\d*e\+36"),
    ],
)
def test_what_nobody_wrote_is_told_though_its_checksum_is_right(count, most, body, words):
    assert decode(a_code(1, 127.0, b"\1\2"), KNOWN).u.tolist() == [[1.0, 2.0]]
    with pytest.raises(ValueError, match=words):
        decode(a_code(count, most, body), KNOWN)


@pytest.mark.parametrize(
    ("created", "kept"), [("1960-01-01", "1970-01-01"), ("2500-01-01", "2149-06-06"), ("2026-11-27", "2026-11-27")]
)
def test_a_day_of_a_wrong_clock_is_the_nearest_that_a_code_has(created, kept):
    code = encode(UserEmbedding(torch.ones(1, 3), "tower", HASH, 4, created))
    assert decode(code, KNOWN).created == kept


def test_mutations_of_a_code_are_refused_in_our_words():
    draw = random.Random(0)
    code = encode(an_embedding(torch.randn(1, 8, generator=torch.Generator().manual_seed(0))))
    refused = 0
    for _ in range(400):
        data = bytearray(
            base64.urlsafe_b64decode(code.removeprefix(PREFIX) + "=" * (-len(code.removeprefix(PREFIX)) % 4))
        )
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(8, len(data))] = draw.randrange(256)  # behind the hash
        body = bytes(data[: draw.choice([-4, -4, -5, -9])])
        wrong = PREFIX + base64.urlsafe_b64encode(body + _check(PREFIX, body)).decode()
        if draw.random() < 0.3:
            place = draw.randrange(len(wrong))
            wrong = wrong[:place] + draw.choice("é*\0 =_狐") + wrong[place + 1 :]
        try:
            decode(wrong, KNOWN)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(
                ("The taste code is damaged", "Expected a", "Expected the", "The user embedding's")
            )
    assert refused > 100


@pytest.mark.parametrize(("epsilon", "delta"), [(4.0, 1e-5), (0.1, 1e-9)])
def test_a_private_code_says_so(epsilon, delta):
    embedding = UserEmbedding(torch.randn(1, 32), "tower", HASH, 16, "2026-11-27", guarantee=Guarantee(epsilon, delta))
    code = encode(embedding)
    assert code.startswith("ppd2:") and len(code) < 100
    assert decode(code, KNOWN).guarantee == Guarantee(epsilon, delta)
    for claimed in (
        PREFIX + code.removeprefix("ppd2:"),
        "ppd2:" + encode(an_embedding(embedding.u)).removeprefix(PREFIX),
    ):
        with pytest.raises(ValueError, match="damaged or cut short"):
            decode(claimed, KNOWN)
