"""diffusers' denoisers as training sees them: the targets, predictions and gradients of ComfyUI's."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DDPMWuerstchenScheduler, FlowMatchEulerDiscreteScheduler

from ppd.hosts.diffusers_training import DiffusersDenoiser

from . import test_comfyui_stable_cascade
from .small_models import CONTEXT, comfy_model, denoiser, draw
from .tiny_models import WIDTH
from .twin_models import TWINS, comfy_twin, twin

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from ppd.hosts.comfyui_training import ComfyUIDenoiser

    from .test_comfyui_low_rank import adapter_for, person

stage_c = test_comfyui_stable_cascade.unet
RNG = np.random.default_rng
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
POOLED = {"sdxl": 1280, "flux1": 32, "stable_cascade": test_comfyui_stable_cascade.CONTEXT}
WIDTHS = {"sdxl": CONTEXT, "sd15": CONTEXT, "stable_cascade": test_comfyui_stable_cascade.CONTEXT}


def states(name, prompt):
    """Text states and pooled ones of a prompt."""
    return draw(1, 7, WIDTHS.get(name, WIDTH), seed=len(prompt)), draw(1, POOLED.get(name, 8), seed=len(prompt))


def read(name, prompts):
    """What diffusers' denoiser is given."""
    text, pooled = (torch.cat(both) for both in zip(*(states(name, prompt) for prompt in prompts), strict=True))
    return {
        "sd15": {"encoder_hidden_states": text},
        "sdxl": {
            "encoder_hidden_states": text,
            "text_embeds": pooled,
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(len(text), -1),
        },
        "stable_cascade": {"clip_text": text, "clip_text_pooled": pooled[:, None]},
        "flux1": {"encoder_hidden_states": text, "pooled_projections": pooled},
        "qwen_image": {"encoder_hidden_states": text},
        "z_image": {"cap_feats": text},
    }[name]


@pytest.fixture(params=["sd15", "sd15 v", "sdxl", "stable_cascade", *TWINS])
def both(request):
    """The same denoiser in diffusers and in ComfyUI."""
    name, _, kind = request.param.partition(" ")
    prediction = "v_prediction" if kind else "epsilon"
    if name in TWINS:
        network, scheduler = twin(name), FlowMatchEulerDiscreteScheduler()
        model, shape = comfy_twin(name, network), (16, 8, 8)
    elif name == "stable_cascade":
        network, scheduler = request.getfixturevalue("stage_c"), DDPMWuerstchenScheduler()
        model, shape = test_comfyui_stable_cascade.comfy_model(network), (16, 8, 6)
    else:
        network, scheduler = denoiser(name), DDPMScheduler(**SCHEDULE, prediction_type=prediction)
        model, shape = comfy_model(name, network), (4, 16, 16)
        model = ModelSamplingDiscrete().patch(model, prediction if kind else "eps", False)[0]
    scale, shift = _numbers(model, shape)
    ours = DiffusersDenoiser(network, scheduler, lambda prompts: read(name, prompts), scale=scale, shift=shift)
    frames = (shape[0], 1, *shape[1:]) if name == "qwen_image" else shape

    def conditioning(prompt):
        text, pooled = states(name, prompt)
        return [[text, {"pooled_output": pooled}]]

    return ours, ComfyUIDenoiser(model, conditioning, frames)


def _numbers(model, shape):
    """The VAE's own, as diffusers' pipelines have them: process_in is affine in each channel."""
    frames = (1, shape[0], 1, 1, 1) if model.model.latent_format.latent_dimensions == 3 else (1, shape[0], 1, 1)
    zero, one = (model.model.process_latent_in(value(frames)).reshape(-1, 1, 1) for value in (torch.zeros, torch.ones))
    return one - zero, -zero / (one - zero)


def sigma_of(ours, theirs, t):
    """ComfyUI's, where the denoiser is told t."""
    if ours.name == "StableCascadeUNet":
        return torch.tensor([test_comfyui_stable_cascade.sigma_of(ratio) for ratio in t.tolist()])
    if ours.is_flow:
        return 1 - t if ours.name == "ZImageTransformer2DModel" else t
    return theirs.base.model_sampling.sigma(t)


def test_all_is_as_in_comfyui(both):
    ours, theirs = both
    frames = (2, *theirs.shape)
    x0, noise = (draw(2, theirs.shape[0], *theirs.shape[-2:], seed=seed) for seed in (1, 2))
    adapter = adapter_for(theirs.model).requires_grad_(True)
    u = torch.stack([person(0).u, person(1).u])
    t = ours.draw_timesteps(np.random.default_rng(0), 2, 0.8)
    sigma = sigma_of(ours, theirs, t)
    found = []
    for which, time, shape in ((ours, t, x0.shape), (theirs, sigma, frames)):
        given = x0.reshape(shape), noise.reshape(shape), time
        context = which.text(["one", "other", "one"])[np.array([2, 1])]
        adapter.zero_grad()
        with which.plain_attention(), which.host(adapter).personalized(u):
            predicted = which.predict(which.noised(*given), time, context)
            predicted.square().mean().backward()
        gradients = torch.cat([site.up.grad.flatten() for site in adapter.parts() if site.up.grad is not None])
        found.append((which.noised(*given), which.target(*given), predicted.detach(), gradients))
    if not ours.is_flow:  # ComfyUI's latents keep their size, diffusers' their variance
        found[1] = (found[1][0] / (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt(), *found[1][1:])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other.reshape(mine.shape), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["sd15", "qwen_image"])
def test_gradient_checkpointing_changes_no_gradient_and_keeps_less(name):
    """With another call for other people between, as the contrast has it, and backward after both."""
    network = twin(name) if name in TWINS else denoiser(name)
    scheduler = FlowMatchEulerDiscreteScheduler() if name in TWINS else DDPMScheduler(**SCHEDULE)
    adapter = adapter_for(comfy_twin(name, network) if name in TWINS else comfy_model(name, network))
    u, found = torch.stack([person(0).u, person(1).u]), []
    for checkpointing in (False, True):
        ours = DiffusersDenoiser(network, scheduler, lambda prompts: read(name, prompts), checkpointing=checkpointing)
        x, t = draw(2, *((16, 8, 8) if name in TWINS else (4, 16, 16)), seed=1), ours.draw_timesteps(RNG(0), 2, 0.8)
        host, context = ours.host(adapter.requires_grad_(True)), ours.text(["one", "other"])[np.array([0, 1])]
        measuring = ours.host(adapter)  # another one, made later
        adapter.zero_grad()
        kept: list[int] = []

        def pack(x, kept=kept):
            kept.append(x.nbytes)
            return x

        with ours.plain_attention():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                with host.personalized(u):
                    loss = ours.predict(x, t, context).square().mean()
                with host.personalized(-u):
                    other = ours.predict(x, t, context).square().mean()
            (loss - 0.5 * other).backward()
        gradients = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
        found.append((loss.item(), torch.cat([one.flatten() for one in gradients]), sum(kept)))
        assert measuring.effect is None
    (whole, plain, all_kept), (again, same, few_kept) = found
    assert again == whole and plain.norm() > 0
    assert (same - plain).norm() <= 1e-5 * plain.norm()
    assert few_kept < 0.6 * all_kept
