"""Contract 7 for low-rank adapters and IP-Adapters: the same u, the same picture, in diffusers and in ComfyUI."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ppd.hosts.diffusers import DiffusersHost, guidance_rows, linear_sites
from ppd.hosts.diffusers_denoisers import flow_sigma, rising_flow, schedule_of

from .tiny_models import conditioning, latent, sample
from .twin_models import SHIFTS, TWINS, comfy_twin, drawn, sigmas_of, twin, velocity

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import linear_sites as comfy_sites

    from .test_comfyui_low_rank import adapter_for, person

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=list(TWINS))
def pair(request):
    """A name, its denoiser in diffusers, and the same as ComfyUI's MODEL."""
    denoiser = twin(request.param)
    return request.param, denoiser, comfy_twin(request.param, denoiser)


@torch.no_grad()
def euler(name, denoiser, rows, *, steps=4, cfg=4.0):
    """What a KSampler with euler makes of an empty latent, by diffusers' denoiser: guided, unconditional rows first."""
    start = latent(name, rows)
    x = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).reshape(rows, 16, 8, 8)
    prompts = [conditioning(name, seed=seed)[0] for seed in (1, 0)]
    text = torch.cat([states.expand(rows, -1, -1) for states, _ in prompts])
    pooled = torch.cat([extra.get("pooled_output", states[:, 0]).expand(rows, -1) for states, extra in prompts])
    sigmas = sigmas_of(steps, SHIFTS[name])
    for now, after in zip(sigmas, sigmas[1:], strict=False):
        v = velocity(name, denoiser, torch.cat([x, x]), torch.full((2 * rows,), now), text, pooled)
        negative, positive = v.chunk(2)
        x = x + (after - now) * (negative + cfg * (positive - negative))
    return x


def in_comfyui(name, model, rows, steps=4):
    found = sample(model, conditioning(name), conditioning(name, seed=1), latent(name, rows), steps=steps)
    return model.model.process_latent_in(found).reshape(rows, 16, 8, 8)


def test_sites_are_comfyuis(pair):
    _, denoiser, model = pair
    assert tuple(linear_sites(denoiser)) == tuple(comfy_sites(model.model.diffusion_model))


def test_percents_are_comfyuis(pair):
    name, denoiser, model = pair
    for percent in (0.0, 0.2, 0.5, 0.9, 1.0):
        sigma = model.model.model_sampling.percent_to_sigma(percent)
        assert schedule_of(denoiser)(percent) == pytest.approx(1 - sigma if name == "z_image" else sigma, abs=1e-6)


def test_the_base_is_the_same(pair):
    name, denoiser, model = pair
    torch.testing.assert_close(euler(name, denoiser, 1), in_comfyui(name, model, 1), **CLOSE)


@pytest.mark.parametrize("rule", ["none", "same", "negative"])
def test_the_same_person_is_the_same_picture(pair, rule):
    """Guided, two rows of which one is nobody's, in a part of the schedule whose end is a step's own sigma."""
    name, denoiser, model = pair
    adapter = adapter_for(model, unconditional=rule, start_percent=0.25, end_percent=0.75)
    people = [person(), person(scale=0)]
    plain = euler(name, denoiser, 2)
    u = torch.stack([someone.u for someone in people])
    with DiffusersHost(denoiser, adapter).personalized(guidance_rows(u, rule), 0.8):
        ours = euler(name, denoiser, 2)
    theirs = in_comfyui(name, apply_user(model, manage_adapter(adapter), people, 0.8), 2)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert (ours - plain)[0].abs().max() > 0.1
    assert torch.equal(ours[1], plain[1])


def test_a_shift_of_ones_own_is_told_to_the_host(pair):
    """ComfyUI's model is told by a node (ModelSamplingFlux, ModelSamplingAuraFlow), the host by `timestep_at`."""
    name, denoiser, model = pair
    adapter = adapter_for(model, end_percent=0.5)
    shifted = partial(rising_flow if name == "z_image" else flow_sigma, shift=9.0)
    u = person().u[None]
    found = []
    for host in (DiffusersHost(denoiser, adapter), DiffusersHost(denoiser, adapter, shifted)):
        with torch.no_grad(), host.personalized(u):
            found.append([velocity(name, denoiser, *drawn(name, 1, sigma=sigma)) for sigma in (0.85, 0.91)])
    plain = [velocity(name, denoiser, *drawn(name, 1, sigma=sigma)) for sigma in (0.85, 0.91)]
    assert [torch.equal(*both) for both in zip(found[0], plain, strict=True)] == [False, False]  # .76 or .75 is half
    assert [torch.equal(*both) for both in zip(found[1], plain, strict=True)] == [True, False]  # .9 is
