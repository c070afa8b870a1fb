"""What is chosen as strength 1, and how often simulated people want each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ppd.training.strength import GAINS, share_picked, strength_of

from .strengths import Judged, no_room


@pytest.mark.parametrize(
    ("picked", "gain"),
    [
        ({0.15: (0.55, 0.02), 0.25: (0.59, 0.02), 0.4: (0.63, 0.03)}, 0.4),
        ({0.15: (0.60, 0.02)}, 0.15),
        ({0.15: (0.51, 0.01), 1.0: (0.54, 0.02), 2.5: (0.57, 0.02), 4.0: (0.56, 0.04)}, 2.5),
        ({0.15: (0.51, 0.01), 1.0: (0.54, 0.02), 2.5: (0.57, 0.03), 4.0: (0.56, 0.04)}, 1.0),  # the most less its error
        ({0.15: (0.49, 0.01), 1.0: (0.47, 0.03), 4.0: (0.40, 0.06)}, 0.15),
    ],
)
def test_the_smallest_gain_that_is_picked_often_enough_or_nearly_as_often_as_any(picked, gain):
    assert strength_of(picked) == gain


def test_what_is_picked_goes_by_how_much_more_it_is_liked():
    share, error = share_picked(torch.tensor([0.0, math.log(3), -math.log(3), math.log(9)]))
    assert share == pytest.approx((0.5 + 0.75 + 0.25 + 0.9) / 4)
    assert error == pytest.approx(np.std([0.5, 0.75, 0.25, 0.9]) / 2)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return Judged(tmp_path_factory.mktemp("strength") / "studies")


def test_everybody_judges_what_was_painted_for_them_until_it_is_picked_often_enough(judged, tmp_path):
    seen = []
    picked = judged.picked(tmp_path, lambda *at: seen.append(at))
    assert list(picked) == [0.15, 0.25, 0.4]
    assert [share for share, _ in picked.values()] == pytest.approx([0.546, 0.572, 0.603], abs=0.01)
    told = judged.painted
    assert told[:4] == [("a", 0, 0, 0), ("b", 1, 0, 0), ("c", 2, 0, 0), ("a", 3, 0, 0)]
    assert told[4:8] == [("a", 0, 0.15, 1.0), ("b", 1, 0.15, -1.0), ("c", 2, 0.15, 1.0), ("a", 3, 0.15, -1.0)]
    assert seen == [(number, 4 * (1 + len(GAINS))) for number in range(16)]


def test_of_what_hardly_moves_pictures_every_strength_is_tried(judged, tmp_path):
    picked = judged.picked(tmp_path, whole=0.02)
    assert list(picked) == list(GAINS) and max(picked.values())[0] < 0.55


def test_a_run_that_was_stopped_goes_on_from_the_strengths_that_it_knows(judged, tmp_path):
    def stop(done, of):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged.picked(tmp_path, stop)
    picked = judged.picked(tmp_path)
    assert {gain for *_, gain, _ in judged.painted} == {0, 0.4} and list(picked) == [0.15, 0.25, 0.4]
    assert judged.picked(tmp_path) == picked and judged.painted == []
    assert judged.picked(tmp_path, whole=0.5) != picked  # another adapter
    assert len(judged.painted) > 8


def test_without_memory_to_paint_in_nothing_is_chosen(judged, tmp_path):
    assert judged.picked(tmp_path, paint=no_room) is None
