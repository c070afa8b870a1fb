"""ComfyUI's denoisers as training sees them: targets, gradients, and the same picture as in sampling."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig

from . import small_models, test_comfyui_stable_cascade
from .small_models import draw
from .test_comfyui_low_rank import DIM, person
from .test_comfyui_low_rank import adapter_for as low_rank_for
from .tiny_models import TINY, build, conditioning

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.model_management
    import comfy.quant_ops
    import comfy.samplers
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import family_of, widths_of
    from ppd.hosts.comfyui_run import Window
    from ppd.hosts.comfyui_training import ComfyUIDenoiser
    from ppd.lora import lora_of

    from .test_comfyui_low_rank_composition import QUANTISED, quantised

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
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
        self.denoiser = ComfyUIDenoiser(model, self.read, shape, **options)

    @torch.inference_mode()
    def read(self, text):
        return prompts_of(self.name, text)

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
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.3)
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


def discrete(kind):
    """SDXL's MODEL as a checkpoint of another parameterisation is sampled."""
    return ModelSamplingDiscrete().patch(build("sdxl"), kind, False)[0]


def sigma_at(timestep):
    """Of Stable Diffusion's thousand levels."""
    a = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[timestep]
    return ((1 - a) / a).sqrt().float()


@pytest.mark.parametrize("kind", ["eps", "v_prediction", "x0", "flow"])
def test_targets_and_predictions_are_the_textbooks(kind, request):
    tiny = small("qwen_image", request) if kind == "flow" else Small("sdxl", discrete(kind), TINY["sdxl"].latent)
    denoiser, seen = tiny.denoiser, []
    x0, noise = draw(2, *tiny.shape, seed=1), draw(2, *tiny.shape, seed=2)
    sigma = torch.tensor([0.9, 0.2]) if kind == "flow" else sigma_at(torch.tensor([900, 200]))
    over = sigma.view(-1, *[1] * len(tiny.shape))
    latents = tiny.model.model.process_latent_in(x0) if kind == "flow" else 0.13025 * x0
    alpha = 1 / (1 + over**2).sqrt()
    x = {"flow": (1 - over) * latents + over * noise}.get(kind, latents + over * noise)
    target = {
        "eps": noise,
        "v_prediction": alpha * noise - over * alpha * latents,
        "x0": latents,
        "flow": noise - latents,
    }[kind]
    torch.testing.assert_close(denoiser.noised(x0, noise, sigma), x, **CLOSE)
    torch.testing.assert_close(denoiser.target(x0, noise, sigma), target, **CLOSE)
    hook = denoiser.base.diffusion_model.register_forward_hook(lambda _, args, out: seen.append((args, out)))
    found = denoiser.predict(x, sigma, denoiser.text(["one", "other"])[np.arange(2)])
    hook.remove()
    ((given, timestep), raw) = seen[0][0][:2], seen[0][1]
    torch.testing.assert_close(found, raw, **CLOSE)
    torch.testing.assert_close(given, x if kind == "flow" else alpha * x, **CLOSE)
    assert timestep.tolist() == pytest.approx([900, 200] if kind != "flow" else [0.9, 0.2])


@pytest.mark.parametrize("name", ["sdxl", "flux1", "z_image", "stable_cascade"])
def test_noise_is_drawn_evenly_over_the_window_that_painting_has(name, request):
    denoiser = small(name, request).denoiser
    drawn = denoiser.draw_timesteps(np.random.default_rng(0), 400, 0.6)
    assert all(Window(denoiser.base, (0.0, 0.6)).inside(drawn))
    sampling = denoiser.base.model_sampling
    for percent in (0.15, 0.3, 0.45):
        more_noise = (drawn > float(sampling.percent_to_sigma(percent))).float().mean()
        assert more_noise == pytest.approx(percent / 0.6, abs=0.07)
    assert drawn.max() <= sampling.sigma_max


@pytest.mark.parametrize(("name", "calls"), [("sdxl", 1), ("qwen_image", 2)])
def test_prompts_of_other_lengths_in_one_batch(name, calls, request):
    """Each row is as it is alone; ComfyUI repeats the tokens of a U-Net, and calls a transformer twice."""
    tiny, asked = small(name, request), []
    denoiser, (x, sigma, _) = tiny.denoiser, tiny.batch(3)
    denoiser.read = lambda text, read=denoiser.read: asked.append(text) or read(text)
    texts = denoiser.text(["a b", "cat", "two dogs", "cat"])
    assert asked == ["a b", "cat", "two dogs"]
    rows = np.array([0, 3, 2])
    assert [part.rows.tolist() for part in texts[rows]] == ([[0, 1, 2]] if calls == 1 else [[0, 2], [1]])
    u = torch.stack([person(seed).u for seed in range(3)])
    host = denoiser.host(adapter_for("low_rank", tiny.model))
    with torch.no_grad():
        with host.personalized(u):
            together = denoiser.predict(x, sigma, texts[rows])
        for row, place in enumerate(rows):
            one = slice(row, row + 1)
            with host.personalized(u[one]):
                alone = denoiser.predict(x[one], sigma[one], texts[np.array([place])])
            torch.testing.assert_close(together[one], alone, **CLOSE)


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("name", ["sdxl", "qwen_image"])
def test_gradients_flow_through_weights_of_8_bits(name, kind, request):
    tiny = small(name, request)
    eight = Small(name, quantised(tiny.model, kind), tiny.shape)
    adapter, u = low_rank_for(tiny.model, gain=0.1).requires_grad_(True), torch.stack([person(0).u, person(1).u])
    before = [weight.clone() for weight in eight.model.model.parameters()]
    _, wanted = loss_and_gradients(tiny, adapter, u)
    _, found = loss_and_gradients(eight, adapter, u)
    one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (wanted, found))
    assert torch.cosine_similarity(one, other, dim=0) > {"int8_tensorwise": 0.99, "float8_e4m3fn": 0.95}[kind]
    assert all(torch.equal(a, b) for a, b in zip(before, eight.model.model.parameters(), strict=True))


def test_a_model_with_a_lora_is_trained_on_as_it_paints(request):
    tiny = small("qwen_image", request)
    lora = lora_of(adapter_for("low_rank", tiny.model).requires_grad_(False), person(2))
    patched = Small("qwen_image", comfy.sd.load_lora_for_models(tiny.model, None, lora, 1.0, 0)[0], tiny.shape)
    x, sigma, context = patched.batch()
    found = patched.denoiser.predict(x, sigma, context)
    wanted = patched.denoiser._output(painted(patched, patched.model, x, sigma), x, sigma)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert not torch.allclose(found, small("qwen_image", request).denoiser.predict(x, sigma, context), **CLOSE)


def test_the_base_computes_in_its_own_precision(request):
    """Whatever the training loop computes in."""
    half = Small("qwen_image", build("qwen_image", torch.bfloat16), TINY["qwen_image"].latent)
    adapter, u = adapter_for("low_rank", half.model), torch.stack([person(0).u, person(1).u])
    x, sigma, context = half.batch()
    plain = half.denoiser.predict(x, sigma, context)
    host = half.denoiser.host(adapter)
    with host.personalized(u):
        personal = half.denoiser.predict(x, sigma, context)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(half.denoiser.predict(x, sigma, context), plain)
        with host.personalized(u):
            assert torch.equal(half.denoiser.predict(x, sigma, context), personal)
    _, found = loss_and_gradients(half, adapter, u)
    _, wanted = loss_and_gradients(small("qwen_image", request), adapter, u)
    one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (wanted, found))
    assert torch.cosine_similarity(one, other, dim=0) > 0.98
    assert {weight.dtype for weight in half.model.model.diffusion_model.parameters()} == {torch.bfloat16}


def what_is_installed(model):
    modules = list(model.model.modules())
    hooks = [hook for m in modules for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return hooks, [m for m in modules if "forward" in vars(m)]


@pytest.mark.parametrize("name", ["flux1", "anima"])
def test_nothing_is_left_of_a_training_that_failed(name, request):
    tiny = small(name, request, checkpointing=True)
    kernels = comfy.quant_ops.ck.rms_rope_split_half
    host, (x, sigma, context) = tiny.denoiser.host(adapter_for("low_rank", tiny.model)), tiny.batch()
    with pytest.raises(KeyError), tiny.denoiser.plain_attention(), host.personalized(person().u[None]):
        tiny.denoiser.predict(x, sigma, context)
        assert comfy.model_management.in_training
        assert what_is_installed(tiny.model)[1]
        raise KeyError
    assert what_is_installed(tiny.model) == ([], [])
    assert not comfy.model_management.in_training and comfy.quant_ops.ck.rms_rope_split_half is kernels
    with torch.no_grad():
        assert torch.equal(tiny.denoiser.predict(x, sigma, context), tiny.denoiser.predict(x, sigma, context))


def test_checkpointing_runs_blocks_twice_and_keeps_less(request):
    tiny = small("qwen_image", request)
    adapter, u = adapter_for("low_rank", tiny.model), torch.stack([person(0).u, person(1).u])
    block, calls, kept = tiny.model.model.diffusion_model.transformer_blocks[1], [], []

    def pack(tensor):
        kept[-1] += tensor.nbytes
        return tensor

    hook = block.attn.register_forward_hook(lambda *_: calls.append(1))
    for checkpointing in (False, True):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_and_gradients(tiny, adapter, u, checkpointing=checkpointing)
    hook.remove()
    assert len(calls) == 1 + 2
    assert kept[1] < 0.5 * kept[0]


def test_what_does_not_fit_is_refused(request):
    tiny = small("qwen_image", request)
    adapter = adapter_for("low_rank", tiny.model)
    host, (x, sigma, context) = tiny.denoiser.host(adapter), tiny.batch()
    three = torch.stack([person().u] * 3)
    with pytest.raises(ValueError, match="for 3 rows, but the denoiser is called with 2"), host.personalized(three):
        tiny.denoiser.predict(x, sigma, context)
    with pytest.raises(ValueError, match="The MODEL is Z-Image"):
        small("z_image", request).denoiser.host(adapter)
    skipping = tiny.model.clone()
    skipping.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", 1)
    skipping = Small("qwen_image", skipping, tiny.shape)
    host = skipping.denoiser.host(adapter)
    with pytest.raises(RuntimeError, match="Only 20 of 30 layers were personalised"), host.personalized(three[:1]):
        skipping.denoiser.predict(x, sigma, context)


@pytest.mark.parametrize("name", ["qwen_image", "sdxl"])
def test_a_model_that_has_painted_before_is_trained_on(name, request):
    """Nodes paint in inference mode, whose tensors no gradient may pass."""
    tiny = small(name, request)
    adapter, u = adapter_for("low_rank", tiny.model), torch.stack([person(0).u, person(1).u])
    lora = lora_of(adapter_for("low_rank", tiny.model).requires_grad_(False), person(2))
    model = comfy.sd.load_lora_for_models(tiny.model, None, lora, 1.0, 0)[0]
    _, wanted = loss_and_gradients(Small(name, model, tiny.shape), adapter, u)
    tiny = small(name, request)
    model = comfy.sd.load_lora_for_models(tiny.model, None, lora, 1.0, 0)[0]
    before = Small(name, tiny.model, tiny.shape)
    painted(before, model, *before.batch()[:2])
    after = Small(name, model, tiny.shape)
    _, found = loss_and_gradients(after, adapter, u)
    painted(after, model, *after.batch()[:2])
    _, again = loss_and_gradients(after, adapter, u)
    for gradients in (found, again):
        for got, expected in zip(gradients, wanted, strict=True):
            assert (got - expected).norm() <= 1e-5 * expected.norm()
