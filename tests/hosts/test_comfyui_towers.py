"""Towers in ComfyUI: its own classes at tiny configurations, against what it computes itself."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from ppd.encoders.features import PictureFeatures
from ppd.encoders.towers import complete
from ppd.pictures import Picture, PreferenceError

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.clip_vision
    import comfy.model_management
    import comfy.sd
    import folder_paths

    from ppd.hosts import comfyui_towers
    from ppd.hosts.comfyui_towers import ManagedTower, TextEncoderTower, clip_vision_tower, open_tower, tower_choices

    from .vision_models import VISION, draw, text_encoder, vision_model
else:
    VISION = {}

READERS = ("qwen25", "qwen3vl", "krea2", "qwen35", "gemma4")
MARKS = {151643, 151644, 151645, 151652, 151653, 151667, 151668, 248045, 248046, 248054, 248068, 248069}
MARKS |= {105, 106, 258882}
"""Ends of pictures and turns, and the thoughts that are left out."""


def picture(seed, size=(80, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def as_image(*pictures):
    """What ComfyUI calls an IMAGE."""
    return torch.stack([torch.from_numpy(np.array(one)) for one in pictures]).float() / 255


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Empty model folders, by name."""
    paths = {}
    for name in ("clip_vision", "text_encoders", "open_clip", "vlm"):
        (tmp_path / name).mkdir()
        paths[name] = tmp_path / name
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], {".safetensors"}))
        folder_paths.filename_list_cache.pop(name, None)
    yield paths
    for name in paths:
        folder_paths.filename_list_cache.pop(name, None)


@pytest.mark.parametrize("kind", VISION)
def test_features_are_what_comfyuis_vision_model_pools(kind):
    vision = vision_model(kind)
    tower = clip_vision_tower(vision)
    pictures = [picture(0), picture(1), picture(2)]
    found = tower.features([tower.prepare(one) for one in pictures])
    if kind == "dinov3":  # encode_image asks it for the states before the last layer, which it has not
        with pytest.raises(AttributeError):
            vision.encode_image(as_image(*pictures))
        pixels = comfy.clip_vision.clip_preprocess(
            as_image(*pictures), size=vision.image_size, mean=vision.image_mean, std=vision.image_std
        )
        with torch.no_grad():
            expected = vision.model(pixel_values=pixels)[0][:, 0]
    else:
        seen = vision.encode_image(as_image(*pictures))
        expected = seen["image_embeds"] if kind == "clip" else seen["last_hidden_state"]
        if kind != "clip":
            expected = expected[:, 0] if kind == "dinov2" else expected.mean(1)
    torch.testing.assert_close(found, F.normalize(expected.float(), dim=-1))
    assert tower.dim == found.shape[1] == (12 if kind == "clip" else 32)
    assert (found[0] - found[1]).abs().max() > 0.05 and not found.requires_grad


@pytest.mark.parametrize("kind", VISION)
def test_pictures_of_any_size_stand_together_in_a_batch(kind):
    tower = clip_vision_tower(vision_model(kind))
    prepared = [tower.prepare(picture(seed, size)) for seed, size in enumerate([(80, 60), (60, 60), (90, 30)])]
    together = tower.features(prepared)
    for row, one in zip(together, prepared, strict=True):
        torch.testing.assert_close(row, tower.features([one])[0])
    assert prepared[0].dtype == torch.uint8 and tower.features([]).shape == (0, tower.dim)


def test_the_hash_of_a_vision_model_differs_by_weights_preprocessing_and_pooling():
    hashes = {kind: clip_vision_tower(vision_model(kind)).weight_hash for kind in VISION}
    assert clip_vision_tower(vision_model("clip"), "another name").weight_hash == hashes["clip"]
    other_mean = vision_model("clip")
    other_mean.image_mean = [0.5, 0.5, 0.5]
    others = [clip_vision_tower(vision_model("clip", seed=1)), clip_vision_tower(other_mean)]
    shorter = clip_vision_tower(vision_model("clip"))
    shorter.normalize = False
    assert len({*hashes.values(), *(tower.weight_hash for tower in [*others, shorter])}) == len(VISION) + 3
    unpooled = vision_model("clip")
    unpooled.model_type = "a new one"
    with pytest.raises(ValueError, match="is a a new one, and how its features are pooled is known for clip_vision"):
        clip_vision_tower(unpooled)


def test_what_a_loader_left_as_the_memory_was_does_not_tell_models_apart():
    first, second = vision_model("dinov2"), vision_model("dinov2")
    second.model.embeddings.mask_token.data.fill_(7.0)
    assert clip_vision_tower(first).weight_hash == clip_vision_tower(second).weight_hash


def test_a_second_reading_is_the_caches(tmp_path):
    vision = vision_model("siglip")
    looked = []
    vision.model.register_forward_pre_hook(lambda *_: looked.append(1))
    pictures = [Picture.from_image(picture(seed)) for seed in range(3)]
    first = PictureFeatures(clip_vision_tower(vision), cache_dir=tmp_path).picture_features(pictures)
    count = len(looked)
    again = PictureFeatures(clip_vision_tower(vision), cache_dir=tmp_path).picture_features(pictures)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert len(looked) - count <= 1  # its width, found by one black picture


def write_vision(models, monkeypatch, seed=0):
    """The tiny CLIP's file in models/clip_vision, and ComfyUI's configuration for its size."""
    vision = vision_model("clip", seed)
    tensors = {name: value.contiguous() for name, value in vision.get_sd().items()}
    save_file(tensors, models["clip_vision"] / "t.safetensors")

    def from_tensors(sd, prefix="", convert_keys=False):
        found = comfy.clip_vision.ClipVisionModel(VISION["clip"])
        assert found.load_sd(sd).missing_keys == []
        return found

    monkeypatch.setattr(comfy.clip_vision, "load_clipvision_from_sd", from_tensors)  # it knows published sizes only
    return vision


def test_a_vision_model_is_opened_by_its_file_in_the_queue_and_beside_it(models, monkeypatch):
    vision = write_vision(models, monkeypatch)
    expected = clip_vision_tower(vision)
    reference = tower_choices()["CLIP vision: t.safetensors"]
    assert reference == {"kind": "clip_vision", "file": "t.safetensors"}
    reference = complete(reference, expected)
    assert (reference["pooling"], reference["normalize"]) == ("projection", True)
    longer: Any = open_tower({**reference, "normalize": False, "hash": None})
    assert not longer.normalize and longer.weight_hash != expected.weight_hash
    queue = open_tower(reference)
    before = list(comfy.model_management.current_loaded_models)
    loads = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: loads.append(1))
    beside = open_tower(reference, on_cpu=True)
    prepared = [beside.prepare(picture(0))]
    torch.testing.assert_close(beside.features(prepared), expected.features(prepared))
    assert loads == [1] and comfy.model_management.current_loaded_models == before  # the expected one's own
    torch.testing.assert_close(queue.features(prepared), expected.features(prepared))
    assert len(loads) == 3 and (queue.name, queue.batch) == ("t", 16)


def test_another_model_in_its_place_is_refused(models, monkeypatch):
    write_vision(models, monkeypatch)
    reference = {"kind": "clip_vision", "file": "t.safetensors", "hash": "0" * 64}
    with pytest.raises(ValueError, match=r"tower t is another .* expected 000000000000, got \w{12}; put the model"):
        open_tower(reference)
    with pytest.raises(ValueError, match="no vision model gone.safetensors in models/clip_vision"):
        open_tower({"kind": "clip_vision", "file": "gone.safetensors"})
    with pytest.raises(ValueError, match="named by its file, got None"):
        open_tower({"kind": "clip_vision"})


@pytest.mark.parametrize("kind", READERS)
def test_features_are_the_mean_of_a_text_encoders_own_states_at_the_words_after_the_picture(kind, monkeypatch):
    clip = text_encoder(kind, monkeypatch)
    tower = TextEncoderTower(clip, layer=3)
    found = tower.features([tower.prepare(picture(seed)) for seed in range(2)])
    states = []
    reader = getattr(clip.cond_stage_model, clip.cond_stage_model.clip)
    hook = reader.transformer.model.layers[2].register_forward_hook(lambda *args: states.append(args[2][0].clone()))
    image = as_image(picture(1))
    words = comfyui_towers.GEMMA4.format(tower.instruction) if kind == "gemma4" else tower.instruction
    tokens = clip.tokenize(words, images=[image], image=image)
    said = [token[0] for token in tokens[clip.cond_stage_model.clip_name][0]]
    with torch.no_grad():
        clip.encode_from_tokens(tokens)
    hook.remove()
    after = said[next(place for place, token in enumerate(said) if isinstance(token, dict)) + 1 :]
    kept = [place - len(after) for place, token in enumerate(after) if token not in MARKS]
    torch.testing.assert_close(found[1], states[0][0][kept].mean(0))
    assert found.shape == (2, tower.dim) == (2, 32) and (found[0] - found[1]).abs().max() > 0.05
    heard = clip.decode([after[place] for place in kept]).strip()
    assert heard.startswith(tower.instruction) and heard.endswith("model" if kind == "gemma4" else "assistant")


@pytest.mark.parametrize("kind", READERS)
def test_a_text_encoder_paints_as_before_after_it_was_a_tower(kind, monkeypatch):
    clip = text_encoder(kind, monkeypatch)
    tokens = clip.tokenize("a quiet lake")
    with torch.no_grad():
        before = clip.encode_from_tokens(tokens)
        tower = TextEncoderTower(clip)
        tower.features([tower.prepare(picture(0))])
        torch.testing.assert_close(clip.encode_from_tokens(tokens), before, rtol=0, atol=0)


def test_the_hash_of_a_text_encoder_differs_by_weights_layer_words_picture_size_and_template(monkeypatch):
    clip = text_encoder("qwen3vl", monkeypatch)
    changes: list[dict[str, Any]] = [{}, {"layer": 1}, {"instruction": "warm?"}, {"pixels": 999}]
    towers = [TextEncoderTower(clip, **change) for change in changes]
    towers += [TextEncoderTower(text_encoder(kind, monkeypatch, seed)) for kind, seed in (("qwen3vl", 1), ("krea2", 0))]
    assert len({tower.weight_hash for tower in towers}) == 6
    assert TextEncoderTower(text_encoder("qwen3vl", monkeypatch), layer=2).weight_hash == towers[0].weight_hash


def test_a_text_encoder_without_eyes_with_loras_or_without_that_layer_is_refused(monkeypatch):
    clip = text_encoder("qwen3vl", monkeypatch)
    with pytest.raises(ValueError, match="has layers 1 to 4, got layer 5"):
        TextEncoderTower(clip, layer=5)
    patched = clip.clone()
    name = "qwen3vl_4b.transformer.model.layers.0.mlp.up_proj.weight"
    patched.add_patches({name: ("diff", (torch.ones(48, 32),))})
    with pytest.raises(ValueError, match="has LoRAs on it"):
        TextEncoderTower(patched)
    import comfy.sd1_clip

    blind = SimpleNamespace(params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer)
    small = {"model_config": {}, "clip_l_model_config": {"num_hidden_layers": 1}}
    clip_l = comfy.sd.CLIP(blind, model_options=small, disable_dynamic=True)
    draw(clip_l.cond_stage_model, 0)
    with pytest.raises(ValueError, match="text encoder that reads no pictures"):
        TextEncoderTower(clip_l)


def test_a_text_encoder_tells_its_file_and_is_opened_by_it(models, monkeypatch):
    path = models["text_encoders"] / "eyes.safetensors"
    clip = text_encoder("qwen3vl", monkeypatch)
    tensors = {}
    for name, value in clip.cond_stage_model.qwen3vl_4b.transformer.state_dict().items():
        published = (
            f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else f"model.{name}"
        )
        tensors[published] = value.contiguous()
    save_file(tensors, path)
    save_file({"blind.weight": torch.ones(1)}, models["text_encoders"] / "blind.safetensors")
    (models["text_encoders"] / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(ValueError, match="does not tell its file"):
        comfyui_towers.text_encoder_reference(clip)

    def by_tensors(state_dicts, **settings):
        made = text_encoder("qwen3vl", monkeypatch, seed=5)
        replaced = {"model.language_model.": "model.", "model.visual.": "visual."}
        assert made.load_sd(comfy.utils.state_dict_prefix_replace(state_dicts[0], replaced))[0] == []
        return made

    monkeypatch.setattr(comfy.sd, "load_text_encoder_state_dicts", by_tensors)  # it knows published sizes only
    ((label, reference),) = tower_choices().items()
    assert label == "text encoder: eyes.safetensors"
    tower: Any = open_tower(reference)
    assert tower.weight_hash == TextEncoderTower(clip).weight_hash and tower.name == "eyes"
    assert comfyui_towers.text_encoder_reference(tower.clip) == reference
    assert comfyui_towers.text_encoder_reference(tower.clip.clone()) == reference
    deeper: Any = open_tower({**reference, "layer": 3})
    assert deeper.layer == 3 and deeper.weight_hash != tower.weight_hash
    with pytest.raises(ValueError, match="knows no type 'nonsense'"):
        open_tower({**reference, "type": "nonsense"})
    with pytest.raises(ValueError, match=r"no gone\.safetensors in models/text_encoders"):
        open_tower({**reference, "file": "gone.safetensors"})


def test_beside_the_queue_a_vision_language_model_gives_what_was_seen_before(tmp_path):
    reference = {"kind": "text_encoder", "file": "qwen/eyes.safetensors", "hash": "a" * 64}
    tower = open_tower(reference, on_cpu=True, dim=4)
    assert (tower.name, tower.weight_hash, tower.dim) == ("eyes", "a" * 64, 4)
    features = PictureFeatures(tower, cache_dir=tmp_path)
    seen, unseen = (Picture.from_image(picture(seed)) for seed in range(2))
    features._remember(seen.digest, torch.arange(4.0))
    broken = {}
    found = features.picture_features([seen, unseen], broken=broken)
    assert found.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]] and "never looked at" in str(broken[1])
    with pytest.raises(PreferenceError, match="eyes never looked at, and it works in ComfyUI's queue only"):
        features.picture_features([unseen])


def test_open_clips_files_and_folders_are_found_and_managed(models, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    config: dict[str, Any] = {
        "embed_dim": 12,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    }
    config["text_cfg"] = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    parts = open_clip.model
    model = parts.CLIP(12, parts.CLIPVisionCfg(**config["vision_cfg"]), parts.CLIPTextCfg(**config["text_cfg"])).eval()
    folder = models["open_clip"] / "mine"
    folder.mkdir()
    mean = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": mean}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    choices = tower_choices()
    assert choices == {"open_clip: mine": {"kind": "open_clip", "directory": "mine"}}
    tower = open_tower(choices["open_clip: mine"])
    kept = complete(choices["open_clip: mine"], tower)
    assert kept["normalize"] is False and open_tower(kept).weight_hash == kept["hash"]
    assert isinstance(tower, ManagedTower) and tower.name == "mine" and tower.dim == 12
    prepared = [tower.prepare(picture(0))]
    alone = open_tower(choices["open_clip: mine"], on_cpu=True)
    torch.testing.assert_close(tower.features(prepared), alone.features(prepared))
    assert tower.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]
    assert tower.weight_hash == alone.weight_hash
    (models["open_clip"] / "ViT-B-32").mkdir()
    (models["open_clip"] / "ViT-B-32" / "laion.safetensors").write_bytes(b"")
    folder_paths.filename_list_cache.clear()
    listed = tower_choices()[f"open_clip: {Path('ViT-B-32', 'laion.safetensors')}"]
    assert listed["model"] == "ViT-B-32"
    with pytest.raises(ValueError, match="no gone in models/open_clip"):
        open_tower({"kind": "open_clip", "directory": "gone"})
    with pytest.raises(ValueError, match=r"no \.\./text_encoders in models/open_clip"):
        open_tower({"kind": "open_clip", "directory": "../text_encoders"})
