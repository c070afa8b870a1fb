"""Taste codes: there and back, and a sentence for what is no code of ours."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ppd.taste_code import PREFIX, decode, encode
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
        decode("ppd2:abc", KNOWN)
    code = encode(an_embedding(torch.ones(1, 6)))
    with pytest.raises(ValueError, match=r"encoder 0123456789abcdef, and here are other \(ffffffffffffffff\): ask for"):
        decode(code, KNOWN[:1])
