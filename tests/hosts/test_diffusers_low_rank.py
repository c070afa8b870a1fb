"""A low-rank adapter in diffusers' host: exact zeros, rows, gradients, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig
from ppd.branch import Scope
from ppd.hosts.diffusers import DiffusersHost, linear_sites

from .twin_models import TWINS, drawn, twin, velocity

DIM, RANK = 5, 3
MADE_FOR: dict[str, Any] = {"encoder": "some-clip", "encoder_hash": "0" * 64, "embedding_dim": DIM}

UNUSED = {f"transformer_blocks.2.attn.{layer}" for layer in ("add_q_proj", "to_add_out")}
"""Nothing reads what the last block of Qwen-Image makes of the text."""


def adapter_for(denoiser, **changes):
    config = LowRankConfig(
        **{"family": "test", **MADE_FOR, "sites": tuple(linear_sites(denoiser)), "rank": RANK} | changes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter = LowRankAdapter(config)
        for site in adapter.parts():
            nn.init.normal_(site.up, std=0.2)
    return adapter


def people(rows):
    return torch.randn(rows, 1, DIM, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module", params=list(TWINS))
def named(request):
    return request.param, twin(request.param)


@torch.no_grad()
def painted(named, rows=3, sigma=0.7, part=slice(None)):
    name, denoiser = named
    return velocity(name, denoiser, *(x[part] for x in drawn(name, rows, sigma)))


def hook_count(denoiser):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in denoiser.modules())


def test_zero_is_exact_and_other_rows_are_unmoved(named):
    host, plain, hooks = DiffusersHost(named[1], adapter_for(named[1])), painted(named), hook_count(named[1])
    for u, options in (
        (torch.zeros(3, 1, DIM), {}),
        (people(3), {"strength": 0.0}),
        (people(3), {"scope": Scope("all", 0.5, 0.5)}),
        (people(3), {"scope": Scope("all", 0.0, 0.2)}),  # .7 comes later on every of these schedules
    ):
        with host.personalized(u, **options):
            assert torch.equal(painted(named), plain)
    u = people(3)
    u[1] = 0
    with pytest.raises(KeyError), host.personalized(u):
        moved = painted(named)
        raise KeyError
    assert torch.equal(moved[1], plain[1])
    assert all((moved[row] - plain[row]).abs().max() > 0.1 for row in (0, 2))
    assert hook_count(named[1]) == hooks and torch.equal(painted(named), plain)


def test_each_row_is_its_own_persons_and_one_person_is_for_all(named):
    host, u = DiffusersHost(named[1], adapter_for(named[1])), people(3)
    with host.personalized(u):
        together = painted(named)
    with host.personalized(u[1:2]):
        torch.testing.assert_close(painted(named, part=slice(1, 2)), together[1:2], rtol=1e-4, atol=1e-5)
        alike = painted(named)
    with host.personalized(u[1:2].expand(3, -1, -1)):
        assert torch.equal(painted(named), alike)


def test_it_is_an_ordinary_lora_for_one_person(named):
    """B diag(w) A, added to the weights of the layers that are a site: its rows one after the other."""
    name, denoiser = named
    adapter, u = adapter_for(denoiser), people(1)
    with DiffusersHost(denoiser, adapter).personalized(u, 0.5):
        personal = painted(named)
    merged = twin(name)
    with torch.no_grad():
        lora = adapter.lora(u, 0.5, range(adapter.config.count))
        for site, layers in linear_sites(merged).items():
            down, up = lora[site.name]
            for layer, rows in zip(layers, up.split([layer.out_features for layer in layers]), strict=True):
                layer.weight += rows @ down
    torch.testing.assert_close(personal, painted((name, merged)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight_of_the_adapter(named, checkpointing):
    """As those of a merged LoRA: from differences of the loss along each group of weights."""
    name, denoiser = named
    adapter, u = adapter_for(denoiser), people(2)
    host, inputs = DiffusersHost(denoiser, adapter), drawn(name, 2)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()

    def loss():
        return velocity(name, denoiser, *inputs).square().mean()

    try:
        with host.personalized(u):
            loss().backward()
    finally:
        denoiser.disable_gradient_checkpointing()
    gradients = {site.name: part.up.grad for site, part in zip(adapter.config.sites, adapter.parts(), strict=True)}
    unused = {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}
    assert unused == (UNUSED if name == "qwen_image" else set())
    assert all(weight.grad is None for weight in denoiser.parameters())
    first, last = adapter.parts()[0], adapter.parts()[-1]
    for weight in (adapter.directions, first.down, first.up, last.down, last.up):
        step = 1e-2 * weight.grad / weight.grad.norm()
        found = []
        with torch.no_grad(), host.personalized(u):
            for sign in (1, -2, 1):
                weight += sign * step
                found.append(loss().item())
        assert found[0] - found[1] == pytest.approx(2e-2 * weight.grad.norm().item(), rel=0.05)


def test_rows_that_are_doubled_inside_are_each_persons():
    """Qwen-Image Edit modulates by a second timestep, 0, for the pictures that it is given."""
    kind, settings = TWINS["qwen_image"]
    torch.manual_seed(0)
    denoiser = kind(**settings, zero_cond_t=True).eval().requires_grad_(False)
    assert isinstance(denoiser, QwenImageTransformer2DModel)
    host, u = DiffusersHost(denoiser, adapter_for(denoiser)), people(3)
    plain = painted(("qwen_image", denoiser))
    u[2] = 0
    with host.personalized(u):
        together = painted(("qwen_image", denoiser))
    assert torch.equal(together[2], plain[2])
    for row in (0, 1):
        with host.personalized(u[row : row + 1]):
            alone = painted(("qwen_image", denoiser), part=slice(row, row + 1))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        assert (together - plain)[row].abs().max() > 0.01


def test_half_precision_keeps_its_dtype_and_its_null_rows(named):
    name, denoiser = named
    host, u = DiffusersHost(denoiser, adapter_for(denoiser)), people(3)
    u[1] = 0
    with torch.autocast("cpu", torch.bfloat16):
        plain = painted(named)
        with host.personalized(u):
            moved = painted(named)
    assert moved.dtype == plain.dtype
    assert torch.equal(moved[1], plain[1]) and not torch.equal(moved[0], plain[0])


def test_refuses_what_it_was_not_made_for():
    flux, qwen = twin("flux1"), twin("qwen_image")
    with pytest.raises(ValueError, match=r"double_blocks.0.img_attn.qkv from 64 to 192, got transformer_blocks.0.attn"):
        DiffusersHost(qwen, adapter_for(flux))
    keys_values = CrossAttentionAdapter(CrossAttentionConfig(family="sdxl", **MADE_FOR, layers=(32,)))
    with pytest.raises(ValueError, match="FluxTransformer2DModel, which has none: load a U-Net, or a low-rank adapter"):
        DiffusersHost(flux, keys_values)


def test_never_paints_plain_silently():
    flux = twin("flux1")
    host = DiffusersHost(flux, adapter_for(flux))
    flux.fuse_qkv_projections()
    with pytest.raises(RuntimeError, match=r"Only 17 of 38 layers .* unfused"), host.personalized(people(3)):
        painted(("flux1", flux))
    with pytest.raises(ValueError, match="2 rows, but the denoiser is called with 3"), host.personalized(people(2)):
        painted(("flux1", flux))


def test_rows_that_cannot_be_told_apart_are_refused():
    qwen = twin("qwen_image")
    x, _, text, _ = drawn("qwen_image", 2)
    host = DiffusersHost(qwen, adapter_for(qwen))
    with pytest.raises(RuntimeError, match="got 1 rows for a batch of 2.*a timestep"), host.personalized(people(2)):
        velocity("qwen_image", qwen, x, torch.tensor([0.7]), text)
