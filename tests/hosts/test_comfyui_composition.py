"""User adapters in ComfyUI beside what people put into the same graph: each party keeps its effect.

What one evaluation predicts is watched within real sampling runs, so that every guider and sampler calls as it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from ppd.families import FAMILIES

from .small_models import (
    CONTEXT,
    adapter_for,
    comfy_model,
    comfy_weights,
    denoiser,
    draw,
    person,
    settings_of,
)

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.gligen
    import comfy.model_patcher
    import comfy.ops
    import comfy.samplers
    import comfy.sd
    import comfy.utils
    import comfy_extras.nodes_sag
    import nodes
    from comfy.ldm.modules import attention
    from comfy.patcher_extension import WrappersMP
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        CFGGuider,
        DualCFGGuider,
        Noise_RandomNoise,
        SamplerCustomAdvanced,
    )
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_hypertile import HyperTile
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, RescaleCFG
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_perpneg import PerpNegGuider
    from comfy_extras.nodes_tomesd import TomePatchModel
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    from ppd.adapters.attention import fold, folded_attention, user_attention
    from ppd.branch import Scope
    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import cross_attentions
    from ppd.pocket.comfyui import load_pocket

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
POSITIVE, NEGATIVE, MIDDLE, OTHER = 11, 12, 13, 14


@dataclass
class Small:
    """A family's MODEL at a small width, the same denoiser in diffusers, and an adapter for it."""

    family: str
    unet: Any
    model: Any
    adapter: Any

    def personal(self, model=None, people=(0,), strength=1.0, **scope):
        """`model`, or the plain one, painting for the people of these seeds."""
        people = [person(seed) for seed in people]
        return apply_user(model or self.model, self.adapter, people, strength, Scope("all", **scope))


def small_model(family, **config):
    unet = denoiser(family)
    return Small(family, unet, comfy_model(family, unet), manage_adapter(adapter_for(family, unet, **config)))


@pytest.fixture(scope="module", params=["sd15"])
def small(request):
    return small_model(request.param)


in_sd15_and_sdxl = pytest.mark.parametrize(
    "small", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)], indirect=True
)


def text(seed):
    """A CONDITIONING."""
    return [[draw(1, 77, CONTEXT, seed=seed), {"pooled_output": draw(1, 1280, seed=seed)}]]


def latents(rows=1, height=16, width=16):
    return {"samples": torch.zeros(rows, 4, height, width)}


@torch.inference_mode()
def sample(model, positive=None, negative=None, latent=None, steps=1):
    """KSampler's latents."""
    conditions = positive or text(POSITIVE), negative or text(NEGATIVE)
    (out,) = nodes.common_ksampler(model, 3, steps, 3.0, "euler", "normal", *conditions, latent or latents())
    return out["samples"]


def watched(model):
    """A clone, and a list that gets each evaluation's predictions: one for each list of conditions."""
    clone, seen = model.clone(), []

    def watch(executor, *args, **kwargs):
        predictions = executor(*args, **kwargs)
        seen.append([prediction.clone() for prediction in predictions])
        return predictions

    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", watch)
    return clone, seen


def predictions(model, *args, **kwargs):
    """The first predictions of a run of KSampler: for the positive, and for the negative."""
    clone, seen = watched(model)
    sample(clone, *args, **kwargs)
    return seen[0]


def apart(*tensors):
    """Whether any two of them differ by more than rounding."""
    return all((one - other).abs().max() > 1e-3 for one, other in combinations(tensors, 2))


def half_mask(size=128):
    """A MASK of pixels whose left half is to be painted."""
    mask = torch.zeros(1, size, size)
    mask[..., : size // 2] = 1
    return mask


@pytest.mark.parametrize("in_channels", [4, 9], ids=["ordinary model", "inpainting model"])
def test_inpainting(pocket_base_file, in_channels):
    unet = denoiser("sd15", in_channels)
    model, adapter = comfy_model("sd15", unet), manage_adapter(adapter_for("sd15", unet))
    vae, pixels = load_pocket(pocket_base_file)[2], draw(1, 128, 128, 3).sigmoid()
    positive, negative, latent = nodes.InpaintModelConditioning().encode(
        text(POSITIVE), text(NEGATIVE), pixels, vae, half_mask()
    )
    base, ours = (
        sample(m, positive, negative, latent, steps=2) for m in (model, apply_user(model, adapter, [person()]))
    )
    torch.testing.assert_close(ours[..., 8:], latent["samples"][..., 8:], **CLOSE)
    assert torch.equal(ours[..., 8:], base[..., 8:])
    assert apart(ours[..., :8], base[..., :8])


def test_noise_masks_of_a_batch_of_people(small):
    masks = torch.cat([half_mask(), 1 - half_mask()])
    (latent,) = nodes.SetLatentNoiseMask().set_mask({"samples": draw(2, 4, 16, 16)}, masks)
    base, ours = (sample(m, latent=latent, steps=2) for m in (small.model, small.personal(people=(1, 2))))
    for row, (painted, kept) in enumerate([(slice(8), slice(8, 16)), (slice(8, 16), slice(8))]):
        torch.testing.assert_close(ours[row, ..., kept], latent["samples"][row, ..., kept], **CLOSE)
        assert apart(ours[row, ..., painted], base[row, ..., painted])


def guider_of(kind, model):
    """A stock node's GUIDER, and the names of the lists in its order of calling."""
    positive, negative, other = text(POSITIVE), text(NEGATIVE), text(MIDDLE)
    node, names = {
        "basic": (lambda: BasicGuider.execute(model, positive), ("positive", None)),
        "cfg": (lambda: CFGGuider.execute(model, positive, negative, 3.0), ("positive", "negative")),
        "regular": (
            lambda: DualCFGGuider.execute(model, positive, other, negative, 3.0, 2.0, "regular"),
            ("negative", "middle", "positive"),
        ),
        "nested": (
            lambda: DualCFGGuider.execute(model, positive, other, negative, 3.0, 2.0, "nested"),
            ("negative", "middle", "positive"),
        ),
        "perp-neg": (
            lambda: PerpNegGuider.execute(model, positive, negative, other, 3.0, 1.0),
            ("positive", "negative", "empty"),
        ),
    }[kind]
    return node().result[0], names


@pytest.mark.parametrize("rule", ["none", "same"])
@pytest.mark.parametrize("kind", ["basic", "cfg", "regular", "nested", "perp-neg"])
def test_guiders(small, kind, rule):
    """Positive lists are personal in every guider's order, unconditional ones by the adapter's rule."""
    adapter = manage_adapter(adapter_for(small.family, small.unet, unconditional=rule))
    found, outputs = [], []
    for model in (small.model, apply_user(small.model, adapter, [person()])):
        clone, seen = watched(model)
        guider, names = guider_of(kind, clone)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
        sampler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            out = SamplerCustomAdvanced.execute(Noise_RandomNoise(3), guider, sampler, sigmas, latents())
        found.append(seen[0])
        outputs.append(out.result[0]["samples"])
    assert apart(*outputs)
    for name, base, ours in zip(names, *found, strict=True):
        if name in ("positive", "middle") or (name is not None and rule == "same"):
            assert apart(base, ours)
        else:
            assert torch.equal(base, ours)


def test_several_prompts_and_an_area(small):
    """A wide batch of two people: each row its own person's, each prompt in its own place."""
    latent = latents(2, 16, 24)

    def prompts(other):
        (area,) = nodes.ConditioningSetArea().append(text(other), 64, 128, 96, 0, 1.0)
        return nodes.ConditioningCombine().combine(text(POSITIVE), area)[0]

    base = predictions(small.model, prompts(OTHER), latent=latent)
    ours = predictions(small.personal(people=(1, 2)), prompts(OTHER), latent=latent)
    for row in (0, 1):
        alone = predictions(small.personal(people=(1 + row,)), prompts(OTHER), latent=latent)
        torch.testing.assert_close(ours[0][row], alone[0][row], **CLOSE)
    assert all(
        apart(ours[0][row, ..., columns], base[0][row, ..., columns])
        for row in (0, 1)
        for columns in (slice(12), slice(12, 20), slice(20, 24))
    )
    assert torch.equal(ours[1], base[1])
    changed = predictions(small.personal(people=(1, 2)), prompts(MIDDLE), latent=latent)
    assert apart(changed[0][..., 12:20], ours[0][..., 12:20])
    torch.testing.assert_close(changed[0][..., :12], ours[0][..., :12], **CLOSE)


def test_latents_taken_from_a_batch_stay_their_persons(small):
    """Noise follows batch_index, the person the place in the batch that is sampled."""
    (pair,) = nodes.LatentFromBatch().frombatch(latents(8), 4, 2)
    ours = sample(small.personal(people=(1, 2)), latent=pair, steps=2)
    for row in (0, 1):
        (single,) = nodes.LatentFromBatch().frombatch(latents(8), 4 + row, 1)
        alone = sample(small.personal(people=(1 + row,)), latent=single, steps=2)
        torch.testing.assert_close(ours[row], alone[0], rtol=1e-3, atol=1e-3)


def control_of(small, kind):
    """A ControlNet of the denoiser's shape with random weights, whole or as a Control-LoRA."""
    config = {name: value for name, value in small.model.model.model_config.unet_config.items()}
    config.pop("out_channels")
    control = comfy.cldm.cldm.ControlNet(**config, hint_channels=3)
    generator = torch.Generator().manual_seed(4)
    weights = {
        name: torch.randn(value.shape, generator=generator) * 2 / max(1, value[0].numel()) ** 0.5
        for name, value in control.state_dict().items()
    }
    if kind == "lora":
        own = ("input_hint_block.", "zero_convs.", "middle_block_out.")
        return comfy.controlnet.ControlLora({name: value for name, value in weights.items() if name.startswith(own)})
    control.load_state_dict(weights)
    return comfy.controlnet.ControlNet(control, load_device=torch.device("cpu"))


@pytest.mark.parametrize(("small", "kind"), [("sd15", "net"), ("sd15", "lora"), ("sdxl", "net")], indirect=["small"])
def test_controlnet(small, kind):
    control, hints = control_of(small, kind), [draw(1, 128, 128, 3, seed=seed).sigmoid() for seed in (7, 8)]
    controlled, other = (
        nodes.ControlNetApplyAdvanced().apply_controlnet(text(POSITIVE), text(NEGATIVE), control, hint, 1.0, 0.0, 1.0)
        for hint in hints
    )
    alone = predictions(small.model, *controlled)
    ours, both = predictions(small.personal()), predictions(small.personal(), *controlled)
    assert apart(alone[0], ours[0], both[0], predictions(small.personal(), *other)[0])
    assert torch.equal(both[1], alone[1])
    off = predictions(small.personal(strength=0.0), *controlled)
    assert torch.equal(off[0], alone[0])


STOCK_NODES = {
    "rescale cfg": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "perturbed attention": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).result[0],
    "self-attention": lambda model: comfy_extras.nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0],
    "free lunch": lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).result[0],
    "hypertile": lambda model: HyperTile.execute(model, 32, 1, 0, False)[0],
    "token merging": lambda model: TomePatchModel.execute(model, 0.3).result[0],
}


@pytest.mark.parametrize("node", STOCK_NODES)
def test_stock_nodes_that_change_the_model(small, node):
    other = STOCK_NODES[node](small.model)
    after, before = small.personal(other), STOCK_NODES[node](small.personal())
    base, alone, ours, both = (sample(model) for model in (small.model, other, small.personal(), after))
    assert apart(base, alone, ours, both)
    assert torch.equal(sample(before), both)
    assert torch.equal(sample(small.personal(other, strength=0.0)), alone)


def kohya_lora(model):
    """A LoRA on the cross-attention's to_q and to_out in the names that trainers write."""
    tensors = {}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    for name, target in keys.items():
        if name.startswith("lora_unet_") and ("attn2_to_q" in name or "attn2_to_out_0" in name):
            weight = comfy.utils.get_attr(model.model, target)
            tensors[f"{name}.lora_up.weight"] = draw(weight.shape[0], 2, seed=len(tensors)) * 0.2
            tensors[f"{name}.lora_down.weight"] = draw(2, weight.shape[1], seed=len(tensors)) * 0.2
    return tensors


def test_lora_before_or_after(small):
    tensors = kohya_lora(small.model)

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]

    alone, ours = predictions(with_lora(small.model)), predictions(small.personal())
    both, other_way = predictions(small.personal(with_lora(small.model))), predictions(with_lora(small.personal()))
    assert apart(alone[0], ours[0], both[0])
    assert torch.equal(both[0], other_way[0])
    assert torch.equal(both[1], alone[1])


@pytest.fixture
def image_prompt(small, node_pack, ip_adapter_file):
    """Applies ComfyUI_IPAdapter_plus with a published kind of adapter."""
    pack = node_pack("ComfyUI_IPAdapter_plus/__init__.py")
    widths = adapter_for(small.family, small.unet).config.layers
    parts = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(ip_adapter_file("plain", widths, FAMILIES[small.family].context_dim)).items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor * 4
    u = draw(1, 1, 1024, seed=9)

    def apply(model, weight=1.0):
        node = pack.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"]()
        return node.apply_ipadapter(model, parts, u, weight, "linear", 0.0, 1.0, neg_embed=-u)[0]

    return apply


@pytest.fixture
def regions(node_pack):
    """Applies comfyui-tooling-nodes' regions: two prompts, left and right."""
    pack = node_pack("comfyui-tooling-nodes/region.py")

    def apply(model, left=OTHER, right=MIDDLE):
        background = pack.BackgroundRegion.execute(text(right))[0]
        defined = pack.DefineRegion.execute(half_mask(), text(left), background).result[0]
        return pack.AttentionMask.execute(model, defined).result[0]

    return apply


@in_sd15_and_sdxl
def test_image_prompts_of_another_pack(small, image_prompt):
    alone, ours = predictions(image_prompt(small.model)), predictions(small.personal())
    both = predictions(small.personal(image_prompt(small.model)))
    assert apart(alone[0], ours[0], both[0])
    assert torch.equal(both[1], alone[1])
    for got, wanted in zip(predictions(image_prompt(small.personal())), both, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(predictions(small.personal(image_prompt(small.model), strength=0.0))[0], alone[0])
    torch.testing.assert_close(predictions(image_prompt(small.personal(), weight=0.0))[0], ours[0], **CLOSE)


@in_sd15_and_sdxl
def test_regions_of_another_pack(small, regions):
    alone, ours = predictions(regions(small.model)), predictions(small.personal())
    both = predictions(small.personal(regions(small.model)))
    assert apart(alone[0], ours[0], both[0])
    assert apart(both[0][..., :8], alone[0][..., :8])
    assert apart(both[0][..., 8:], alone[0][..., 8:])
    assert torch.equal(both[1], alone[1])
    for got, wanted in zip(predictions(regions(small.personal())), both, strict=True):
        assert torch.equal(got, wanted)
    same = predictions(small.personal(regions(small.model, POSITIVE, POSITIVE)))
    torch.testing.assert_close(same[0], ours[0], **CLOSE)


def test_regions_of_a_batch_of_people(small, regions):
    """The pack repeats rows for its regions between our patches: each latent's person stays its own."""
    latent = latents(2)
    both = predictions(small.personal(regions(small.model), people=(1, 2)), latent=latent)
    for row in (0, 1):
        alone = predictions(small.personal(regions(small.model), people=(1 + row,)), latent=latent)
        torch.testing.assert_close(both[0][row], alone[0][row], **CLOSE)


def test_image_prompts_and_regions_in_one_graph(small, image_prompt, regions):
    """On either side of ours and of each other, every party acts."""
    parties = {"ours": small.personal, "image prompt": image_prompt, "regions": regions}

    def together(names):
        model = small.model
        for name in names:
            model = parties[name](model)
        return predictions(model)[0]

    everyone = [together(names) for names in permutations(parties)]
    assert all(torch.equal(other, everyone[0]) for other in everyone)
    assert apart(everyone[0], *(together(names) for names in combinations(parties, 2)))


@pytest.fixture
def tiled(node_pack, monkeypatch):
    """Applies ComfyUI-TiledDiffusion: 8 x 8 latents a tile. Importing it changes ComfyUI's functions, for one test."""
    for owner, name in (
        (comfy.samplers.KSampler, "sample"),
        (comfy.samplers.KSAMPLER, "sample"),
        (comfy.samplers, "get_area_and_mult"),
        (comfy.samplers, "pre_run_control"),
        (comfy_extras.nodes_sag, "create_blur_map"),
        (comfy.gligen.Gligen, "_set_position"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    pack = node_pack("ComfyUI-TiledDiffusion/__init__.py", afresh=True)

    def apply(model, method="MultiDiffusion", tiles_at_a_time=4):
        return pack.NODE_CLASS_MAPPINGS["TiledDiffusion"]().apply(model, method, 64, 64, 0, tiles_at_a_time)[0]

    return apply


@pytest.mark.parametrize("method", ["MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"])
def test_tiles(small, tiled, method):
    """A call has rows tile by tile, in each the unconditional ones and the others: only the others are personal."""
    base, ours = (predictions(tiled(model, method)) for model in (small.model, small.personal()))
    assert torch.equal(ours[1], base[1])
    assert all(
        apart(ours[0][..., rows, columns], base[0][..., rows, columns])
        for rows in (slice(8), slice(8, 16))
        for columns in (slice(8), slice(8, 16))
    )
    one_by_one = predictions(tiled(small.personal(), method, tiles_at_a_time=1))
    torch.testing.assert_close(ours[0], one_by_one[0], **CLOSE)


def test_tiles_of_several_people_are_refused(small, tiled):
    with pytest.raises(ValueError, match="tile"):
        sample(tiled(small.personal(people=(1, 2))), latent=latents(2))


@pytest.mark.parametrize("order", ["ours first", "ours last"])
def test_several_gpus_are_refused(small, order):
    """ComfyUI's clones for other GPUs, as its node MultiGPU CFG Split makes them, before our node or after it."""
    model, cpu = small.model.clone(), torch.device("cpu")
    model.cached_patcher_init = (comfy_model, (small.family, small.unet))
    with pytest.raises(ValueError, match="several GPUs"):
        if order == "ours first":
            small.personal(model).deepclone_multigpu(cpu)
        else:
            clone = model.deepclone_multigpu(cpu)
            clone.is_multigpu_base_clone = True
            model.set_additional_models("multigpu", [clone])
            sample(small.personal(model))


BLOCK = ["diffusion_model.middle_block.1.transformer_blocks.0"]


@pytest.fixture
def unbroken(monkeypatch):
    """The attention that GPUs use: a CPU's asks for the free memory in every call, which breaks graphs."""
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)


@pytest.fixture
def compiled():
    """Compiles as the stock node TorchCompileModel does, with dynamo alone; a block takes seconds, all take minutes."""
    torch._dynamo.reset()
    counters.clear()

    def compile_parts(model, parts=BLOCK):
        clone = model.clone()
        set_torch_compile_wrapper(clone, "eager", {"guard_filter_fn": skip_torch_compile_dict}, keys=parts)
        return clone

    yield compile_parts
    torch._dynamo.reset()


@pytest.mark.parametrize("order", ["ours first", "ours last"])
@pytest.mark.parametrize(
    "parts", [BLOCK, pytest.param(["diffusion_model"], marks=pytest.mark.slow)], ids=["block", "all"]
)
def test_compiled_without_graph_breaks(small, compiled, unbroken, parts, order):
    if order == "ours first":
        model = compiled(small.personal(), parts)
    else:
        model = small.personal(compiled(small.model, parts))
    found = predictions(model, latent=latents(1, 8, 8))
    assert counters["stats"]["unique_graphs"] > 0
    assert sum(counters["graph_break"].values()) == 0, counters["graph_break"]
    torch.testing.assert_close(found[0], predictions(small.personal(), latent=latents(1, 8, 8))[0], **CLOSE)


def test_a_compiled_model_serves_one_person_after_another(small, compiled):
    """The stock node's graphs are not guarded by transformer_options: what they found there must keep its name."""
    model = compiled(small.model)
    for who in (1, 2):
        found = predictions(small.personal(model, (who,)), latent=latents(1, 8, 8))
        wanted = predictions(small.personal(people=(who,)), latent=latents(1, 8, 8))
        torch.testing.assert_close(found[0], wanted[0], **CLOSE)


def test_a_compiled_model_keeps_the_window(small, compiled, unbroken):
    window = {"start_percent": 0.5}
    wanted = sample(small.personal(**window), latent=latents(1, 8, 8), steps=4)
    found = sample(compiled(small.personal(**window)), latent=latents(1, 8, 8), steps=4)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def quantized_model(small, input_scale):
    """The MODEL of a file in 8 bits with stored scales, in the old layout, on what a GPU with 8-bit products runs."""
    settings = settings_of(small.family, small.unet)
    weights = comfy_weights(settings, small.unet)
    for name in [name for name in weights if "attn2.to_q.weight" in name or "attn2.to_out.0.weight" in name]:
        layer, scale = name.removesuffix(".weight"), weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights |= {f"{layer}.scale_weight": scale, f"{layer}.scale_input": torch.tensor(input_scale)}
    weights["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    weights, _ = comfy.utils.convert_old_quants(weights)
    settings.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    settings.custom_operations = comfy.ops.mixed_precision_ops(settings.quant_config, torch.float32)
    base = settings.get_model({})
    missing, unexpected = base.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


@torch.inference_mode()
@pytest.mark.parametrize("input_scale", [1.0, 0.1], ids=["no input scale", "input scale"])
def test_a_checkpoint_in_8_bits_with_stored_scales(small, input_scale):
    """ComfyUI drops an input scale of 1; another one clamps the fold's probe, so that layers must be called plainly."""
    model = quantized_model(small, input_scale)
    layers = list(cross_attentions(model.model.diffusion_model).values())
    linears = [linear for layer in layers for linear in (layer.to_q, layer.to_out[0])]
    assert all(isinstance(linear.weight, comfy.ops.QuantizedTensor) for linear in linears)
    assert all((getattr(linear, "input_scale", None) is not None) == (input_scale != 1) for linear in linears)
    truth = [predictions(m)[0] for m in (small.model, small.personal())]
    found = [predictions(m)[0] for m in (model, small.personal(model))]
    # Three bits behind the point, in every layer that the effect goes through: measured .14
    effect, wanted = found[1] - found[0], truth[1] - truth[0]
    assert (effect - wanted).square().mean().sqrt() < 0.2 * wanted.square().mean().sqrt()

    k, v = small.adapter.model.keys_values(person().u[None])[0]
    x, layer = draw(1, 64, layers[0].to_q.in_features, seed=6), layers[0]
    plain = layer.to_out(user_attention(layer.to_q(x), k, v, layer.heads)) - layer.to_out(torch.zeros_like(x[:, :1]))
    if input_scale != 1:
        with pytest.raises(ValueError, match="is not affine"):
            fold(layer.to_q, layer.to_out, k, v, layer.heads, x.shape[-1])
        return
    folded = folded_attention(x, fold(layer.to_q, layer.to_out, k, v, layer.heads, x.shape[-1]), layer.heads)
    assert (folded - plain).square().mean().sqrt() < 0.1 * plain.square().mean().sqrt()


@torch.inference_mode()
def first_positive(model, sigma):
    """The positive's prediction of one step from `sigma`."""
    clone, seen = watched(model)
    guider, sampler = guider_of("cfg", clone)[0], comfy.samplers.sampler_object("euler")
    SamplerCustomAdvanced.execute(Noise_RandomNoise(3), guider, sampler, torch.tensor([sigma, 0.0]), latents(1, 8, 8))
    return seen[0][0]


@pytest.mark.parametrize("small", ["sdxl"], indirect=True)
def test_a_part_of_a_continuous_schedule(small):
    """The window is a part of the schedule that a node put into the MODEL: percents of the logarithm of sigma."""
    (model,) = ModelSamplingContinuousEDM().patch(small.model, "edm_playground_v2.5", 120.0, 0.002)
    personal, schedule = (
        small.personal(model, start_percent=0.2, end_percent=0.5),
        model.get_model_object("model_sampling"),
    )
    for percent, active in ((0.19, False), (0.21, True), (0.49, True), (0.51, False)):
        sigma = schedule.percent_to_sigma(percent)
        assert torch.equal(first_positive(personal, sigma), first_positive(model, sigma)) != active
