"""A taste saved as a LoRA: ComfyUI's own loaders make of it what the branch makes, on each class of today's denoisers."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec

import pytest
import torch
from safetensors import safe_open

from ppd.adapters.lora import differences, lora_of, quantised_sentence, write_lora
from ppd.branch import Scope

from .test_comfyui_low_rank import adapter_for, paint, person
from .tiny_models import CPU, TINY, build, conditioning, latent, sample

if find_spec("comfy"):
    import comfy.lora
    import comfy.sd
    import comfy.supported_models
    import comfy.utils
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
