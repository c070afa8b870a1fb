"""The artist's families in ComfyUI, at small widths of the real classes: against diffusers, refusals, and scopes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppd.adapters.ip_adapter import TasteIPAdapter, load_ip_adapter
from ppd.branch import Scope, describe
from ppd.families import FAMILIES, layers_of
from ppd.hosts.diffusers import DiffusersHost, linear_sites
from ppd.hosts.diffusers import cross_attentions as diffusers_layers
from ppd.user_embedding import UserEmbedding, null_user

from .small_models import ARTISTS, CONTEXT, adapter_for, comfy_model, denoiser, draw, person

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import cross_attentions
    from ppd.hosts.comfyui_denoisers import linear_sites as comfy_sites

    from .test_comfyui_low_rank import adapter_for as low_rank_for
    from .test_comfyui_low_rank import person as person_of_low_rank

ENCODER, ENCODER_HASH = "some-clip", "0" * 64
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=ARTISTS)
def pair(request):
    """A family, its denoiser in diffusers, and the same as ComfyUI's MODEL."""
    unet = denoiser(request.param)
    return request.param, unet, comfy_model(request.param, unet)


X, T = draw(2, 4, 16, 16, seed=5), 700
POSITIVE, NEGATIVE = (draw(1, 77, CONTEXT, seed=seed) for seed in (11, 12))
POOLED = draw(1, 1280, seed=13)


@torch.inference_mode()
def comfy_predictions(model):
    """What one evaluation within a sampling run gives for the positive and the negative: denoised latents."""
    sigma, found = model.get_model_object("model_sampling").sigma(torch.tensor(float(T))), []

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
    a = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[T]
    sigma = float(((1 - a) / a).sqrt())
    size = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]).expand(2, -1)
    added = {"text_embeds": POOLED.expand(2, -1), "time_ids": size}
    with DiffusersHost(unet, adapter).personalized(u, strength):
        eps = unet(X, T, context.expand(2, -1, -1), added_cond_kwargs=added).sample
    return X * (sigma**2 + 1) ** 0.5 - sigma * eps


def test_layers_are_those_of_the_family(pair):
    family, unet, model = pair
    widths = [layer.heads * layer.dim_head for layer in cross_attentions(model.model.diffusion_model).values()]
    assert widths == [attention.inner_dim for attention in diffusers_layers(unet)]
    assert len(widths) == FAMILIES[family].count


@pytest.mark.parametrize("part", ["style only", "layout only"])
def test_style_and_layout_are_the_blocks_that_instantstyle_names(pair, part):
    family, unet, _ = pair
    blocks = {
        ("sdxl", "style only"): ["up_blocks.0.attentions.1."],
        ("sdxl", "layout only"): ["down_blocks.2.attentions.1."],
        ("sd1", "style only"): ["up_blocks.1."],
        ("sd1", "layout only"): ["down_blocks.2.", "mid_block."],
    }[family if family == "sdxl" else "sd1", part]
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    assert [names[layer] for layer in layers_of(family, part)] == [
        name for name in names if name.startswith(tuple(blocks))
    ]


def test_the_pockets_style_layers_are_not_known():
    with pytest.raises(ValueError, match="pocket model are 'style only': use all layers"):
        layers_of("pocket", "style only")


@pytest.mark.parametrize("rule", ["none", "same"])
def test_same_denoiser_as_in_diffusers(pair, rule):
    family, unet, model = pair
    adapter = adapter_for(family, unet, unconditional=rule)
    someone = person()
    base = comfy_predictions(model)
    found = comfy_predictions(
        apply_user(model, manage_adapter(adapter_for(family, unet, unconditional=rule)), [someone], 0.7)
    )
    for got, plain, context, personal in zip(found, base, (POSITIVE, NEGATIVE), (True, rule == "same"), strict=True):
        wanted = diffusers_prediction(unet, adapter, someone.u[None] * personal, 0.7, context)
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert torch.equal(got, plain) != personal


def test_same_denoiser_with_a_low_rank_adapter(pair):
    _, unet, model = pair
    assert tuple(linear_sites(unet)) == tuple(comfy_sites(model.model.diffusion_model))
    adapter, someone = low_rank_for(model), person_of_low_rank()
    found = comfy_predictions(apply_user(model, manage_adapter(adapter), [someone], 0.7))
    for got, plain, context in zip(found, comfy_predictions(model), (POSITIVE, NEGATIVE), strict=True):
        wanted = diffusers_prediction(unet, adapter, someone.u[None], 0.7, context)
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert (got - plain).abs().max() > 0.1


@pytest.mark.parametrize("off", ["strength 0", "null user", "no common range"])
def test_off_is_the_model_bit_for_bit(pair, off):
    family, unet, model = pair
    someone, adapter = person(), manage_adapter(adapter_for(family, unet, end_percent=0.5))
    cases = {
        "strength 0": ([someone], 0.0, Scope()),
        "null user": ([null_user(someone)], 1.0, Scope()),
        "no common range": ([someone], 1.0, Scope(start_percent=0.5)),
    }
    personal = apply_user(model, adapter, *cases[off])
    assert describe(adapter.model, cases[off][0], cases[off][1], scope=cases[off][2]).startswith(
        "Personalization is off"
    )
    for got, plain in zip(comfy_predictions(personal), comfy_predictions(model), strict=True):
        assert torch.equal(got, plain)


@pytest.mark.parametrize("part", ["style only", "layout only"])
def test_a_part_of_the_layers_is_an_adapter_silent_in_the_others(pair, part):
    family, unet, model = pair
    adapter = adapter_for(family, unet)
    scope = Scope(part)
    found = comfy_predictions(apply_user(model, manage_adapter(adapter_for(family, unet)), [person()], scope=scope))
    for number, layer in enumerate(adapter.layers):
        if number not in layers_of(family, part):
            torch.nn.init.zeros_(layer.to_v_user.weight)
    wanted = diffusers_prediction(unet, adapter, person().u[None], 1.0, POSITIVE)
    torch.testing.assert_close(found[0], wanted, **CLOSE)
    assert not torch.equal(found[0], comfy_predictions(model)[0])
    count = len(layers_of(family, part))
    assert f"{count} of {FAMILIES[family].count} cross-attention layers" in describe(
        adapter, [person()], 1.0, scope=scope
    )


@pytest.mark.parametrize(("scope", "active"), [((0.0, 0.2), False), ((0.2, 0.4), True), ((0.4, 1.0), False)])
def test_a_part_of_the_schedule(pair, scope, active):
    family, unet, model = pair  # t is 700, which is 30 % of the schedule
    adapter = manage_adapter(adapter_for(family, unet))
    found = comfy_predictions(apply_user(model, adapter, [person()], scope=Scope("all", *scope)))
    assert torch.equal(found[0], comfy_predictions(model)[0]) != active


@pytest.mark.parametrize(("weights", "compute"), [("float16", None), ("bfloat16", None), ("float8_e4m3fn", "float32")])
def test_folding_rounds_at_most_twice_as_much_as_the_plain_form(pair, monkeypatch, weights, compute):
    """Distance to single precision, in a checkpoint's own: measured 1.5 times for SDXL in halves, 1.0 elsewhere."""
    family, unet, single = pair
    dtypes = [None if name is None else getattr(torch, name) for name in (weights, compute)]
    model = comfy_model(family, unet, *dtypes)
    layer = next(iter(cross_attentions(model.model.diffusion_model).values()))
    assert layer.to_q.weight.dtype == dtypes[0]
    adapter = manage_adapter(adapter_for(family, unet))
    personal = apply_user(model, adapter, [person()])
    truth = comfy_predictions(apply_user(single, adapter, [person()]))[0]
    folded = comfy_predictions(personal)[0]
    monkeypatch.setattr(layer.to_q, "input_scale", torch.tensor(1.0), raising=False)
    plain = comfy_predictions(personal)[0]
    errors = [(found - truth).square().mean().sqrt().item() for found in (folded, plain)]
    assert not torch.equal(folded, plain)
    assert errors[0] <= 2 * errors[1]
    assert errors[1] < 0.1 * truth.square().mean().sqrt()


@pytest.mark.parametrize("sampling", ["v_prediction", "lcm"])
def test_other_samplings_have_their_own_schedule(pair, sampling):
    """The window is asked of the sampling that a node put into the MODEL, where t = 700 has another sigma."""
    family, unet, model = pair
    adapter = manage_adapter(adapter_for(family, unet))
    (other,) = ModelSamplingDiscrete().patch(model, sampling, zsnr=True)
    sigmas = [m.get_model_object("model_sampling").sigma(torch.tensor(float(T))) for m in (model, other)]
    assert abs(sigmas[0] / sigmas[1] - 1) > 1e-3
    base = comfy_predictions(other)
    for scope, active in (((0.0, 0.29), False), ((0.29, 0.31), True), ((0.31, 1.0), False)):
        found = comfy_predictions(apply_user(other, adapter, [person()], scope=Scope("all", *scope)))
        assert torch.equal(found[0], base[0]) != active
        assert torch.equal(found[1], base[1])


def test_look_alikes_are_refused(pair):
    """Models that subclass the families' classes, and every other family's model."""
    family, unet, model = pair
    adapter = manage_adapter(adapter_for(family, unet))
    kinds = ["SDXLRefiner", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "SD_X4Upscaler", "SD21UnclipL", "Flux"]
    kinds += [{"sd15": "SD15", "sd2": "SD20", "sdxl": "SDXL"}[other] for other in ARTISTS if other != family]
    for kind in kinds:
        base = object.__new__(type(model.model))
        torch.nn.Module.__init__(base)
        base.model_config = getattr(comfy.supported_models, kind)(dict(model.model.model_config.unet_config))
        base.diffusion_model = model.model.diffusion_model
        other = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
        with pytest.raises(
            ValueError, match=rf"The MODEL is {kind} .* is for {FAMILIES[family].title}: load a model"
        ) as error:
            apply_user(other, adapter, [person()])
        titles = {{"sd15": "SD15", "sd2": "SD20", "sdxl": "SDXL"}[name]: FAMILIES[name].title for name in ARTISTS}
        end = f"or an adapter for {titles[kind]}." if kind in titles else f"which can be made for {kind} too"
        assert end in str(error.value)


def test_an_adapter_for_other_widths_is_refused(pair):
    family, unet, model = pair
    widths = tuple(attention.inner_dim for attention in diffusers_layers(unet))
    adapter = manage_adapter(adapter_for(family, unet, layers=(*widths[:-1], widths[-1] * 2)))
    with pytest.raises(ValueError, match=rf"{len(widths)} cross-attention layers of widths"):
        apply_user(model, adapter, [person()])


def taste_adapter(path, dim=6):
    """An IP-Adapter's file as an adapter of u, with a drawn center and directions."""
    published = load_ip_adapter(path)
    center, directions = draw(*published.seen_shape, seed=1), draw(dim, *published.seen_shape, seed=2)
    return TasteIPAdapter(published, ENCODER, ENCODER_HASH, center, directions)


@pytest.mark.parametrize("pair", ["sd15", "sdxl"], indirect=True)
@pytest.mark.parametrize("strength", [0.6, 3.0])
@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_ip_adapters_give_what_they_give_in_diffusers(pair, ip_adapter_file, kind, strength):
    """The same u and strength in both hosts, in the layers of the adapter's own choice: rows of both kinds get their
    own side, of several people each their own; the null user's are the base's."""
    family, unet, model = pair
    path = ip_adapter_file(kind, [a.inner_dim for a in diffusers_layers(unet)], FAMILIES[family].context_dim)
    adapter, managed = taste_adapter(path), manage_adapter(taste_adapter(path))
    someone = UserEmbedding(draw(1, 6, seed=3), ENCODER, ENCODER_HASH, 4, "2026-01-01")
    base = comfy_predictions(model)
    people = [someone, null_user(someone)]
    found = comfy_predictions(apply_user(model, managed, people, strength))
    sides = someone.u[None], -someone.u[None]
    for got, plain, u, context in zip(found, base, sides, (POSITIVE, NEGATIVE), strict=True):
        rows = torch.cat([u, torch.zeros_like(u)])
        torch.testing.assert_close(got, diffusers_prediction(unet, adapter, rows, strength, context), **CLOSE)
        assert not torch.allclose(got[0], plain[0], atol=1e-3)
        assert torch.equal(got[1], plain[1])
    also = comfy_predictions(apply_user(model, managed, people, strength, Scope("style only")))
    everywhere = comfy_predictions(apply_user(model, managed, people, strength, Scope("all")))
    assert torch.equal(also[0], found[0]) and not torch.equal(everywhere[0], found[0])
    report = describe(managed.model, [someone], strength)
    assert "negative prompt: the opposite taste" in report
    assert ("acts as 2, this adapter's most" in report) == (strength == 3.0)


@pytest.mark.parametrize("pair", ["sd15"], indirect=True)
@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_an_ip_adapters_memory_is_the_files_own(pair, ip_adapter_file, kind):
    """Half precision stays half: ComfyUI casts layer by layer. A plus adapter's resampler is not kept."""
    family, unet, model = pair
    path = ip_adapter_file(kind, [a.inner_dim for a in diffusers_layers(unet)], FAMILIES[family].context_dim)
    half = path.with_name("half.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, half)
    managed = manage_adapter(taste_adapter(half))
    kept = {n: x for n, x in load_file(half).items() if kind == "plain" or n.startswith("ip_adapter.")}
    own = sum(x.numel() * 4 for x in managed.model.buffers())  # center, start and directions
    assert managed.model_size() == own + sum(x.numel() * 2 for x in kept.values())
    predictions = []
    for adapter in (managed, manage_adapter(taste_adapter(path))):
        someone = UserEmbedding(draw(1, 6), ENCODER, ENCODER_HASH, 4, "2026-01-01")
        predictions.append(comfy_predictions(apply_user(model, adapter, [someone], scope=Scope("all"))))
    for got, plain in zip(*predictions, strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-2, atol=1e-2)
