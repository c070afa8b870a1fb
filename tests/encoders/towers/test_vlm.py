"""Vision-language towers: transformers' own classes, tiny, against the states that the library gives out itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.towers.vlm import INSTRUCTION, LocalVLM, TransformersVLMTower

from .vlm_models import KINDS, write_vlm

pytest.importorskip("transformers")


def picture(seed, size=(80, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlm")
    return {kind: write_vlm(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def vlm(folders):
    return LocalVLM.from_folder(folders["qwen2_5_vl"])


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_mean_of_the_librarys_states_at_the_words_after_the_picture(folders, kind):
    vlm = LocalVLM.from_folder(folders[kind])
    tower = TransformersVLMTower(vlm)
    pictures = [picture(seed) for seed in range(3)]
    found = tower.features([tower.prepare(image) for image in pictures])
    assert found.shape == (3, tower.dim) == (3, 32) and found.dtype == torch.float32
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]}]
    text = vlm.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    for row, image in zip(found, pictures, strict=True):
        inputs = vlm.processor(text=[text], images=[[image]], return_tensors="pt")
        with torch.no_grad():
            states = vlm.model(**inputs, output_hidden_states=True).hidden_states[tower.layer][0]
        mask = vlm.text_tokens_after_pictures(inputs["input_ids"][0])
        assert vlm.processor.tokenizer.decode(inputs["input_ids"][0][mask]) == INSTRUCTION + "\nassistant\n"
        torch.testing.assert_close(row, states[mask].mean(0))
    assert (found[0] - found[1]).abs().max() > 0.05


def test_a_picture_is_read_alone_whatever_stands_beside_it(vlm):
    tower = TransformersVLMTower(vlm)
    prepared = [tower.prepare(picture(seed, size)) for seed, size in ((0, (80, 60)), (1, (40, 90)))]
    torch.testing.assert_close(tower.features(prepared)[1], tower.features(prepared[1:])[0], rtol=0, atol=0)
    assert tower.features([]).shape == (0, 32)


def test_layers_above_are_not_run_and_the_model_works_on_afterwards(vlm):
    tower = TransformersVLMTower(vlm, layer=1)
    ran = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(vlm.layers, 1)
    ]
    tower.features([tower.prepare(picture(0))])
    assert ran == [1]
    with torch.no_grad():
        found = vlm.model(**vlm.inputs([picture(0), "line"]), output_hidden_states=True)
    assert ran == [1, 1, 2, 3, 4] and len(found.hidden_states) == 5
    for hook in hooks:
        hook.remove()


def test_the_hash_differs_by_weights_layer_instruction_and_picture_size(folders, vlm, tmp_path):
    plain = TransformersVLMTower(vlm)
    assert TransformersVLMTower(LocalVLM.from_folder(folders["qwen2_5_vl"])).weight_hash == plain.weight_hash
    other = LocalVLM.from_folder(write_vlm(tmp_path / "other", "qwen2_5_vl", seed=1))
    changes: list[dict[str, Any]] = [{"layer": 3}, {"instruction": "warm or calm"}, {"pixels": 28 * 28}]
    towers = [TransformersVLMTower(vlm, **change) for change in changes] + [TransformersVLMTower(other)]
    assert len({tower.weight_hash for tower in [plain, *towers]}) == 5
    assert plain.layer == 2 and TransformersVLMTower(vlm, layer=2).weight_hash == plain.weight_hash


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_and_features_are_float32_near_the_full_ones(folders, tmp_path, dtype):
    half = TransformersVLMTower(
        LocalVLM.from_folder(write_vlm(tmp_path / "half", "qwen3_vl", dtype=dtype)), instruction="warm line"
    )
    full = TransformersVLMTower(LocalVLM.from_folder(folders["qwen3_vl"]), instruction="warm line")
    found, expected = (tower.features([tower.prepare(picture(0))]) for tower in (half, full))
    assert half.vlm.model.dtype == dtype and found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).item() > 0.99


def test_numbers_that_grow_beyond_the_type_are_told(tmp_path):
    vlm = LocalVLM.from_folder(write_vlm(tmp_path / "half", "qwen3_vl", dtype=torch.float16))
    vlm.layers[0].get_parameter("mlp.down_proj.weight").data.fill_(6e4)
    tower = TransformersVLMTower(vlm)
    with pytest.raises(ValueError, match="not finite in float16: .* bfloat16"):
        tower.features([tower.prepare(picture(0))])


def test_pictures_are_made_smaller_before_they_are_kept(vlm):
    tower = TransformersVLMTower(vlm, pixels=1200)
    assert tower.prepare(picture(0, (80, 60))).shape == (3, 30, 40)
    assert tower.prepare(picture(0, (40, 30))).shape == (3, 30, 40)


def test_what_cannot_be_read_is_told_in_one_sentence(vlm, tmp_path):
    with pytest.raises(ValueError, match="has layers 1 to 4, got layer 9"):
        TransformersVLMTower(vlm, layer=9)
    with pytest.raises(ValueError, match="words after the picture, got none"):
        TransformersVLMTower(vlm, instruction=" ")
    with pytest.raises(ValueError, match=r"config\.json, got 'nothing'"):
        LocalVLM.from_folder(tmp_path / "nothing")
    folder = write_vlm(tmp_path / "broken", "qwen2_5_vl")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="'broken' is no vision-language model that transformers reads"):
        LocalVLM.from_folder(folder)
