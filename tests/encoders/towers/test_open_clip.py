"""open_clip's towers: tiny random models of the real classes, and their file."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ppd.encoders.towers.open_clip import OpenClipTower, save_encoder

open_clip = pytest.importorskip("open_clip")

CONFIG: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = open_clip.model
    return config.CLIP(
        12, config.CLIPVisionCfg(**CONFIG["vision_cfg"]), config.CLIPTextCfg(**CONFIG["text_cfg"])
    ).eval()


def tower_of(model, **more):
    return OpenClipTower(model.visual, name="tiny", size=32, mean=MEAN, std=STD, **more)


def see(tower, pictures):
    return tower.features([tower.prepare(picture) for picture in pictures])


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_the_models_image_embedding(normalize):
    model = tiny_model()
    pictures = [picture(seed) for seed in range(3)]
    x = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])
    expected = model.encode_image(
        (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), normalize=normalize
    )
    tower = tower_of(model, normalize=normalize)
    torch.testing.assert_close(see(tower, pictures), expected)
    torch.testing.assert_close(tower.image_tensor_features(x, batch=2), expected)
    assert tower.dim == 12 and see(tower, []).shape == (0, 12)
    assert not tower.image_tensor_features(x.requires_grad_()).requires_grad


def test_a_tower_is_put_into_evaluation_and_frozen_and_a_hosts_is_left_as_it_is():
    model = tiny_model().train()
    tower_of(model)
    assert not model.visual.training and not any(x.requires_grad for x in model.visual.parameters())
    model = tiny_model()
    tower_of(model)
    assert not model.visual.training and all(x.requires_grad for x in model.visual.parameters())


def test_pictures_of_any_size_share_one_batch():
    tower = tower_of(tiny_model())
    pictures = [picture(0, (64, 40)), picture(1, (20, 50)), picture(2)]
    together = see(tower, pictures)
    for row, one in zip(together, pictures, strict=True):
        torch.testing.assert_close(row[None], see(tower, [one]))


def test_middle_is_kept_or_squashed():
    wide = Image.new("RGB", (96, 32), (255, 0, 0))
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    blue = Image.new("RGB", (32, 32), (0, 0, 255))
    tower = tower_of(tiny_model())
    torch.testing.assert_close(see(tower, [wide]), see(tower, [blue]))
    squash = tower_of(tiny_model(), resize_mode="squash")
    assert not torch.allclose(see(squash, [wide]), see(squash, [blue]), atol=1e-3)


def test_resizing_agrees_with_open_clips_own_preprocessing():
    photo = picture(3, (8, 6)).resize((100, 70), Image.Resampling.BICUBIC)
    model = tiny_model()
    transform = open_clip.image_transform(32, is_train=False, mean=MEAN, std=STD)
    expected = model.encode_image(transform(photo)[None])
    torch.testing.assert_close(see(tower_of(model), [photo]), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_mode": "longest"}, "resize_mode"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"std": [1, 1, 0]}, "deviations"),
        ({"mean": [0.5]}, "three means"),
    ],
)
def test_preprocessing_it_cannot_do_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        OpenClipTower(tiny_model().visual, **{"name": "tiny", "size": 32, "mean": MEAN, "std": STD, **change})


def test_wrong_tensor_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[n, 3, H, W\], got \[2, 32, 32, 3\]"):
        tower_of(tiny_model()).image_tensor_features(torch.zeros(2, 32, 32, 3))


def test_hash_follows_weights_and_preprocessing_not_precision():
    model = tiny_model()
    first = tower_of(model).weight_hash
    assert tower_of(tiny_model()).weight_hash == first and len(first) == 64
    assert tower_of(tiny_model(1)).weight_hash != first
    assert tower_of(model, normalize=True).weight_hash != first
    model.visual.half().float()
    assert tower_of(model).weight_hash == first


def test_file_round_trip(tmp_path):
    model = tiny_model()
    file = tmp_path / "encoder.safetensors"
    saved = save_encoder(file, model.visual, CONFIG, name="tiny", mean=MEAN, std=STD)
    state = torch.random.get_rng_state()
    tower = OpenClipTower.from_file(file)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tower.name == "tiny" and tower.normalize
    assert tower.weight_hash == saved.weight_hash == tower_of(model, normalize=True).weight_hash
    pictures = [picture(seed) for seed in range(2)]
    expected = see(tower_of(model, normalize=True), pictures)
    torch.testing.assert_close(see(tower, pictures), expected, rtol=2e-3, atol=2e-3)
    assert all(key.startswith("visual.") and value.dtype == torch.float16 for key, value in load_file(file).items())


def test_a_whole_models_state_dict_is_an_encoder_file_too(tmp_path):
    model = tiny_model()
    preprocess = {"size": 32, "mean": MEAN, "std": STD}
    metadata = {"open_clip_config": json.dumps(CONFIG), "preprocess": json.dumps(preprocess), "name": "whole"}
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "x.safetensors", metadata)
    tower = OpenClipTower.from_file(tmp_path / "x.safetensors")
    torch.testing.assert_close(see(tower, [picture(0)]), see(tower_of(model, normalize=True), [picture(0)]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("open_clip_config", None, "lacks open_clip_config"),
        ("preprocess", None, "lacks preprocess"),
        ("name", None, "lacks name"),
        ("open_clip_config", "{", "do not make an open_clip image tower"),
        ("open_clip_config", json.dumps({"embed_dim": 12}), "do not make an open_clip image tower"),
        ("open_clip_config", json.dumps({**CONFIG, "embed_dim": 13}), "do not make an open_clip image tower"),
        ("preprocess", json.dumps({"mean": MEAN, "std": STD}), "do not make an open_clip image tower"),
        ("preprocess", json.dumps({"size": 64, "mean": MEAN, "std": STD}), "pictures of 64 for a tower of 32"),
        ("preprocess", json.dumps({"size": 32, "mean": MEAN, "std": STD, "zoom": 1}), "zoom"),
    ],
)
def test_every_mismatch_of_the_file(tmp_path, key, value, message):
    metadata = {
        "open_clip_config": json.dumps(CONFIG),
        "preprocess": json.dumps({"size": 32, "mean": MEAN, "std": STD}),
        "name": "tiny",
        key: value,
    }
    tensors = {f"visual.{name}": tensor.clone() for name, tensor in tiny_model().visual.state_dict().items()}
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, {name: text for name, text in metadata.items() if text is not None})
    with pytest.raises(ValueError, match=message):
        OpenClipTower.from_file(file)


def test_missing_tensors_and_missing_files(tmp_path):
    file = tmp_path / "x.safetensors"
    save_encoder(file, tiny_model().visual, CONFIG, name="tiny", mean=MEAN, std=STD)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors.pop("visual.proj")
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match="do not make an open_clip image tower"):
        OpenClipTower.from_file(file)
    with pytest.raises(ValueError, match="no preference encoder file"):
        OpenClipTower.from_file(tmp_path / "gone.safetensors")


def test_any_open_clip_model_from_a_local_folder(tmp_path):
    model = tiny_model()
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": MEAN, "std": STD, "size": 32}}
    folder = tmp_path / "private person" / "my-clip"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {key: value.clone().contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    tower = OpenClipTower.from_open_clip(f"local-dir:{folder}")
    assert tower.name == "my-clip"  # the name goes into shared files: no path in it
    torch.testing.assert_close(see(tower, [picture(0)]), see(tower_of(model), [picture(0)]))


def test_an_open_clip_model_reads_texts_as_its_whole_self_does(tmp_path):
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {**CONFIG, "text_cfg": text}, "preprocess_cfg": {"mean": MEAN, "std": STD, "size": 32}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts = open_clip.model.CLIPVisionCfg(**CONFIG["vision_cfg"]), open_clip.model.CLIPTextCfg(**text)
        model = open_clip.model.CLIP(CONFIG["embed_dim"], *parts).eval()
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    texts = [f"a lake in colour {number}" for number in range(70)]
    seen = OpenClipTower.from_open_clip(f"local-dir:{tmp_path}").text_side(texts)
    with torch.no_grad():
        expected = model.encode_text(open_clip.SimpleTokenizer(context_length=12)(texts))
    torch.testing.assert_close(seen, expected)
    assert seen.shape == (70, CONFIG["embed_dim"])


def test_open_clip_names_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no model 'ViT-Q-1'"):
        OpenClipTower.from_open_clip("ViT-Q-1", "openai")
    with pytest.raises(ValueError, match="needs weights, got none.*openai"):
        OpenClipTower.from_open_clip("ViT-B-32")
    pickled = tmp_path / "weights.pt"
    torch.save({}, pickled)
    with pytest.raises(ValueError, match=r"Expected a \.safetensors file or one of .*openai"):
        OpenClipTower.from_open_clip("ViT-B-32", str(pickled))
