"""The comparison on narrow models of ComfyUI's own classes with random weights: what it does, not how well."""

from __future__ import annotations

import importlib
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.image_prompt import (
    PEERS_LAYERS,
    fitted_adapter,
    judge,
    keep,
    our_models,
    paint,
    peers_models,
    pixel_distance,
)
from ppd.pairs import PreferencePair
from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import folder_paths
    from comfy.patcher_extension import WrappersMP

PROMPTS = ["a quiet lake", "a red boat"]
SETTINGS: dict[str, Any] = {"seeds": 2, "size": 64, "steps": 1, "cfg": 4.0}


def pair(number: int, prompt: str) -> PreferencePair:
    noise = np.random.default_rng(number).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    chosen, rejected = (Picture.from_image(Image.fromarray(pixels)) for pixels in noise)
    return PreferencePair(prompt, chosen, rejected, id=str(number))


SUPPORT = [pair(number, f"support {number}") for number in range(3)]
HELD_OUT = [pair(10 + number, prompt) for number, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def clip_vision(pack):
    """ViT-H-14's widths with two layers and 64 patches: convolutions of larger ones are many times slower."""
    import comfy.clip_vision

    config = {"model_type": "clip_vision_model", "hidden_act": "gelu", "hidden_size": 1280, "image_size": 224}
    config |= {"intermediate_size": 256, "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 2}
    found = comfy.clip_vision.ClipVisionModel(config | {"patch_size": 28, "projection_dim": 1024})
    draw(found.model)
    return found


@pytest.fixture(scope="module", params=["plain", "plus"])
def models(request, pack, ip_adapter_file):
    """SD1.5's denoiser a tenth as wide, a text encoder of one layer, TAESD, and an IP-Adapter."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base
    from comfy.taesd.taesd import TAESD

    from benchmarks.sampling import full_model
    from ppd.hosts.comfyui_denoisers import cross_attentions

    model = full_model("sd15", torch.float32, width=32)
    draw(model.model.diffusion_model)
    layers = cross_attentions(model.model.diffusion_model).values()
    file = ip_adapter_file(request.param, [layer.heads * layer.dim_head for layer in layers], 768)
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    config = {"hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 64, "num_attention_heads": 12}
    config |= {"num_hidden_layers": 1, "max_position_embeddings": 77, "vocab_size": 49408}
    config |= {"eos_token_id": 49407}
    target.params["clip_model"] = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=config)
    clip = comfy.sd.CLIP(target)
    draw(clip.cond_stage_model)
    vae = comfy.sd.VAE(sd=TAESD().state_dict())
    draw(vae.first_stage_model)
    return SimpleNamespace(model=model, clip=clip, vae=vae, file=file)


@pytest.fixture(scope="module")
def encoder(weights):
    """A small taste encoder."""
    encoder = importlib.import_module("ppd_pack.ppd.encoders.encoder")
    towers = importlib.import_module("ppd_pack.ppd.encoders.towers")
    folder = weights / "taste_encoders" / "pocket"
    taste = encoder.TasteEncoder.load(folder)
    return taste.open(towers.open_tower(taste.tower, folder))


@pytest.fixture(scope="module")
def adapter(models, encoder, clip_vision, own_folder):
    """The IP-Adapter fitted to it by pictures of noise."""
    pictures = [pair(100 + number, "").chosen for number in range(32)]
    with torch.inference_mode():
        return fitted_adapter(models.file, encoder, clip_vision, pictures)


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory):
    """Features of pictures are kept in ComfyUI's user folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "user_directory", str(tmp_path_factory.mktemp("user")))
        yield


def draw(module: torch.nn.Module) -> None:
    """Weights under which outputs are as large as inputs, so that what goes in shows in the picture."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                x = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(x / parameter[0].numel() ** 0.5)
            elif parameter.ndim == 1:
                parameter.fill_(float(name.endswith("weight")))


@torch.inference_mode()
def test_paints_and_judges(models, adapter, encoder, clip_vision, tmp_path):
    """All that a run with weights does after loading them, without the peer."""
    ours = our_models(models.model, adapter, encoder, SUPPORT, strength=1.0)
    painted = paint({"plain": models.model, **ours}, models.clip, models.vae, PROMPTS, **SETTINGS)
    assert {name: [len(row) for row in rows] for name, rows in painted.items()} == dict.fromkeys(painted, [2, 2])
    report = judge(painted, SUPPORT, HELD_OUT, clip_vision)
    assert list(report["win_rates"]) == ["ours against plain", "opposite against plain", "ours against opposite"]
    for figure in [*report["win_rates"].values(), report["judge"]["accuracy_on_support_pairs"]]:
        assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1
    assert report["win_rates"]["ours against plain"]["n"] == 2  # prompts
    assert report["judge"]["accuracy_on_support_pairs"]["n"] == 3  # pairs
    assert report["distance_from_plain"]["ours"]["pixels"]["mean"] > 0
    keep(tmp_path / "out", painted, PROMPTS, SUPPORT)
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3 * 2 * 2


@torch.inference_mode()
def test_the_opposite_is_the_opposite_taste(models, adapter, encoder):
    ours = our_models(models.model, adapter, encoder, SUPPORT, 1.0)
    torch.testing.assert_close(person_of(ours["ours"]).u, -person_of(ours["opposite"]).u)
    assert person_of(ours["ours"]).u.norm() > 0.1


@pytest.mark.parametrize("models", ["plain"], indirect=True)
@torch.inference_mode()
def test_the_peer_paints(models, clip_vision, comfyui_path):
    """With likes leading the prompt's side and dislikes the other, and with their difference."""
    checkout = comfyui_path / "custom_nodes" / "ComfyUI_IPAdapter_plus"
    if not checkout.is_dir():
        pytest.skip("no ComfyUI_IPAdapter_plus among ComfyUI's custom nodes")
    peers = peers_models(checkout, models.model, models.file, clip_vision, SUPPORT, 1.0, PEERS_LAYERS["sd15"])
    painted = paint({"plain": models.model, **peers}, models.clip, models.vae, PROMPTS, **SETTINGS)
    for name in peers:
        assert (pixel_distance(painted[name], painted["plain"]) > 0).all()


def person_of(model):
    """The user embedding that a MODEL carries."""
    (sample,) = model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, "ppd_user")
    return sample.__self__.people[0]
