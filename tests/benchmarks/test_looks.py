"""The benchmark of what is said of people: what counts as right, and people of an exactly known world."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.edits import WORDS, edited
from benchmarks.looks import World, figures, judged, picked, tastes
from ppd.encoders.looks import Looks
from ppd.encoders.statements import statements


def world():
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).double()
    names = ("a", "b", "c")
    looks = Looks(names, names, ("A", "B", "C"), torch.eye(3), torch.eye(3), torch.ones(3))
    return World(looks, (torch.zeros(3).double(), torch.eye(3).double()), (x, x), (x, x), torch.eye(3).double())


def test_people_of_a_known_world_are_known_and_wrong_signs_are_wrong():
    known, rng = world(), np.random.default_rng(1)
    weights = tastes(known.covariance, 5, 2, rng)
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(5).double())
    assert ((weights != 0).sum(1) == 2).all()
    picks = picked(known, "duels", weights[0], rng)
    found = statements(known.looks, picks)
    assert judged(found, weights[0], 0.0)[0] == 3
    sure, right = judged(found, weights[0])
    assert sure == right > 0 and judged(found, -weights[0]) == (sure, 0)


def test_figures_are_shares_of_those_called_sure():
    found = figures(np.array([[2, 1, 2], [0, 0, 1], [2, 2, 1]], dtype=float))
    assert (found["right"]["mean"], found["sure"]["mean"], found["found"]) == pytest.approx((3 / 4, 4 / 3, 3 / 4))


def test_edits_move_what_they_are_called():
    picture = Image.fromarray(np.random.default_rng(2).integers(60, 180, (64, 64, 3), dtype=np.uint8))
    for index, name in enumerate(WORDS):
        ends = [
            np.asarray(edited(picture, sign * np.eye(len(WORDS))[index], np.random.default_rng(3)), dtype=float)
            for sign in (-1, 1)
        ]
        low, high = (
            {
                "saturation": (end.max(2) - end.min(2)).mean(),
                "brightness": end.mean(),
                "contrast": end.std(),
                "warmth": (end[..., 0] - end[..., 2]).mean(),
                "sharpness": abs(np.diff(end, axis=1)).mean(),
                "grain": end.mean(2).std(),
                "vignette": end[24:40, 24:40].mean() - end[:8, :8].mean(),
                "fade": end.min(),
            }[name]
            for end in ends
        )
        assert high > low, name
