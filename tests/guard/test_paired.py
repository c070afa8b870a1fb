"""Paired comparisons: exact p values, Holm, intervals that cover, words and prompts that count."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from ppd.guard.paired import holm, interval, p_values, shifts, signs


def one_word(base, personal, direction=1, least=0.1, prompt=None):
    base, personal = (np.array(side, dtype=bool)[:, None] for side in (base, personal))
    prompt = np.arange(len(base)) if prompt is None else np.array(prompt)
    (row,) = shifts(["a"], base, personal, prompt, np.ones_like(base), direction=direction, least=least)
    return row


def test_few_units_give_mcnemars_exact_p():
    base, personal = [0] * 6 + [1, 0, 0, 1], [1] * 6 + [0, 0, 0, 1]
    row = one_word(base, personal)  # 6 new, 1 gone
    assert row.p == pytest.approx(sum(comb(7, k) for k in (6, 7)) / 2**7)
    both = one_word(base, personal, direction=0)
    assert both.p == pytest.approx(2 * row.p)
    assert (row.base, row.personal, row.shift, row.units) == (0.2, 0.7, pytest.approx(0.5), 10)


def test_drawn_flips_come_near_the_exact_p_and_are_never_0():
    base, personal = np.zeros(40), np.r_[np.ones(7), np.zeros(33)]
    assert one_word(base, personal).p == pytest.approx(2**-7, rel=0.1)
    assert 0 < one_word(base, np.ones(40)).p < 1e-4


def test_pictures_of_one_prompt_are_one_unit():
    row = one_word([0] * 8, [1] * 8, prompt=[0] * 8)
    assert (row.units, row.p, row.flagged) == (1, 0.5, False)


def test_a_sure_difference_that_is_small_is_not_flagged():
    base, personal = np.zeros(200), np.r_[np.ones(10), np.zeros(190)]
    row = one_word(base, personal)
    assert row.p < 1e-3 and row.shift == pytest.approx(0.05) and not row.flagged
    assert one_word(base, personal, least=0.05).flagged
    assert not one_word(base, personal, direction=-1, least=0.05).flagged


def test_only_counted_pictures_tell():
    base, personal = np.zeros((12, 2), dtype=bool), np.ones((12, 2), dtype=bool)
    counted = np.zeros((12, 2), dtype=bool)
    counted[:, 0] = True
    (row,) = shifts(["a", "b"], base, personal, np.arange(12), counted, direction=1, least=0.1)
    assert row.word == "a" and row.p == pytest.approx(2**-12)  # a word that nothing tells of is not tested


def test_holm():
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.005])), [0.06, 0.03, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_all_flips_are_there_once():
    flips, exact = signs(5)
    assert exact and len(np.unique(flips, axis=0)) == 32 and set(flips.flat) == {-1, 1}
    assert p_values(np.array([5.0]), flips @ np.ones((5, 1)), exact) == [1 / 32]


def test_the_interval_of_no_difference_in_few_pairs_is_not_certain():
    low, high = interval(np.zeros(8))
    assert low == -high and high == pytest.approx(1.959964 * np.sqrt(1 / 10) / np.sqrt(10))


@pytest.mark.parametrize(("up", "down"), [(0.0, 0.0), (0.2, 0.05), (0.5, 0.1)])
def test_intervals_cover(up, down):
    rng = np.random.default_rng(0)
    drawn = rng.choice([1.0, -1.0, 0.0], (1000, 30), p=[up, down, 1 - up - down])
    bounds = np.array([interval(row) for row in drawn])
    covered = ((bounds[:, 0] <= up - down) & (up - down <= bounds[:, 1])).mean()
    assert covered >= 0.93


def test_words_of_both_directions_are_one_family():
    base, personal = np.zeros((2, 12, 2), dtype=bool)
    personal[:, 0] = base[:, 1] = True
    rows = shifts("ab", base, personal, np.arange(12), base >= 0, direction=np.array([1, -1]), least=0.1)
    assert [row.p for row in rows] == [pytest.approx(2 * 2**-12)] * 2 and [row.shift for row in rows] == [1, -1]


def test_where_nothing_changes_the_chance_of_any_flag_is_alpha():
    """Ten words at once, with nothing asked of the size."""
    rng, flags = np.random.default_rng(1), []
    for _ in range(300):
        first, second = rng.random((2, 12, 10)) < 0.3
        rows = shifts("abcdefghij", first, second, np.arange(12), np.ones((12, 10), dtype=bool), direction=0, least=0.0)
        flags.append(any(row.flagged for row in rows))
    assert np.mean(flags) <= 0.07
