"""A taste as a LoRA file: what is in it, what is not, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig, Site
from ppd.lora import differences, lora_of, write_lora
from ppd.user_embedding import UserEmbedding, null_user

SITES = (Site("blocks.0.qkv", 0, 5, 6), Site("blocks.1.qkv", 1, 5, 4))
COMMON: dict[str, Any] = {"family": "krea2", "encoder": "test", "encoder_hash": "0" * 64, "embedding_dim": 3}
PERSON = UserEmbedding(torch.tensor([[1.0, -2.0, 0.5]]), "test", "0" * 64, 7, "2026-11-27T00:00:00+00:00")


def adapter(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LowRankAdapter(LowRankConfig(**COMMON, sites=SITES, rank=2, **changes))
        for site in made.parts():
            torch.nn.init.normal_(site.up)
    return made.requires_grad_(False)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_it_is_the_adapters_change_for_the_person_in_keys_that_every_loader_knows(tmp_path, dtype, near):
    made = adapter()
    write_lora(tmp_path / "taste.safetensors", lora_of(made, PERSON, 0.5), "krea2", dtype)
    with safe_open(tmp_path / "taste.safetensors", "pt") as file:
        assert file.metadata() == {"format": "ppd-lora", "version": "1", "family": "krea2"}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert set(tensors) == {f"diffusion_model.{site.name}.lora_{end}.weight" for site in SITES for end in "AB"}
    assert all(tensor.dtype == dtype for tensor in tensors.values())
    w = 0.5 * (made.directions @ PERSON.u[0])
    for site, part in zip(SITES, made.parts(), strict=True):
        down, up = (tensors[f"diffusion_model.{site.name}.lora_{end}.weight"].float() for end in "AB")
        torch.testing.assert_close(up @ down, part.up @ torch.diag(w) @ part.down, rtol=near, atol=near)
    assert [path.name for path in tmp_path.iterdir()] == ["taste.safetensors"]


def test_the_strongest_and_the_opposite():
    made = adapter()
    made.max_strength = 2.0
    strong, stronger = (lora_of(made, PERSON, strength) for strength in (2.0, 9.0))
    assert all(torch.equal(strong[key], stronger[key]) for key in strong)
    key = "diffusion_model.blocks.0.qkv.lora_B.weight"
    assert torch.equal(lora_of(made, replace(PERSON, u=-PERSON.u))[key], -lora_of(made, PERSON)[key])


@pytest.mark.parametrize(
    ("person", "strength", "said"),
    [
        (PERSON, 0.0, "would change nothing .strength is 0."),
        (null_user(PERSON), 1.0, "would change nothing .the null user paints as the base."),
        (replace(PERSON, encoder_hash="1" * 64), 1.0, "encoder"),
    ],
)
def test_it_refuses_what_changes_nothing_and_whom_the_adapter_cannot_read(person, strength, said):
    with pytest.raises(ValueError, match=said):
        lora_of(adapter(), person, strength)


def test_it_refuses_what_no_lora_can_hold(tmp_path):
    attention = CrossAttentionAdapter(CrossAttentionConfig(**COMMON | {"family": "sd15"}, layers=(8,) * 16))
    with pytest.raises(ValueError, match="Expected a low-rank user adapter, got one that acts in cross-attention"):
        lora_of(attention, PERSON)
    huge = adapter().scaled(1e6)
    with pytest.raises(ValueError, match="numbers reach .*, expected at most 65504: lower the strength"):
        write_lora(tmp_path / "big.safetensors", lora_of(huge, PERSON), "krea2")
    assert not list(tmp_path.iterdir())


def test_it_says_where_the_adapter_itself_acts_otherwise():
    assert differences(adapter(unconditional="same")) == []
    windowed = differences(adapter(unconditional="same", start_percent=0.1, end_percent=0.5))
    assert windowed == ["It acts in the whole noise schedule, the adapter from 10% to 50% of it."]
    (none,), (negative,) = (differences(adapter(unconditional=rule)) for rule in ("none", "negative"))
    assert none.startswith("It acts on negative prompts too, which the adapter leaves alone")
    assert "the opposite taste" in negative and none.endswith("the weaker one.")
