"""The picture world: captions that name content only, style that moves its statistic, a weave that fits the grid."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.encoder import WORDS
from ppd.pocket.statistics import STATISTICS, picture_statistics

LEVELS = (-1.0, -0.33, 0.33, 1.0)
SMALLEST_STEP = {
    "warmth": 0.10,
    "saturation": 0.03,
    "brightness": 0.07,
    "contrast": 0.015,
    "outline": 0.0015,
    "texture": 0.02,
}
"""A third of each attribute's range moves its mean statistic by at least this much."""


def rendered(attribute: str, level: float, count: int = 10) -> np.ndarray:
    """Pictures of `count` captions in random styles but for one attribute: [count, 128, 128, 3]."""
    pictures = []
    for seed in range(count):
        style = scenes.random_style(np.random.default_rng(seed)) | {attribute: level}
        pictures.append(scenes.render(scenes.SCENES[seed * 37 % len(scenes.SCENES)].caption, style, seed))
    return np.stack(pictures)


def test_there_are_enough_captions_and_kinds():
    captions = [scene.caption for scene in scenes.SCENES]
    assert len(captions) == len(set(captions)) == 249
    assert len(scenes.KINDS) == 10
    shown = np.sum([scenes.object_labels(caption) for caption in captions], axis=0)
    assert (shown >= 20).all()


def test_held_out_captions_are_apart_and_show_everything():
    held_out, training = set(scenes.HELD_OUT_CAPTIONS), set(scenes.TRAINING_CAPTIONS)
    assert not held_out & training
    assert held_out | training == {scene.caption for scene in scenes.SCENES}
    assert len(held_out) == 36
    for captions in (held_out, training):
        assert np.sum([scenes.object_labels(caption) for caption in captions], axis=0).all()
        assert {scenes.BY_CAPTION[caption].setting for caption in captions} == {"meadow", "hills", "lake"}


def test_labels_are_the_kinds_a_caption_names():
    labels = dict(zip(scenes.KINDS, scenes.object_labels("a house and a boat by a lake under the moon"), strict=True))
    assert {kind for kind, there in labels.items() if there} == {"house", "boat", "moon"}
    for scene in scenes.SCENES:
        words = set(re.findall("[a-z]+", scene.caption))
        assert words & set(scenes.KINDS) == set(scene.objects)


def test_captions_never_name_the_style():
    style_words = {*scenes.STYLES, *(word for words in WORDS.values() for word in words)}
    for scene in scenes.SCENES:
        assert not style_words & set(scene.caption.split())


def test_a_picture_is_its_caption_style_and_seed():
    caption, style = scenes.SCENES[5].caption, scenes.random_style(np.random.default_rng(1))
    picture = scenes.render(caption, style, 7)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    assert (picture == scenes.render(caption, dict(style), 7)).all()
    assert (picture != scenes.render(caption, style, 8)).any()
    assert (picture != scenes.render(scenes.SCENES[6].caption, style, 7)).any()
    for name in scenes.STYLES:
        assert (picture != scenes.render(caption, style | {name: -style[name]}, 7)).any(), name


def test_an_unknown_caption_is_an_error():
    with pytest.raises(KeyError):
        scenes.render("a spaceship", dict.fromkeys(scenes.STYLES, 0.0), 0)


def test_random_styles_fill_the_range():
    rng = np.random.default_rng(0)
    styles = np.array([list(scenes.random_style(rng).values()) for _ in range(2000)])
    assert styles.shape == (2000, 7) and abs(styles).max() <= 1
    np.testing.assert_allclose(styles.std(0), 3**-0.5, rtol=0.05)
    assert abs(np.corrcoef(styles.T) - np.eye(7)).max() < 0.08


@pytest.mark.parametrize("attribute", STATISTICS)
def test_a_style_attribute_moves_its_statistic(attribute):
    index = STATISTICS.index(attribute)
    means = [picture_statistics(to_tensor(rendered(attribute, level)))[:, index].mean().item() for level in LEVELS]
    steps = np.diff(means)
    assert (steps > SMALLEST_STEP[attribute]).all(), steps


def test_clutter_adds_things():
    """Clutter is the one attribute without a statistic of its own: more pixels differ from the empty picture."""
    empty = rendered("clutter", -1.0).astype(int)
    shares = [(abs(rendered("clutter", level) - empty).max(-1) > 8).mean() for level in LEVELS[1:]]
    assert shares == sorted(shares)
    assert shares[0] > 0.005 and shares[-1] > 0.02


def test_the_weave_is_in_step_with_the_latent_grid():
    pattern = torch.from_numpy(scenes.weave())
    cells = pattern.unflatten(0, (16, 8)).unflatten(2, (16, 8)).transpose(1, 2)
    torch.testing.assert_close(cells, cells[:1, :1].expand_as(cells), rtol=0, atol=1e-5)
    assert pattern.mean().abs() < 1e-6 and pattern.abs().max() <= 1
    torch.testing.assert_close(pattern.square().mean(), torch.tensor(0.25))
    torch.testing.assert_close(cells[0, 0], -cells[0, 0].flip(0), rtol=0, atol=1e-5)
