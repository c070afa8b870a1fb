"""What is chosen as strength 1, and how often simulated people want each."""

from __future__ import annotations

import pytest

from ppd.training.strength import GAINS, smallest_as_good

from .strengths import WINS, Judged, no_room


@pytest.mark.parametrize(
    ("wins", "count", "gain"),
    [
        ({0.15: 0.79, 0.4: 0.80, 0.9: 0.82}, 32, 0.15),  # the most less its error of .068
        ({0.15: 0.75, 0.4: 0.76, 0.9: 0.82}, 32, 0.4),
        ({0.15: 0.79, 0.4: 0.80, 0.9: 0.82}, 3200, 0.9),
        ({0.15: 0.6, 0.4: 0.6, 0.9: 0.5}, 1, 0.15),
        ({0.15: 0.0, 0.4: 0.0, 0.9: 0.0}, 32, 0.15),
        ({0.15: 0.9, 0.4: 1.0, 0.9: 1.0}, 32, 0.4),
    ],
)
def test_the_smallest_gain_within_an_error_of_the_most_wins(wins, count, gain):
    assert smallest_as_good(wins, count) == gain


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return Judged(tmp_path_factory.mktemp("strength") / "studies")


def test_everybody_judges_what_was_painted_for_them(judged, tmp_path):
    seen = []
    assert judged.wins(tmp_path, lambda *at: seen.append(at)) == WINS
    told = judged.painted
    assert told[:4] == [("a", 0, 0, 0), ("b", 1, 0, 0), ("c", 2, 0, 0), ("a", 3, 0, 0)]
    assert told[4:8] == [("a", 0, 0.15, 1.0), ("b", 1, 0.15, -1.0), ("c", 2, 0.15, 1.0), ("a", 3, 0.15, -1.0)]
    assert seen == [(number, 4 * (1 + len(GAINS))) for number in range(24)]


def test_a_run_that_was_stopped_goes_on_from_the_strengths_that_it_knows(judged, tmp_path):
    def stop(done, of):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged.wins(tmp_path, stop)
    assert judged.wins(tmp_path) == WINS and {gain for *_, gain, _ in judged.painted} == {0, 0.4, 0.6, 0.9}
    assert judged.wins(tmp_path) == WINS and judged.painted == []
    assert judged.wins(tmp_path, whole=0.5) == dict.fromkeys(GAINS, 1.0)  # another adapter
    assert len(judged.painted) == 24


def test_without_memory_to_paint_in_nothing_is_chosen(judged, tmp_path):
    assert judged.wins(tmp_path, paint=no_room) is None
