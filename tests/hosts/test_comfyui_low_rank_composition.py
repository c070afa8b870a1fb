"""The low-rank branch beside what people put into the same graph, in real denoisers at tiny sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig
from ppd.branch import Scope

from .test_comfyui_low_rank import DIM, adapter_for, person
from .tiny_models import CPU, build, conditioning, latent, sample

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.cldm.cldm
    import comfy.context_windows
    import comfy.controlnet
    import comfy.gligen
    import comfy.ldm.qwen_image.model
    import comfy.model_management
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
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode
    from comfy_extras.nodes_custom_sampler import DualModelGuider
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import linear_sites, widths_of

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
FAMILIES = ("qwen_image", "z_image", "flux1", "sdxl")


@dataclass
class Small:
    """A family's MODEL at a tiny size, and adapters for it by their rules for unconditional rows."""

    family: str
    model: Any
    adapters: dict[str, Any]

    def personal(self, model=None, people=(0,), strength=1.0, rule="none", on_outcome=None, **scope):
        """`model`, or the plain one, painting for the people of these seeds."""
        people = [person(seed) for seed in people]
        chosen = Scope("all", **scope)
        return apply_user(model or self.model, self.adapters[rule], people, strength, chosen, on_outcome)

    def layers(self):
        return linear_sites(self.model.model.diffusion_model)

    def paint(self, model=None, batch=1, cfg=4.0, prompts=None, start=None, **options):
        """KSampler's latents."""
        positive, negative = prompts or (conditioning(self.family), conditioning(self.family, seed=1))
        start = latent(self.family, batch) if start is None else start
        return sample(model or self.model, positive, negative, start, cfg=cfg, **options)

    def predictions(self, model=None, **options):
        """The first predictions of a run: for the positive, and for the negative."""
        clone, seen = (model or self.model).clone(), []

        def watch(executor, *args, **kwargs):
            found = executor(*args, **kwargs)
            seen.append([each.clone() for each in found])
            return found

        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", watch)
        self.paint(clone, steps=1, **options)
        return seen[0]


def small_model(family):
    model = build(family)
    rules = {rule: manage_adapter(adapter_for(model, unconditional=rule)) for rule in ("none", "same")}
    return Small(family, model, rules)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return small_model(request.param)


def only(*families):
    return pytest.mark.parametrize("small", families, indirect=True)


def apart(*tensors):
    """Whether any two of them differ by more than rounding."""
    return all((one - other).abs().max() > 1e-3 for one, other in combinations(tensors, 2))


def lora_of(small, seed=5):
    """A file of a LoRA on all layers that our branch acts in as well, in the names that work with any model."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for site in small.layers():
        name = f"diffusion_model.{site.name}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, site.in_features, generator=generator) * 0.3
        tensors[f"{name}.lora_B.weight"] = torch.randn(site.out_features, 2, generator=generator) * 0.2
    return tensors


LOADERS = {"patched": "load_lora_for_models", "not merged": "load_bypass_lora_for_models"}


@pytest.mark.parametrize("loader", LOADERS)
def test_lora_before_or_after(small, loader):
    def with_lora(model):
        return getattr(comfy.sd, LOADERS[loader])(model, None, lora_of(small), 1.0, 0.0)[0]

    base = small.predictions()
    alone, ours = small.predictions(with_lora(small.model)), small.predictions(small.personal())
    both = small.predictions(small.personal(with_lora(small.model)))
    other_way = small.predictions(with_lora(small.personal()))
    assert apart(base[0], alone[0], ours[0], both[0])
    assert torch.equal(both[0], other_way[0])
    assert torch.equal(both[1], alone[1])
    assert torch.equal(small.predictions()[0], base[0])


def test_partial_loading(small, monkeypatch):
    """As on a card with hardly any memory, where layers and their patches are cast in each call."""
    load, loaded = comfy.model_management.LoadedModel.model_load, comfy.sd.load_lora_for_models
    personal = small.personal(loaded(small.model, None, lora_of(small), 1.0, 0.0)[0])
    wanted = small.predictions(personal)
    comfy.model_management.unload_all_models()
    monkeypatch.setattr(
        comfy.model_management.LoadedModel, "model_load", lambda self, _=0, **rest: load(self, 1, **rest)
    )
    found = small.predictions(personal)
    assert all(len(layer.weight_function) == 1 for layer in small.layers().values())
    comfy.model_management.unload_all_models()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def control_of(small):
    """A ControlNet of the denoiser's shape with random weights."""
    config = dict(small.model.model.model_config.unet_config)
    config.pop("out_channels")
    control = comfy.cldm.cldm.ControlNet(**config, hint_channels=3)
    generator = torch.Generator().manual_seed(4)
    for value in control.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 2 / max(1, value[0].numel()) ** 0.5)
    return comfy.controlnet.ControlNet(control, load_device=CPU)


@only("sdxl")
def test_controlnet(small):
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(7))
    prompts = conditioning(small.family), conditioning(small.family, seed=1)
    controlled = nodes.ControlNetApplyAdvanced().apply_controlnet(*prompts, control_of(small), hint, 1.0, 0.0, 1.0)
    alone, ours = small.predictions(prompts=controlled), small.predictions(small.personal())
    both = small.predictions(small.personal(), prompts=controlled)
    assert apart(alone[0], ours[0], both[0])
    assert torch.equal(both[1], alone[1])


def test_wrappers_of_another_pack(small):
    """Around every call of the model, and around a layer that we act in, put there before us or by a node after us."""
    model = small.model.clone()
    layer = list(small.layers().values())[1]
    calls = []

    def call(executor, x, *args, **kwargs):
        calls.append(len(x))
        return executor(0.5 * x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", call)
    plain = layer.forward
    layer.forward = theirs = lambda x, *args, **kwargs: 1 + 2 * plain(x, *args, **kwargs)
    try:
        alone, both = small.predictions(model), small.predictions(small.personal(model))
        assert layer.forward is theirs
    finally:
        del layer.forward
    assert len(calls) > 1
    assert apart(alone[0], both[0], small.predictions(model)[0], small.predictions(small.personal())[0])
    assert torch.equal(both[1], alone[1])


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
    pack, settings = node_pack("ComfyUI-TiledDiffusion/__init__.py", afresh=True), ("MultiDiffusion", 64, 64, 0)

    def apply(model, tiles_at_a_time=4):
        return pack.NODE_CLASS_MAPPINGS["TiledDiffusion"]().apply(model, *settings, tiles_at_a_time)[0]

    return apply


def wide(small, batch=1):
    return torch.zeros(batch, latent(small.family).shape[1], 16, 16)


def quarters(tensor):
    return [tensor[..., i : i + 8, j : j + 8] for i in (0, 8) for j in (0, 8)]


@only("z_image", "flux1", "sdxl")
def test_tiles(small, tiled):
    base, ours = (small.predictions(tiled(model), start=wide(small)) for model in (small.model, small.personal()))
    assert torch.equal(ours[1], base[1])
    assert all(apart(*parts) for parts in zip(quarters(ours[0]), quarters(base[0]), strict=True))
    one_by_one = small.predictions(tiled(small.personal(), tiles_at_a_time=1), start=wide(small))
    torch.testing.assert_close(ours[0], one_by_one[0], **CLOSE)


@only("z_image", "flux1", "sdxl")
def test_context_windows(small):
    """Windows of 8 of 16 columns, whose calls have rows as the whole has."""

    def windowed(model):
        settings = 8, 4, "standard_static", 1, False, "pyramid", 3, False
        return ContextWindowsManualNode.execute(model, *settings, causal_window_fix=False).result[0]

    base, ours = (small.paint(windowed(model), start=wide(small)) for model in (small.model, small.personal()))
    assert all(apart(*parts) for parts in zip(quarters(ours), quarters(base), strict=True))
    assert apart(ours, small.paint(small.personal(), start=wide(small)))
    for number, same in enumerate((False, True)):
        one, other = (small.predictions(windowed(m), start=wide(small)) for m in (small.model, small.personal()))
        assert torch.equal(one[number], other[number]) == same


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("rule", ["none", "same"])
def test_several_people_in_a_batch(small, rule, cfg):
    both = small.predictions(small.personal(people=(1, 2), rule=rule), batch=2, cfg=cfg)
    base = small.predictions(batch=2, cfg=cfg)
    for row in (0, 1):
        alone = small.predictions(small.personal(people=(1 + row,), rule=rule), batch=2, cfg=cfg)
        torch.testing.assert_close(both[0][row], alone[0][row], **CLOSE)
        if cfg > 1:
            torch.testing.assert_close(both[1][row], alone[1][row], **CLOSE)
    assert apart(both[0][0] - base[0][0], both[0][1] - base[0][1])
    assert cfg == 1 or torch.equal(both[1], base[1]) == (rule == "none")


def test_interrupted_runs(small):
    """Whoever presses cancel gets the plain model back, and the next person theirs."""
    before = [vars(layer).get("forward") for layer in small.layers().values()]
    plain, wanted = small.paint(), small.paint(small.personal())
    model = small.personal()

    def cancel(executor, *args, **kwargs):
        executor(*args, **kwargs)
        raise comfy.model_management.InterruptProcessingException

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        small.paint(model)
    assert [vars(layer).get("forward") for layer in small.layers().values()] == before
    assert torch.equal(small.paint(), plain)
    assert torch.equal(small.paint(small.personal()), wanted)


def test_a_guider_with_another_model_for_unconditional_rows(small):
    other = small_model(small.family).model
    text = conditioning(small.family), 3.0, other, conditioning(small.family, seed=1)
    noise = torch.randn(latent(small.family).shape, generator=torch.Generator().manual_seed(0))
    found = []
    for model in (small.model, small.personal(rule="same")):
        guider = DualModelGuider.execute(model, *text).result[0]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 1)
        seen = []

        def watch(arguments, seen=seen):
            seen.append((arguments["cond_denoised"].clone(), arguments["uncond_denoised"].clone()))
            return arguments["denoised"]

        guider.model_options = comfy.model_patcher.set_model_options_post_cfg_function(guider.model_options, watch)
        guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0
        )
        found.append(seen[0])
    (base, base_negative), (ours, ours_negative) = found
    assert apart(base, ours)
    assert torch.equal(base_negative, ours_negative)


@pytest.mark.parametrize("order", ["ours first", "ours last"])
def test_two_adapters_in_a_row(small, order):
    """Both act and each is counted; the second may be of other rows and of another part of the schedule."""
    outcomes = []
    first = {"people": (1,), "on_outcome": outcomes.append}
    second = {"people": (2,), "rule": "same", "start_percent": 0.5, "on_outcome": outcomes.append}
    if order == "ours last":
        first, second = second, first
    both = small.paint(small.personal(small.personal(**first), **second), steps=4)
    assert [outcome.reached for outcome in outcomes] == [len(small.layers())] * 2
    assert sorted(outcome.personal_calls < outcome.calls for outcome in outcomes) == [False, True]
    each = [small.paint(small.personal(**options), steps=4) for options in (first, second)]
    assert apart(both, *each, small.paint(steps=4))


@only("sdxl")
def test_keys_and_values_beside_it(small):
    """A U-Net takes both kinds in one graph, in either order."""
    values: dict[str, Any] = {"family": "sdxl", "encoder": "test", "encoder_hash": "0" * 64, "embedding_dim": DIM}
    config = CrossAttentionConfig(**values, layers=widths_of(small.model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = CrossAttentionAdapter(config)
        for layer in adapter.layers:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.3)
    managed, outcomes = manage_adapter(adapter), []

    def keys_values(model):
        return apply_user(model, managed, [person(2)], scope=Scope("all"), on_outcome=outcomes.append)

    base, alone, ours = (small.predictions(m) for m in (None, keys_values(small.model), small.personal()))
    two = keys_values(small.personal()), small.personal(keys_values(small.model))
    both, other_way = (small.predictions(m) for m in two)
    assert apart(base[0], alone[0], ours[0], both[0])
    torch.testing.assert_close(both[0], other_way[0], **CLOSE)
    assert torch.equal(both[1], base[1])
    assert {outcome.reached for outcome in outcomes} == {config.count}


QUANTISED = {"int8_tensorwise": (torch.int8, 127, 0.1), "float8_e4m3fn": (torch.float8_e4m3fn, 448, 0.4)}
"""Formats of ComfyUI's files: how weights are stored, their largest value, and how far the effect may be off."""


def quantised(model, kind):
    """The same MODEL as ComfyUI loads it from a file whose main layers are in 8 bits."""
    denoiser, (dtype, largest, _) = model.model.diffusion_model, QUANTISED[kind]
    weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
    for site in linear_sites(denoiser):
        weight = weights[f"{site.name}.weight"]
        scale = weight.abs().max() / largest
        stored = weight / scale
        weights[f"{site.name}.weight"] = (stored.round() if dtype is torch.int8 else stored).to(dtype)
        weights[f"{site.name}.weight_scale"] = scale
        weights[f"{site.name}.comfy_quant"] = torch.tensor(
            list(json.dumps({"format": kind}).encode()), dtype=torch.uint8
        )
    config = model.model.model_config.unet_config
    settings = type(model.model.model_config)(config)
    settings.unet_config = dict(config)  # SDXL's settings would state the heads of the full size
    settings.set_inference_dtype(torch.float32, None)
    settings.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    settings.custom_operations = comfy.ops.mixed_precision_ops(settings.quant_config, torch.float32)
    base = settings.get_model({})
    missing, unexpected = base.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    return comfy.model_patcher.ModelPatcher(base, CPU, CPU)


@torch.inference_mode()
@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_models(small, kind):
    model, outcomes = quantised(small.model, kind), []
    layers = linear_sites(model.model.diffusion_model).values()
    assert all(isinstance(layer.weight, comfy.ops.QuantizedTensor) for layer in layers)
    base, ours = small.predictions(model), small.predictions(small.personal(model, on_outcome=outcomes.append))
    assert outcomes[0].reached == outcomes[0].places == len(layers)
    assert torch.equal(ours[1], base[1])
    assert torch.equal(small.predictions(small.personal(model, strength=0.0))[0], base[0])
    wanted = small.predictions(small.personal())[0] - small.predictions()[0]
    error = ours[0] - base[0] - wanted
    assert error.square().mean().sqrt() < QUANTISED[kind][2] * wanted.square().mean().sqrt()


@torch.inference_mode()
@only("qwen_image", "sdxl")
def test_a_model_in_bf16_with_an_adapter_in_fp32(small):
    model = build(small.family, torch.bfloat16)
    base, ours = small.predictions(model), small.predictions(small.personal(model))
    wanted = small.predictions(small.personal())[0] - small.predictions()[0]
    error = ours[0] - base[0] - wanted
    assert torch.equal(ours[1], base[1])
    assert error.square().mean().sqrt() < 0.1 * wanted.square().mean().sqrt()


@only("qwen_image")
def test_an_adapter_lies_once_in_memory_in_the_models_dtype(small):
    """However often it is applied; another copy for the next model's dtype, and none where it has that already."""
    models = {dtype: build(small.family, dtype) for dtype in (torch.bfloat16, torch.float32)}
    adapter, found = small.adapters["none"], {}
    for dtype, model in models.items():
        twice = apply_user(apply_user(model, adapter, [person(1)]), adapter, [person(2)])
        one, other = twice.get_additional_models_with_key("ppd_user")
        assert one.model is other.model
        found[dtype] = one.model
        assert {weight.dtype for weight in one.model.sites.parameters()} == {dtype}
        assert one.model.directions.dtype == torch.float32
    assert found[torch.float32] is adapter.model
    assert found[torch.bfloat16] is not adapter.model


BLOCK = ["diffusion_model.transformer_blocks.0"]


@pytest.fixture
def compiled(monkeypatch):
    """Compiles as the stock node TorchCompileModel does, with dynamo alone and the attention that GPUs use.

    A CPU's asks for the free memory in every call, which breaks graphs.
    """
    monkeypatch.setattr(comfy.ldm.qwen_image.model, "optimized_attention_masked", attention.attention_pytorch)
    torch._dynamo.reset()
    counters.clear()

    def compile_parts(model, parts):
        clone = model.clone()
        set_torch_compile_wrapper(clone, "eager", {"guard_filter_fn": skip_torch_compile_dict}, keys=parts)
        return clone

    yield compile_parts
    torch._dynamo.reset()


@only("qwen_image")
@torch.inference_mode()
@pytest.mark.parametrize("order", ["ours first", "ours last"])
@pytest.mark.parametrize("parts", [BLOCK, ["diffusion_model"]], ids=["block", "all"])
def test_compiled(small, compiled, parts, order):
    """The graphs of one person serve the next, and another part of the schedule; the base has its own, and stays so."""
    plain = compiled(small.model, parts)

    def paint(who=None, model=small.model, **scope):
        return small.paint(model if who is None else small.personal(model, (who,), **scope), cfg=1.0, steps=4)

    def paint_compiled(who, **scope):
        if order == "ours last":
            return paint(who, plain, **scope)
        model = small.personal(people=(who,), **scope)
        # Its node would compile anew for each run: these are the graphs that it has
        (wrapper,) = plain.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile")
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", wrapper)
        model.model_options["torch_compile_kwargs"] = plain.model_options["torch_compile_kwargs"]
        return paint(model=model)

    base, graphs = paint(model=plain), []
    torch.testing.assert_close(base, paint(), **CLOSE)
    for who, scope in ((1, {}), (2, {}), (2, {"start_percent": 0.5})):
        torch.testing.assert_close(paint_compiled(who, **scope), paint(who, **scope), **CLOSE)
        graphs.append(counters["stats"]["unique_graphs"])
    assert torch.equal(paint(model=plain), base)
    assert {*graphs, counters["stats"]["unique_graphs"]} == {graphs[0]}
    assert sum(counters["graph_break"].values()) == 0, counters["graph_break"]
