"""Picture features: tiny random open_clip models of the real classes, their file, and the cache."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ppd.encoders.clip import ClipFeatures, save_encoder
from ppd.pictures import Picture, PreferenceError

open_clip = pytest.importorskip("open_clip")

CONFIG = {
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


def features_of(model, **more):
    return ClipFeatures(model.visual, name="tiny", size=32, mean=MEAN, std=STD, **more)


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Counted:
    """Counts the pictures that reach the tower."""

    def __init__(self, features):
        self.pictures = 0
        features.visual.register_forward_pre_hook(lambda _, args: self.count(args[0]))

    def count(self, x):
        self.pictures += len(x)


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_the_models_image_embedding(normalize):
    model = tiny_model()
    pictures = [picture(seed) for seed in range(3)]
    x = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])
    expected = model.encode_image(
        (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), normalize=normalize
    )
    features = features_of(model, normalize=normalize)
    torch.testing.assert_close(features.features(pictures), expected)
    torch.testing.assert_close(features.image_tensor_features(x, batch=2), expected)
    assert features.dim == 12 and features.features([]).shape == (0, 12)
    assert not features.image_tensor_features(x.requires_grad_()).requires_grad


def test_a_tower_is_put_into_evaluation_and_frozen_and_a_hosts_is_left_as_it_is():
    model = tiny_model().train()
    features_of(model)
    assert not model.visual.training and not any(x.requires_grad for x in model.visual.parameters())
    model = tiny_model()
    features_of(model)
    assert not model.visual.training and all(x.requires_grad for x in model.visual.parameters())


def test_pictures_of_any_size_share_one_batch():
    features = features_of(tiny_model())
    pictures = [picture(0, (64, 40)), picture(1, (20, 50)), picture(2)]
    together = features.features(pictures)
    for row, one in zip(together, pictures, strict=True):
        torch.testing.assert_close(row[None], features.features([one]))


def test_middle_is_kept_or_squashed():
    wide = Image.new("RGB", (96, 32), (255, 0, 0))
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    blue = Image.new("RGB", (32, 32), (0, 0, 255))
    features = features_of(tiny_model())
    torch.testing.assert_close(features.features([wide]), features.features([blue]))
    squash = features_of(tiny_model(), resize_mode="squash")
    assert not torch.allclose(squash.features([wide]), squash.features([blue]), atol=1e-3)


def test_resizing_agrees_with_open_clips_own_preprocessing():
    photo = picture(3, (8, 6)).resize((100, 70), Image.Resampling.BICUBIC)
    model = tiny_model()
    transform = open_clip.image_transform(32, is_train=False, mean=MEAN, std=STD)
    expected = model.encode_image(transform(photo)[None])
    torch.testing.assert_close(features_of(model).features([photo]), expected, rtol=0.02, atol=0.02)


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
        ClipFeatures(tiny_model().visual, **{"name": "tiny", "size": 32, "mean": MEAN, "std": STD, **change})


def test_wrong_tensor_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[n, 3, H, W\], got \[2, 32, 32, 3\]"):
        features_of(tiny_model()).image_tensor_features(torch.zeros(2, 32, 32, 3))


def test_hash_follows_weights_and_preprocessing_not_precision():
    model = tiny_model()
    first = features_of(model).weight_hash
    assert features_of(tiny_model()).weight_hash == first and len(first) == 64
    assert features_of(tiny_model(1)).weight_hash != first
    assert features_of(model, normalize=True).weight_hash != first
    model.visual.half().float()
    assert features_of(model).weight_hash == first


def test_file_round_trip(tmp_path):
    model = tiny_model()
    file = tmp_path / "encoder.safetensors"
    saved = save_encoder(file, model.visual, CONFIG, name="tiny", mean=MEAN, std=STD)
    state = torch.random.get_rng_state()
    features = ClipFeatures.from_file(file)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert features.name == "tiny" and features.normalize
    assert features.weight_hash == saved.weight_hash == features_of(model, normalize=True).weight_hash
    pictures = [picture(seed) for seed in range(2)]
    expected = features_of(model, normalize=True).features(pictures)
    torch.testing.assert_close(features.features(pictures), expected, rtol=2e-3, atol=2e-3)
    assert all(key.startswith("visual.") and value.dtype == torch.float16 for key, value in load_file(file).items())


def test_a_whole_models_state_dict_is_an_encoder_file_too(tmp_path):
    model = tiny_model()
    preprocess = {"size": 32, "mean": MEAN, "std": STD}
    metadata = {"open_clip_config": json.dumps(CONFIG), "preprocess": json.dumps(preprocess), "name": "whole"}
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "x.safetensors", metadata)
    features = ClipFeatures.from_file(tmp_path / "x.safetensors")
    torch.testing.assert_close(
        features.features([picture(0)]), features_of(model, normalize=True).features([picture(0)])
    )


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
        ClipFeatures.from_file(file)


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
        ClipFeatures.from_file(file)
    with pytest.raises(ValueError, match="no preference encoder file"):
        ClipFeatures.from_file(tmp_path / "gone.safetensors")


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
    features = ClipFeatures.from_open_clip(f"local-dir:{folder}")
    assert features.name == "my-clip"  # the name goes into shared files: no path in it
    torch.testing.assert_close(features.features([picture(0)]), features_of(model).features([picture(0)]))


def test_open_clip_names_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no model 'ViT-Q-1'"):
        ClipFeatures.from_open_clip("ViT-Q-1", "openai")
    with pytest.raises(ValueError, match="needs weights, got none.*openai"):
        ClipFeatures.from_open_clip("ViT-B-32")
    pickled = tmp_path / "weights.pt"
    torch.save({}, pickled)
    with pytest.raises(ValueError, match=r"Expected a \.safetensors file or one of .*openai"):
        ClipFeatures.from_open_clip("ViT-B-32", str(pickled))


def test_adding_a_pair_costs_one_pair():
    features = features_of(tiny_model())
    pictures = [Picture.from_image(picture(seed)) for seed in range(202)]
    first = features.picture_features(pictures[:200])
    counted = Counted(features)
    again = features.picture_features(pictures)
    assert counted.pictures == 2
    assert torch.equal(again[:200], first)
    torch.testing.assert_close(again[200:], features.features([picture(200), picture(201)]))


def test_equal_content_is_computed_once():
    features = features_of(tiny_model())
    counted = Counted(features)
    one, other = Picture.from_image(picture(0)), Picture.from_image(picture(1))
    rows = features.picture_features([one, other, Picture(data=one.data), one])
    assert counted.pictures == 2
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[0], rows[3]) and not torch.equal(rows[0], rows[1])


def test_cache_on_disk_survives_and_is_the_encoders_own(tmp_path):
    pictures = [Picture.from_image(picture(seed)) for seed in range(4)]
    first = features_of(tiny_model(), cache_dir=tmp_path).picture_features(pictures)
    later = features_of(tiny_model(), cache_dir=tmp_path)
    assert later.dim == 12
    counted = Counted(later)
    assert torch.equal(later.picture_features(pictures), first) and counted.pictures == 0
    other = features_of(tiny_model(1), cache_dir=tmp_path)
    assert not torch.allclose(other.picture_features(pictures), first)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_cache_files_are_made_again(tmp_path, damage):
    one = Picture.from_image(picture(0))
    first = features_of(tiny_model(), cache_dir=tmp_path).picture_features([one])
    (file,) = tmp_path.rglob("*.npy")
    if damage is None:
        np.save(file, np.zeros(5, np.float32))
    else:
        file.write_bytes(damage)
    assert torch.equal(features_of(tiny_model(), cache_dir=tmp_path).picture_features([one]), first)
    assert np.load(file).shape == (12,)


def test_memory_is_bounded():
    features = features_of(tiny_model(), cache_size=3)
    pictures = [Picture.from_image(picture(seed)) for seed in range(5)]
    features.picture_features(pictures)
    counted = Counted(features)
    features.picture_features(pictures[2:])
    assert counted.pictures == 0
    features.picture_features(pictures[:1])
    assert counted.pictures == 1


def test_broken_pictures_raise_or_are_collected(tmp_path):
    features = features_of(tiny_model())
    good, torn, gone = Picture.from_image(picture(0)), Picture(data=b"torn"), Picture(tmp_path / "gone.png")
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        features.picture_features([good, torn])
    broken = {}
    rows = features.picture_features([torn, good, gone], broken=broken)
    assert sorted(broken) == [0, 2] and "'gone.png' cannot be read" in str(broken[2])
    assert not rows[0].any() and not rows[2].any() and rows[1].any()
    assert features.picture_features([]).shape == (0, 12)


def test_progress_and_cancel():
    features = features_of(tiny_model())
    pictures = [Picture.from_image(picture(seed)) for seed in range(130)]
    seen = []
    features.picture_features(pictures, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 130), (128, 130), (130, 130)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(tiny_model(1)).picture_features(pictures, progress=cancel)


def test_grey_and_transparent_pictures():
    features = features_of(tiny_model())
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 128).save(buffer, "PNG")
    grey = features.picture_features([Picture(data=buffer.getvalue())])
    torch.testing.assert_close(grey, features.features([Image.new("RGB", (32, 32), (128, 128, 128))]))
