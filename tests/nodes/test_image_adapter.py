"""An IP-Adapter and ComfyUI's own CLIP vision model in the nodes."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfyui

VISION = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 56,
    "projection_dim": 1024,
}


@pytest.fixture(scope="module")
def clip_vision(comfyui_path):
    """ViT-H-14's widths with three layers and sixteen patches, random weights, as Load CLIP Vision gives it."""
    import comfy.clip_vision

    model = comfy.clip_vision.ClipVisionModel(VISION)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * 0.02 if tensor.is_floating_point() else tensor
        for name, tensor in model.get_sd().items()
    }
    positions = "vision_model.embeddings.position_ids"
    model.load_sd({name: tensor for name, tensor in weights.items() if name != positions})
    return model


@pytest.fixture(params=["plain", "plus"])
def adapter(request, run, comfy_folders, ip_adapter_file):
    """Loaded by the node from models/ipadapter; the plus file in halves, as published."""
    folder = comfy_folders.models / "ipadapter"
    folder.mkdir()
    file = shutil.copy(ip_adapter_file(request.param, [8] * 16, 768), folder / "ip-adapter_sd15.safetensors")
    if request.param == "plus":
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    return run("PPD_UserAdapterLoader", user_adapter="IP-Adapter: ip-adapter_sd15.safetensors").result[0]


def pairs_of(run, name="warm"):
    return run("PreferencePairLoader", preference_set=f"example: {name}").result[0]


def test_they_are_listed_and_other_files_are_refused(run, comfy_folders, node_classes, adapter):
    (comfy_folders.models / "ipadapter" / "old.bin").write_bytes(b"pickle")
    (comfy_folders.models / "ipadapter" / "notes.txt").write_text("x")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    options = node_classes["PPD_UserAdapterLoader"].INPUT_TYPES()["required"]["user_adapter"][1]["options"]
    assert options[-2:] == ["IP-Adapter: ip-adapter_sd15.safetensors", "IP-Adapter: old.bin"]
    with pytest.raises(ValueError, match="not safetensors.*convert it"):
        run("PPD_UserAdapterLoader", user_adapter="IP-Adapter: old.bin")


def test_pairs_become_an_embedding_that_its_adapter_takes(run, comfy_folders, adapter, clip_vision):
    pairs = pairs_of(run)
    connected = {"encoder": "image adapter", "user_adapter": adapter, "clip_vision": clip_vision}
    embedding, report = run("UserEmbeddingEncoder", pairs=pairs, **connected).result
    plus = adapter.model.is_plus
    assert embedding.u.shape == embedding.u_negative.shape == ((16, 768) if plus else (1, 1024))
    name = f"ViT-H-14 {'tokens' if plus else 'image_embeds'}"
    assert report.startswith(f"4 pairs read by {name}: liked and disliked sides ")
    adapter.model.check_embedding(embedding)
    assert len(list(comfy_folders.user.rglob("*.npy"))) == 8
    again = run("UserEmbeddingEncoder", pairs=pairs, **connected).result[0]
    assert torch.equal(again.u, embedding.u)
    other = run("UserEmbeddingEncoder", pairs=pairs_of(run, "calm"), **connected).result[0]
    blended = run("PPD_UserEmbeddingBlend", first=embedding, second=other, weight=0.25).result[0]
    torch.testing.assert_close(blended.u_negative, 0.75 * embedding.u_negative + 0.25 * other.u_negative)


@pytest.mark.parametrize("lacking", ["user_adapter", "clip_vision", "an IP-Adapter"])
def test_it_says_what_is_not_connected(run, adapter, clip_vision, lacking):
    connected = {"user_adapter": adapter, "clip_vision": clip_vision}
    if lacking == "an IP-Adapter":
        connected["user_adapter"] = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    else:
        del connected[lacking]
    with pytest.raises(ValueError, match="needs an IP-Adapter as user_adapter.*ViT-H-14 as clip_vision"):
        run("UserEmbeddingEncoder", pairs=pairs_of(run), encoder="image adapter", **connected)
