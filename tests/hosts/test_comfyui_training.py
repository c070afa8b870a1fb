"""ComfyUI's denoisers as training sees them: targets, gradients, and the same picture as in sampling."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig

from . import small_models, test_comfyui_stable_cascade
from .small_models import draw
from .test_comfyui_low_rank import DIM
from .test_comfyui_low_rank import adapter_for as low_rank_for
from .test_comfyui_low_rank import person
from .tiny_models import TINY, build, conditioning

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.model_base
    import comfy.model_management
    import comfy.model_sampling
    import comfy.sampler_helpers
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import family_of, widths_of
    from ppd.hosts.comfyui_training import ComfyUIDenoiser

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
UNETS = ("sd15", "sdxl", "stable_cascade")
stage_c = test_comfyui_stable_cascade.unet


def prompts_of(name, text):
    """CONDITIONING of a prompt: its length is the prompt's, in words."""
    seed, tokens = len(text), 7 * len(text.split())
    if name in TINY:
        return conditioning(name, seed, tokens)
    width = {"stable_cascade": test_comfyui_stable_cascade.CONTEXT}.get(name, small_models.CONTEXT)
    pooled = draw(1, {"sdxl": 1280}.get(name, width), seed=seed)
    return [[draw(1, tokens, width, seed=seed), {"pooled_output": pooled}]]


class Small:
    """A MODEL, and the denoiser that training makes of it."""

    def __init__(self, name, model, shape, **options):
        self.name, self.model, self.shape = name, model, shape
        self.denoiser = ComfyUIDenoiser(model, lambda text: prompts_of(name, text), shape, **options)

    def batch(self, n=2, percent=0.4):
        """x, sigma and context for n pictures, of which each has a prompt of its own and of one length."""
        x0, noise = draw(n, *self.shape, seed=1), draw(n, *self.shape, seed=2)
        sampling = self.model.get_model_object("model_sampling")
        sigma = torch.full((n,), float(sampling.percent_to_sigma(percent)))
        texts = self.denoiser.text(["a" * (i + 1) for i in range(n)])
        return self.denoiser.noised(x0, noise, sigma), sigma, texts[np.arange(n)]


def small(name, request, **options):
    if name in TINY:
        return Small(name, build(name), TINY[name].latent, **options)
    if name == "stable_cascade":
        model = test_comfyui_stable_cascade.comfy_model(request.getfixturevalue("stage_c"))
        return Small(name, model, (16, 8, 6), **options)
    return Small(name, small_models.comfy_model(name, small_models.denoiser(name)), (4, 16, 16), **options)


def attention_adapter(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = CrossAttentionConfig(
            family=family_of(model), encoder="test", encoder_hash="0" * 64, embedding_dim=DIM, layers=widths_of(model)
        )
        adapter = CrossAttentionAdapter(config)
        for layer in adapter.layers:
            torch.nn.init.normal_(layer.to_v_user.weight, std=0.3)
    return adapter


@torch.inference_mode()
def painted(tiny, model, x, sigma):
    """What a call within a sampling run gives for x: the denoised latents."""
    found = []

    def probe(model_k, start, sigmas, extra_args, callback, disable):
        guider = model_k.inner_model
        given = [[guider.conds["positive"][i]] for i in range(len(x))]
        for row, conds in enumerate(given):
            options = extra_args["model_options"]
            out = comfy.samplers.calc_cond_batch(guider.inner_model, [conds], x.clone(), sigma, options)[0]
            found.append(out[row])
        return start

    guider = comfy.samplers.CFGGuider(model)
    texts = [prompts_of(tiny.name, "a" * (i + 1))[0] for i in range(len(x))]
    guider.set_conds(texts, texts)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), comfy.samplers.KSAMPLER(probe), sigma, seed=0)
    return torch.stack(found)


CASES = [*((name, "low_rank") for name in (*TINY, "sd15", "stable_cascade")), *((name, "attention") for name in UNETS)]


def adapter_for(kind, model):
    adapter = low_rank_for(model) if kind == "low_rank" else attention_adapter(model)
    return adapter.requires_grad_(True)


def loss_and_gradients(tiny, adapter, u, others=None, **options):
    """Of a batch's predictions for u, those for `others` lying between."""
    denoiser = Small(tiny.name, tiny.model, tiny.shape, **options).denoiser
    host, (x, sigma, context) = denoiser.host(adapter), tiny.batch()
    adapter.zero_grad()
    with denoiser.plain_attention():
        with host.personalized(u):
            loss = denoiser.predict(x, sigma, context).square().mean()
        if others is not None:
            with host.personalized(others):
                denoiser.predict(x, sigma, context)
        if torch.is_grad_enabled():
            loss.backward()
    found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in adapter.parameters()]
    return loss.item(), [gradient.clone() for gradient in found]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_same_picture_as_in_sampling_and_gradients(name, kind, request):
    tiny = small(name, request)
    adapter, people = adapter_for(kind, tiny.model), [person(0), person(1)]
    (x, sigma, context), denoiser = tiny.batch(), tiny.denoiser
    host, u = denoiser.host(adapter), torch.stack([someone.u for someone in people])
    with denoiser.plain_attention():
        base = denoiser.predict(x, sigma, context)
        with host.personalized(u):
            ours = denoiser.predict(x, sigma, context)
        with host.personalized(torch.cat([u[:1], 0 * u[:1]])):
            half = denoiser.predict(x, sigma, context)
        with host.personalized(0 * u):
            assert torch.equal(denoiser.predict(x, sigma, context), base)
    assert ours.requires_grad and not base.requires_grad
    torch.testing.assert_close(half, torch.cat([ours[:1], base[1:]]), **CLOSE)
    assert not torch.allclose(ours, base, rtol=1e-2, atol=1e-2)
    managed = manage_adapter(adapter_for(kind, tiny.model).requires_grad_(False))
    for model, got in ((tiny.model, base), (apply_user(tiny.model, managed, people), ours.detach())):
        torch.testing.assert_close(got, denoiser._output(painted(tiny, model, x, sigma), x, sigma), **CLOSE)

    loss, gradients = loss_and_gradients(tiny, adapter, u)
    size = torch.stack([gradient.norm() for gradient in gradients]).norm()
    with torch.no_grad():  # a step along the gradient raises the loss as the gradient says
        for weight, gradient in zip(adapter.parameters(), gradients, strict=True):
            weight.add_(gradient, alpha=1e-3 * loss / size.item() ** 2)
        higher, _ = loss_and_gradients(tiny, adapter, u)
        for weight, gradient in zip(adapter.parameters(), gradients, strict=True):
            weight.sub_(gradient, alpha=2e-3 * loss / size.item() ** 2)
        lower, _ = loss_and_gradients(tiny, adapter, u)
    assert (higher - lower) / loss == pytest.approx(2e-3, rel=0.02)


@pytest.mark.parametrize(
    ("name", "kind"), [("sdxl", "attention"), ("sd15", "low_rank"), *((n, "low_rank") for n in TINY)]
)
def test_gradient_checkpointing_changes_no_gradient(name, kind, request):
    tiny = small(name, request)
    adapter, u = adapter_for(kind, tiny.model), torch.stack([person(0).u, person(1).u])
    loss, gradients = loss_and_gradients(tiny, adapter, u)
    again, kept = loss_and_gradients(tiny, adapter, u, others=-u, checkpointing=True)
    assert again == loss
    for got, wanted in zip(kept, gradients, strict=True):
        assert (got - wanted).norm() <= 1e-5 * wanted.norm()
