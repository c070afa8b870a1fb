"""Stable Cascade's Stage C in both hosts, at a small width of the real classes."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from diffusers import StableCascadeUNet

from ppd.hosts.diffusers import DiffusersHost, linear_sites
from ppd.hosts.diffusers import cross_attentions as diffusers_layers
from ppd.hosts.diffusers_denoisers import stage_c_ratio
from ppd.user_embedding import null_user

from . import small_models
from .small_models import draw, person

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.model_management
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models

    from ppd.branch import Scope, describe
    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import cross_attentions
    from ppd.hosts.comfyui_denoisers import linear_sites as comfy_sites

    from .test_comfyui_low_rank import adapter_for as low_rank_for
    from .test_comfyui_low_rank import person as person_of_low_rank

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
WIDTH, CONTEXT = 32, 24
RATIO = 0.7


@pytest.fixture(scope="module")
def unet():
    """Stage C in diffusers, of fewer and narrower blocks, all weights random, biases too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = StableCascadeUNet(
            conditioning_dim=CONTEXT,
            block_out_channels=(WIDTH, 2 * WIDTH),
            num_attention_heads=(4, 8),
            down_num_layers_per_block=(1, 2),
            up_num_layers_per_block=(2, 1),
            clip_text_in_channels=CONTEXT,
            clip_text_pooled_in_channels=CONTEXT,
            clip_image_in_channels=768,
            switch_level=(False,),
        )
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval().requires_grad_(False)


@pytest.fixture
def model(unet):
    return comfy_model(unet)


def comfy_model(unet):
    """The same as ComfyUI builds it after its own detection."""
    config = {
        "stable_cascade_stage": "c",
        "c_cond": CONTEXT,
        "c_hidden": [WIDTH, 2 * WIDTH],
        "nhead": [4, 8],
        "blocks": [[1, 2], [2, 1]],
        "c_clip_text": CONTEXT,
        "c_clip_text_pooled": CONTEXT,
    }
    settings = comfy.supported_models.Stable_Cascade_C(config)
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({})
    weights = {
        name.replace(".to_out.0.", ".out_proj.").replace(".attention.", ".attention.attn."): value
        for name, value in unet.state_dict().items()
    }
    base.diffusion_model.load_state_dict(weights)
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


adapter_for = partial(small_models.adapter_for, "stable_cascade")


X = draw(2, 16, 8, 6, seed=5)
POSITIVE, NEGATIVE = (draw(1, 77, CONTEXT, seed=seed) for seed in (11, 12))
POOLED = draw(1, CONTEXT, seed=13)


def sigma_of(ratio):
    """The noise at a timestep ratio of the plain cosine schedule."""
    a = (math.cos((ratio + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    return ((1 - a) / a) ** 0.5


@torch.inference_mode()
def comfy_predictions(model):
    """What one evaluation within a sampling run gives for the positive and the negative: denoised latents."""
    sigma, found = torch.tensor(sigma_of(RATIO)), []

    def probe(model_k, start, sigmas, extra_args, callback, disable):
        guider, options = model_k.inner_model, extra_args["model_options"]
        given = [guider.conds["positive"], guider.conds["negative"]]
        scaled = X * (sigma**2 + 1).sqrt()
        found.extend(comfy.samplers.calc_cond_batch(guider.inner_model, given, scaled, sigma.expand(2), options))
        return start

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*([[context, {"pooled_output": POOLED}]] for context in (POSITIVE, NEGATIVE)))
    sampler = comfy.samplers.KSAMPLER(probe)
    guider.sample(torch.zeros_like(X), torch.zeros_like(X), sampler, torch.stack([sigma, torch.tensor(0.0)]), seed=0)
    return found


@torch.inference_mode()
def diffusers_prediction(unet, adapter, u, strength, context):
    """The same from the diffusers host."""
    sigma = sigma_of(RATIO)
    with DiffusersHost(unet, adapter).personalized(u, strength):
        eps = unet(
            X,
            timestep_ratio=torch.full((2,), RATIO),
            clip_text_pooled=POOLED.expand(2, 1, -1),
            clip_text=context.expand(2, -1, -1),
            clip_img=torch.zeros(2, 1, 768),
        ).sample
    return X * (sigma**2 + 1) ** 0.5 - sigma * eps


def test_layers_are_those_of_diffusers_in_its_order(unet, model):
    layers, names = cross_attentions(model.model.diffusion_model), {m: name for name, m in unet.named_modules()}
    assert [layer.to_q.out_features for layer in layers.values()] == [32, 64, 64, 64, 64, 32]
    wanted = [names[attention] for attention in diffusers_layers(unet)]
    assert [f"{side}_blocks.{level}.{index}.attention" for side, level, index in layers] == wanted


@pytest.mark.parametrize("rule", ["none", "same"])
def test_same_denoiser_as_in_diffusers(unet, model, rule):
    adapter, someone = adapter_for(unet, unconditional=rule), person()
    base = comfy_predictions(model)
    found = comfy_predictions(apply_user(model, manage_adapter(adapter_for(unet, unconditional=rule)), [someone], 0.7))
    for got, plain, context, personal in zip(found, base, (POSITIVE, NEGATIVE), (True, rule == "same"), strict=True):
        wanted = diffusers_prediction(unet, adapter, someone.u[None] * personal, 0.7, context)
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert torch.equal(got, plain) != personal


def test_same_denoiser_with_a_low_rank_adapter(unet, model):
    assert tuple(linear_sites(unet)) == tuple(comfy_sites(model.model.diffusion_model))
    adapter, someone = low_rank_for(model), person_of_low_rank()
    found = comfy_predictions(apply_user(model, manage_adapter(adapter), [someone], 0.7))
    for got, plain, context in zip(found, comfy_predictions(model), (POSITIVE, NEGATIVE), strict=True):
        wanted = diffusers_prediction(unet, adapter, someone.u[None], 0.7, context)
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert (got - plain).abs().max() > 0.1


@pytest.mark.parametrize("percent", [0.1, 0.3, 0.5, 0.9])
def test_ratios_are_those_of_comfyuis_percents(model, percent):
    sampling = model.get_model_object("model_sampling")
    ratio = float(sampling.timestep(sampling.percent_to_sigma(percent)))
    assert stage_c_ratio(percent) == pytest.approx(ratio, abs=1e-5)
    assert (stage_c_ratio(0.0), stage_c_ratio(1.0)) == pytest.approx((1.0, 0.0), abs=1e-9)


@pytest.mark.parametrize(("window", "active"), [((0.0, 0.5), False), ((0.5, 0.515), True), ((0.515, 1.0), False)])
def test_the_range_of_the_schedule_is_the_same_in_both_hosts(unet, model, window, active):
    config = dict(zip(("start_percent", "end_percent"), window, strict=True))
    adapter, someone = adapter_for(unet, **config), person()
    found = comfy_predictions(apply_user(model, manage_adapter(adapter_for(unet, **config)), [someone]))
    torch.testing.assert_close(found[0], diffusers_prediction(unet, adapter, someone.u[None], 1.0, POSITIVE), **CLOSE)
    assert torch.equal(found[0], comfy_predictions(model)[0]) != active


@pytest.mark.parametrize("off", ["strength 0", "null user"])
def test_off_is_the_model_bit_for_bit(unet, model, off):
    someone, adapter = person(), manage_adapter(adapter_for(unet))
    people = [null_user(someone)] if off == "null user" else [someone]
    personal = apply_user(model, adapter, people, 0.0 if off == "strength 0" else 1.0)
    for got, plain in zip(comfy_predictions(personal), comfy_predictions(model), strict=True):
        assert torch.equal(got, plain)


def test_several_people_in_one_batch(unet, model):
    adapter, people = manage_adapter(adapter_for(unet)), [person(1), person(2)]
    together = comfy_predictions(apply_user(model, adapter, people))[0]
    for row, someone in enumerate(people):
        alone = comfy_predictions(apply_user(model, adapter, [someone]))[0]
        torch.testing.assert_close(together[row], alone[row], **CLOSE)
        assert not torch.allclose(together[1 - row], alone[1 - row], **CLOSE)


def test_two_applications_add_up_and_take_nothing_from_each_other(unet, model):
    adapter, someone = manage_adapter(adapter_for(unet)), person()
    once = apply_user(model, adapter, [someone], 0.5)
    twice = comfy_predictions(apply_user(once, adapter, [someone], 0.5))
    torch.testing.assert_close(twice[0], comfy_predictions(apply_user(model, adapter, [someone], 1.0))[0], **CLOSE)
    torch.testing.assert_close(
        comfy_predictions(once)[0],
        diffusers_prediction(unet, adapter_for(unet), someone.u[None], 0.5, POSITIVE),
        **CLOSE,
    )


def test_nothing_is_left_in_the_model(unet, model):
    before = comfy_predictions(model)
    personal = apply_user(model, manage_adapter(adapter_for(unet)), [person()])
    first = comfy_predictions(personal)
    for got, plain in zip(comfy_predictions(model), before, strict=True):
        assert torch.equal(got, plain)
    for got, again in zip(first, comfy_predictions(personal), strict=True):
        assert torch.equal(got, again)


def test_a_copy_of_the_model_runs_its_own_layers(unet, model):
    """As ComfyUI makes one for LoRAs on conditions: the same patches around another model's weights."""
    adapter, someone = manage_adapter(adapter_for(unet)), person()
    personal = apply_user(model, adapter, [someone])
    twin = comfy_model(unet)
    with torch.no_grad():
        for parameter in twin.model.diffusion_model.parameters():
            parameter.mul_(1.1)
    delegate = personal.clone(model_override=(twin.model, ({}, {}, {}, set())))
    wanted, plain = comfy_predictions(apply_user(twin, adapter, [someone])), comfy_predictions(twin)
    got = comfy_predictions(delegate)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], plain[1])


def test_a_dropped_model_is_gone(unet):
    """Without a cycle that would keep its layers until Python looks for one."""
    model = comfy_model(unet)
    layer = weakref.ref(next(iter(cross_attentions(model.model.diffusion_model).values())))
    personal = apply_user(model, manage_adapter(adapter_for(unet)), [person()])
    comfy_predictions(personal)
    comfy.model_management.unload_all_models()
    gc.collect()
    gc.disable()
    try:
        del model, personal
        assert layer() is None
    finally:
        gc.enable()


def test_a_lora_is_folded_in(unet, model):
    """Before ours or after, patches of weights find their layers by name and are seen by the fold."""
    layer = "diffusion_model.up_blocks.0.2.attention.attn"
    weights = {f"{layer}.{name}.weight": ("diff", (draw(64, 64, seed=3),)) for name in ("to_q", "out_proj")}
    adapter, someone = manage_adapter(adapter_for(unet)), person()
    before, after = model.clone(), apply_user(model, adapter, [someone])
    for patched in (before, after):
        assert set(patched.add_patches(weights)) == set(weights)
    alone, before = comfy_predictions(before), comfy_predictions(apply_user(before, adapter, [someone]))
    after, plain = comfy_predictions(after), comfy_predictions(apply_user(model, adapter, [someone]))
    torch.testing.assert_close(before[0], after[0], **CLOSE)
    for other in (alone, plain):
        assert not torch.allclose(before[0], other[0], **CLOSE)


def test_plain_and_folded_forms_agree(unet, model, monkeypatch):
    personal = apply_user(model, manage_adapter(adapter_for(unet)), [person()])
    folded = comfy_predictions(personal)
    layer = next(iter(cross_attentions(model.model.diffusion_model).values()))
    monkeypatch.setattr(layer.out_proj, "input_scale", torch.tensor(1.0), raising=False)
    plain = comfy_predictions(personal)
    assert not torch.equal(folded[0], plain[0])
    torch.testing.assert_close(folded[0], plain[0], **CLOSE)


def test_stage_b_and_other_widths_are_refused(unet, model):
    adapter = manage_adapter(adapter_for(unet))
    base = object.__new__(type(model.model))
    torch.nn.Module.__init__(base)
    base.model_config = comfy.supported_models.Stable_Cascade_B({"stable_cascade_stage": "b"})
    base.diffusion_model = model.model.diffusion_model
    stage_b = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="The MODEL is Stable_Cascade_B .* is for Stable Cascade's Stage C"):
        apply_user(stage_b, adapter, [person()])
    wider = manage_adapter(adapter_for(unet, layers=(32, 64, 64, 64, 64, 64)))
    with pytest.raises(ValueError, match="6 cross-attention layers of widths 32, 64, 64, 64, 64, 32"):
        apply_user(model, wider, [person()])


def test_which_layers_carry_style_is_not_known(unet, model):
    with pytest.raises(ValueError, match="Stage C are 'style only': use all layers"):
        apply_user(model, manage_adapter(adapter_for(unet)), [person()], scope=Scope("style only"))
    report = describe(adapter_for(unet), [person()], 1.0)
    assert "(6 of 6 cross-attention layers" in report


def test_diffusers_trains_the_adapter(unet):
    """Gradients reach the projector and every layer through Stage C."""
    adapter, u = adapter_for(unet), person().u[None]
    with DiffusersHost(unet, adapter).personalized(u):
        args = {"clip_text_pooled": POOLED.expand(2, 1, -1), "clip_text": POSITIVE.expand(2, -1, -1)}
        sample = unet(X, torch.full((2,), RATIO), clip_img=torch.zeros(2, 1, 768), **args).sample
        sample.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())
