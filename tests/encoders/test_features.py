"""Picture features: the cache by content, on a tiny random open_clip tower."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.features import PictureFeatures
from ppd.encoders.towers.open_clip import OpenClipTower
from ppd.pictures import Picture, PreferenceError

open_clip = pytest.importorskip("open_clip")


def features_of(model, **more):
    return PictureFeatures(OpenClipTower(model.visual, name="tiny", size=32, mean=[0.5] * 3, std=[0.25] * 3), **more)


def tiny_model(seed=0):
    torch.manual_seed(seed)
    vision = open_clip.model.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=32)
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    return open_clip.model.CLIP(12, vision, text).eval()


def see(features, pictures):
    return features.tower.features([features.tower.prepare(picture) for picture in pictures])


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Counted:
    """Counts the pictures that reach the tower."""

    def __init__(self, features):
        self.pictures = 0
        features.tower.visual.register_forward_pre_hook(lambda _, args: self.count(args[0]))

    def count(self, x):
        self.pictures += len(x)


def test_adding_a_pair_costs_one_pair():
    features = features_of(tiny_model())
    pictures = [Picture.from_image(picture(seed)) for seed in range(202)]
    first = features.picture_features(pictures[:200])
    counted = Counted(features)
    again = features.picture_features(pictures)
    assert counted.pictures == 2
    assert torch.equal(again[:200], first)
    torch.testing.assert_close(again[200:], see(features, [picture(200), picture(201)]))


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
    torch.testing.assert_close(grey, see(features, [Image.new("RGB", (32, 32), (128, 128, 128))]))


def test_what_is_no_number_is_told_and_never_kept(tmp_path):
    features = features_of(tiny_model(), cache_dir=tmp_path)
    good, bad = Picture.from_image(picture(0)), Picture.from_image(picture(1))
    (expected,) = features.picture_features([good])
    features.tower.features = lambda prepared: torch.full((len(prepared), 12), torch.nan)
    with pytest.raises(PreferenceError, match="the tower tiny sees no numbers"):
        features.picture_features([bad])
    broken = {}
    rows = features.picture_features([good, bad], broken=broken)
    assert list(broken) == [1] and torch.equal(rows[0], expected) and len(list(tmp_path.rglob("*.npy"))) == 1
    (file,) = tmp_path.rglob("*.npy")
    np.save(file, np.full(12, np.nan, np.float32))
    assert torch.equal(features_of(tiny_model(), cache_dir=tmp_path).picture_features([good])[0], expected)


def test_what_was_seen_in_a_picture_that_is_erased_meanwhile_goes_too(tmp_path):
    path, features = tmp_path / "one.png", features_of(tiny_model(), cache_dir=tmp_path / "seen")
    picture(0).save(path)
    looked = features.tower.features
    features.tower.features = lambda prepared: (path.unlink(), looked(prepared))[1]
    assert features.picture_features([Picture(path)]).any()
    assert not list((tmp_path / "seen").rglob("*.npy")) and not features._memory


def test_a_folder_that_takes_no_files_costs_only_time(tmp_path, caplog):
    """What was seen is known, what was kept before stays readable, and one warning is enough."""
    before, new, newest = (Picture.from_image(picture(seed)) for seed in range(3))
    first = features_of(tiny_model(), cache_dir=tmp_path).picture_features([before])
    features = features_of(tiny_model(), cache_dir=tmp_path)
    blocked = next(tmp_path.iterdir()) / new.digest[:2]
    assert not blocked.exists()
    blocked.write_text("no folder")
    seen = features.picture_features([new, newest, before])
    assert torch.equal(seen[2:], first) and bool(seen.isfinite().all())
    assert [record.message[:26] for record in caplog.records] == ["Features are not kept in " + str(tmp_path)[:1]]
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    assert torch.equal(features.picture_features([new]), seen[:1])
