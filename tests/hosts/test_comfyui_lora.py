"""A taste saved as a LoRA: ComfyUI's own loaders paint what the branch paints, on each class of today's denoisers."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec

import pytest
import torch

from ppd.lora import lora_of, quantised_sentence, write_lora

from .test_comfyui_low_rank import adapter_for, paint, person
from .tiny_models import CPU, TINY, build, conditioning, latent, sample

if find_spec("comfy"):
    import comfy.sd
    import comfy.supported_models
    import nodes
    from comfy.model_patcher import ModelPatcher
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import linear_sites, quantisation_of

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return request.param, build(request.param)


def difference(found, expected):
    """The largest difference in parts of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def loaded(monkeypatch, folder, name, model, strength=1.0):
    """The MODEL with a LoRA file by ComfyUI's stock node."""
    import folder_paths

    known = {**folder_paths.folder_names_and_paths, "loras": ([str(folder)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


@torch.inference_mode()
def test_the_stock_loader_takes_every_key_and_paints_what_the_branch_paints(tiny, tmp_path, monkeypatch, caplog):
    name, model = tiny
    adapter = adapter_for(model)
    tensors = lora_of(adapter, person(), strength=0.7)
    write_lora(tmp_path / "taste.safetensors", tensors, adapter.config.family, torch.float32)
    caplog.set_level(logging.WARNING)
    personal = paint(name, apply_user(model, manage_adapter(adapter), [person()], 0.7))
    as_lora = loaded(monkeypatch, tmp_path, "taste.safetensors", model)
    assert {key for key, found in as_lora.patches.items() if found} == {
        f"diffusion_model.{site.name}.weight" for site in adapter.config.sites
    }
    assert not [record.message for record in caplog.records if "lora" in record.message.lower()]
    assert difference(paint(name, as_lora), personal) < 1e-4
    plain = paint(name, model)
    assert difference(personal, plain) > 1e-2
    beside, _ = comfy.sd.load_bypass_lora_for_models(model, None, dict(tensors), 1.0, 0)
    assert difference(paint(name, beside), personal) < 1e-4
    assert torch.equal(paint(name, model), plain)


@torch.inference_mode()
def test_one_forward_is_that_of_the_merged_weights(tiny):
    name, model = tiny
    adapter = adapter_for(model)
    once = {"cfg": 1.0, "steps": 1}
    personal = paint(name, apply_user(model, manage_adapter(adapter), [person()]), **once)
    merged, layers = build(name), linear_sites(model.model.diffusion_model)
    tensors = lora_of(adapter, person())
    for site in layers:
        down, up = (tensors[f"diffusion_model.{site.name}.{key}.weight"] for key in ("lora_A", "lora_B"))
        merged.model.diffusion_model.get_submodule(site.name).weight.add_(up @ down)
    assert difference(paint(name, merged, **once), personal) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [7, 9])
def test_only_rows_of_the_person_move_and_each_moves_as_alone(tiny, tokens):
    """Also where the negative prompt has other tokens, and is another call of the model."""
    name, model = tiny
    people, managed = [person(1), person(2)], manage_adapter(adapter_for(model, unconditional="none"))
    outcomes = []

    def predictions(*who):
        found = {}
        caught = apply_user(model, managed, who, on_outcome=outcomes.append) if who else model.clone()
        caught.set_model_sampler_post_cfg_function(lambda args: found.update(args) or args["denoised"])
        sample(caught, conditioning(name), conditioning(name, 1, tokens), latent(name, 2), steps=1)
        return found["cond_denoised"], found["uncond_denoised"]

    both, plain_negative = predictions(*people), predictions()[1]
    calls = 1 if tokens == 7 or name in ("flux2", "anima") else 2  # which fill their prompts up to one length
    assert [(one.calls, one.personal_calls) for one in outcomes] == [(calls, 1)]
    torch.testing.assert_close(both[1], plain_negative, rtol=1e-6, atol=1e-6)
    for row, somebody in enumerate(people):
        alone = predictions(somebody)[0]
        assert difference(both[0][row], alone[row]) < 1e-5
        assert difference(both[0][1 - row], alone[1 - row]) > 1e-2


def forwards(model):
    """What stands in for the class's forward, by module: ComfyUI's bypass leaves the class's own there."""
    return {key: vars(module).get("forward") for key, module in model.model.diffusion_model.named_modules()}


@torch.inference_mode()
def test_after_an_error_in_the_sampler_every_layer_is_as_before(tiny):
    name, model = tiny
    personal = apply_user(model, manage_adapter(adapter_for(model)), [person()])
    before = forwards(model)

    def fail(args):
        assert forwards(model) != before
        raise OSError("something else broke")

    personal.set_model_sampler_post_cfg_function(fail)
    with pytest.raises(OSError, match="something else broke"):
        paint(name, personal)
    assert forwards(model) == before


def in_few_bits(name, kind):
    """A family's MODEL, the layers that the branch adds to quantised as ComfyUI's files hold them."""
    full, tiny = build(name).model.diffusion_model, TINY[name]
    state = full.state_dict()
    for site in linear_sites(full):
        weight = state[f"{site.name}.weight"]
        quantised = QuantizedTensor.from_float(weight, QUANT_ALGOS[kind]["comfy_tensor_layout"], scale="recalculate")
        marker = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        state |= {f"{site.name}.weight": quantised._qdata, f"{site.name}.weight_scale": quantised._params.scale}
        state[f"{site.name}.comfy_quant"] = marker
    settings = getattr(comfy.supported_models, tiny.kind)(tiny.config)
    settings.unet_config |= tiny.config
    settings.quant_config = {"mixed_ops": True}
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, device=CPU)
    base.diffusion_model.load_state_dict(state)
    return ModelPatcher(base, CPU, CPU)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["int8_tensorwise", "float8_e4m3fn"])
def test_on_a_quantised_model_rounding_drowns_a_merged_taste_and_not_one_beside(kind):
    """Loaded whole, ComfyUI's stock loader merges; its bypass loader adds beside the layer, and so does the branch."""
    name = "qwen_image"
    model = in_few_bits(name, kind)
    adapter = adapter_for(model, gain=0.03)
    plain, personal = paint(name, model), paint(name, apply_user(model, manage_adapter(adapter), [person()]))
    effect = (personal - plain).norm()
    assert 0.005 < effect / plain.norm() < 0.05
    wrong = {}
    for how in (comfy.sd.load_lora_for_models, comfy.sd.load_bypass_lora_for_models):
        loaded_model, _ = how(model, None, lora_of(adapter, person()), 1.0, 0)
        wrong[how.__name__] = float((paint(name, loaded_model) - personal).norm() / effect)
    assert wrong["load_lora_for_models"] > 0.3 and wrong["load_bypass_lora_for_models"] < 1e-3
    assert quantisation_of(model) == kind and kind in quantised_sentence(kind)
    assert torch.equal(paint(name, model), plain)


def test_what_layers_are_held_in():
    for dtype, found in ((torch.bfloat16, None), (torch.float16, None), (torch.float8_e5m2, "float8_e5m2")):
        assert quantisation_of(build("qwen_image", dtype)) == found
