"""The second world's pictures: every style moves its own statistic, and paint is no pattern of the latents' grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.pocket import paint, scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.paint import painted_statistics
from ppd.pocket.statistics import STATISTICS

LEVELS = (-1.0, -0.33, 0.33, 1.0)


def rendered(attribute: str, level: float, count: int = 8) -> np.ndarray:
    """Pictures of `count` captions in random styles but for one attribute: [count, 128, 128, 3]."""
    pictures = []
    for seed in range(count):
        style = scenes.random_style(np.random.default_rng(seed)) | {attribute: level}
        pictures.append(paint.render(scenes.SCENES[seed * 37 % len(scenes.SCENES)].caption, style, seed))
    return np.stack(pictures)


def test_a_picture_is_its_caption_style_and_seed():
    caption, style = scenes.SCENES[5].caption, scenes.random_style(np.random.default_rng(1))
    picture = paint.render(caption, style, 7)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    assert (picture == paint.render(caption, dict(style), 7)).all()
    assert (picture != paint.render(caption, style, 8)).any()
    for name in scenes.STYLES:
        assert (picture != paint.render(caption, style | {name: -style[name]}, 7)).any(), name
    with pytest.raises(KeyError):
        paint.render("a dragon", style, 7)


@pytest.mark.parametrize("attribute", STATISTICS)
def test_each_style_moves_its_own_statistic(attribute):
    index = STATISTICS.index(attribute)
    scores = [painted_statistics(to_tensor(rendered(attribute, level)))[:, index] for level in LEVELS]
    means = [score.mean().item() for score in scores]
    assert means == sorted(means)
    assert (scores[-1] > scores[0]).all()


def test_texture_is_told_from_outlines():
    """Of a picture's grain and strokes, and hardly of the lines around its shapes."""
    index = STATISTICS.index("texture")
    grain, lines = (
        [painted_statistics(to_tensor(rendered(attribute, level)))[:, index].mean() for level in (-1.0, 1.0)]
        for attribute in ("texture", "outline")
    )
    assert grain[1] - grain[0] > 3 * abs(lines[1] - lines[0])


def test_paint_is_no_pattern_of_the_latents_grid():
    """The mean of many rough skies over 8 x 8 px cells, place by place, is level: nothing repeats with the grid."""
    style = dict.fromkeys(scenes.STYLES, 0.0) | {"texture": 1.0, "clutter": -1.0}
    skies = np.stack([paint.render("a house and a tree on a meadow", style, seed)[16:48, 16:112] for seed in range(12)])
    light = torch.from_numpy(skies.astype(np.float32)).mean((0, 3)) / 255
    rows = light - light.mean(1, keepdim=True)
    cell = rows.unflatten(0, (-1, 8)).unflatten(2, (-1, 8)).mean((0, 2))
    assert cell.std() < 0.25 * rows.std()


def test_the_margin_is_paper():
    picture = rendered("brightness", -1.0).astype(float) / 255
    edge = np.concatenate([picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    np.testing.assert_allclose(edge.mean(0), paint.PAPER, atol=0.02)
