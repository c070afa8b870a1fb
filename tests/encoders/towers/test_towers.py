"""Towers by reference, and what tells them apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ppd.encoders.features import PictureFeatures
from ppd.encoders.fingerprint import SMALL, fingerprint, hash_with
from ppd.encoders.towers import TOWER_FILE, RememberedTower, complete, open_tower
from ppd.encoders.towers.vlm import INSTRUCTION, PIXELS, POOLING, LocalVLM, TransformersVLMTower
from ppd.pictures import Picture, PreferenceError

from . import test_open_clip
from .vlm_models import write_vlm

open_clip = pytest.importorskip("open_clip")
VISION = test_open_clip.CONFIG["vision_cfg"]


def picture(seed):
    return Picture.from_image(
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    )


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm") / "qwen", "qwen2_5_vl")


def test_a_tower_in_the_encoders_folder_is_opened_and_told_from_another(tmp_path):
    saved = test_open_clip.save_encoder(
        tmp_path / TOWER_FILE,
        test_open_clip.tiny_model().visual,
        test_open_clip.CONFIG,
        name="mine",
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    reference = {"kind": "folder", "name": "mine", "hash": saved.weight_hash}
    assert open_tower(reference, tmp_path).weight_hash == saved.weight_hash
    with pytest.raises(ValueError, match=r"tower mine is another than .* expected 111111111111, got \w{12}; put"):
        open_tower({**reference, "hash": "1" * 64}, tmp_path)
    with pytest.raises(ValueError, match="in its taste encoder's folder"):
        open_tower(reference)


def test_open_clips_folder_and_file_give_one_picture_the_models_own_embedding(tmp_path, monkeypatch):
    model = test_open_clip.tiny_model()
    config = {"model_cfg": test_open_clip.CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tower = open_tower(
        {"kind": "open_clip", "directory": "mine", "normalize": True}, find=lambda kind, name: tmp_path / name
    )
    x = torch.stack([tower.prepare(picture(seed).open()) for seed in range(2)])
    expected = model.encode_image((x.view(2, 3, 32, 32) - 0.5) / 0.25, normalize=True)
    torch.testing.assert_close(tower.features(list(x)), expected)
    assert tower.name == "mine"


def test_a_tags_weights_are_never_fetched_unasked(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **more: asked.append(args) or "")
    reference = {"kind": "open_clip", "model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    with pytest.raises(ValueError, match="laion2b_s34b_b79k of ViT-B-32 are not on this computer, and nothing"):
        open_tower(reference)
    with pytest.raises(ValueError, match="weights never_trained of ViT-B-32 are not on this computer"):
        open_tower({**reference, "pretrained": "never_trained"})
    assert not asked
    with pytest.raises(RuntimeError):  # the download that stands in for the real one brings nothing
        open_tower(reference, download=True)
    assert len(asked) == 1


def test_a_vision_language_model_is_opened_as_the_reference_says(vlm_folder):
    reference = {"kind": "transformers", "directory": "qwen", "layer": 3, "instruction": "warm?", "pixels": 1000}
    tower: Any = open_tower(reference, find=lambda kind, name: {"vlm": vlm_folder.parent}[kind] / name)
    expected = TransformersVLMTower(LocalVLM.from_folder(vlm_folder), layer=3, instruction="warm?", pixels=1000)
    assert tower.weight_hash == expected.weight_hash and tower.layer == 3
    kept = complete(
        {"kind": "transformers", "directory": "qwen", "layer": 3}, TransformersVLMTower(expected.vlm, layer=3)
    )
    assert kept["instruction"] == INSTRUCTION and kept["pixels"] == PIXELS and kept["pooling"] == POOLING
    again: Any = open_tower(json.loads(json.dumps(kept)), find=lambda kind, name: vlm_folder)
    assert (again.weight_hash, again.layer) == (kept["hash"], 3) and kept["name"] == "qwen"
    with pytest.raises(ValueError, match="another than the taste encoder was made with"):
        open_tower({**reference, "layer": 2, "hash": tower.weight_hash}, find=lambda kind, name: vlm_folder)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"kind": "clip_vision", "file": "a"}, "kind clip_vision is one of ComfyUI's"),
        ({"kind": "telepathy"}, "Expected a tower of kind folder, open_clip, .* got 'telepathy': update"),
        ({"kind": "transformers"}, "kind transformers is named by its directory, got None"),
        ({"kind": "open_clip", "file": "a"}, "kind open_clip is named by its model, got None"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_told(reference, message):
    with pytest.raises(ValueError, match=message):
        open_tower(reference)


def test_a_second_reading_of_a_vision_language_model_touches_no_tower(vlm_folder, tmp_path):
    tower = TransformersVLMTower(LocalVLM.from_folder(vlm_folder))
    pictures = [picture(seed) for seed in (0, 1, 0)]
    first = PictureFeatures(tower, cache_dir=tmp_path).picture_features(pictures)
    remembered = RememberedTower(tower.name, tower.weight_hash, tower.dim)
    again = PictureFeatures(remembered, cache_dir=tmp_path).picture_features(pictures)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    with pytest.raises(PreferenceError, match="qwen never looked at, and it works in ComfyUI's queue only"):
        PictureFeatures(remembered, cache_dir=tmp_path).picture_features([picture(7)])


def test_a_fingerprint_is_of_names_shapes_and_values_at_half_precision():
    def module(bias=0.0, width=4, weight=0.0, rows=SMALL):
        made = nn.Sequential(nn.Linear(width, rows))
        with torch.no_grad():
            made.get_parameter("0.weight").fill_(weight)
            made.get_parameter("0.bias").fill_(bias)
        return made

    same = fingerprint(module())
    assert fingerprint(module(weight=1e-9)) == same != fingerprint(module(weight=1.0))  # read from end to end, in steps
    merged = module()  # a low-rank change to a large matrix and to nothing else, as a LoRA that was merged into it
    merged[0].weight.data += torch.linspace(-1, 1, SMALL)[:, None] * torch.linspace(-1, 1, 4)
    assert fingerprint(merged) != same
    assert fingerprint(module(bias=1e-9)) == same and fingerprint(module().half()) == same
    assert len({same, fingerprint(module(bias=1.0)), fingerprint(module(width=5)), fingerprint(module(rows=9))}) == 4
    remembered = module()
    before = fingerprint(remembered)
    remembered[0].bias.data.fill_(2.0)
    assert fingerprint(remembered) == before
    assert hash_with({"b": 1, "a": 2}, same) == hash_with({"a": 2, "b": 1}, same) != hash_with({"a": 2}, same)
