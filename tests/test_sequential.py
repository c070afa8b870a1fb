"""Exact figures against known ones, and the error that the sequential test states, by simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from ppd.sequential import (
    ALPHA,
    anytime_interval,
    anytime_p,
    binomial_interval,
    binomial_p,
    decided,
    log_evidence,
)


def test_exact_figures_are_the_textbooks():
    assert binomial_interval(8, 10) == pytest.approx((0.4439045, 0.9747893), abs=1e-6)
    assert binomial_interval(0, 10) == pytest.approx((0.0, 0.3084971), abs=1e-6)
    assert binomial_interval(10, 10) == pytest.approx((0.6915029, 1.0), abs=1e-6)
    assert binomial_p(8, 10) == pytest.approx(0.109375)
    assert binomial_p(2, 10) == binomial_p(8, 10)
    assert binomial_p(5, 10) == 1.0 and binomial_p(0, 0) == 1.0


@pytest.mark.parametrize("answers", [1000, 1100, 5000])
def test_a_pilots_thousands_of_answers_are_no_overflow(answers):
    """There the interval is the normal one to a thousandth."""
    low, high = binomial_interval(int(0.8 * answers), answers)
    half = 1.96 * (0.8 * 0.2 / answers) ** 0.5
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=1.5e-3) and low < 0.8 < high
    wins = answers // 2 + round(answers**0.5)
    exact = 2 * sum(comb(answers, k) for k in range(wins, answers + 1)) / 2**answers
    assert binomial_p(wins, answers) == pytest.approx(exact, rel=1e-6)


def test_evidence_is_the_integral():
    p = (np.arange(200_000) + 0.5) / 200_000
    for wins, losses in ((0, 0), (8, 0), (11, 3), (3, 11), (20, 20)):
        integral = float((p**wins * (1 - p) ** losses).mean()) * 2.0 ** (wins + losses)
        assert np.exp(log_evidence(wins, losses)) == pytest.approx(integral, rel=1e-6)


def test_eight_in_a_row_decide_and_seven_do_not():
    """2^8 / 9 is above 20 and 2^7 / 8 below; what was decided stays so."""
    assert not decided([True] * 7) and decided([True] * 8) and decided([False] * 8)
    assert decided([True] * 8 + [False] * 8)
    assert anytime_p([True] * 8) == pytest.approx(9 / 256)
    assert anytime_p([True] * 8 + [False] * 8) == pytest.approx(9 / 256)
    assert anytime_p([]) == 1.0


def test_the_interval_is_what_the_ratio_does_not_refute():
    low, high = anytime_interval(14, 4)
    for p, is_in in ((low - 1e-6, False), (low + 1e-6, True), (high - 1e-6, True), (high + 1e-6, False)):
        ratio = log_evidence(14, 4) - 18 * np.log(2) - 14 * np.log(p) - 4 * np.log(1 - p)
        assert (ratio < -np.log(ALPHA)) == is_in
    assert anytime_interval(0, 0) == (0.0, 1.0)
    assert anytime_interval(4, 14) == pytest.approx((1 - high, 1 - low))
    assert anytime_interval(8, 0)[0] > 0.5 and anytime_interval(8, 0)[1] == 1.0


def coins(rate: float, count: int, answers: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, answers)) < rate


def test_a_fair_coin_is_called_unfair_in_at_most_the_stated_share():
    """Looking after each of 200 answers, where a fixed-number test is wrong in more than a quarter."""
    fair = coins(0.5, 3000, 200)
    share = np.mean([decided(answers) for answers in fair])
    assert 0.01 < share <= ALPHA
    every = [sum(row[: n + 1]) for row in fair[:100] for n in range(200)]
    naive = np.reshape([binomial_p(int(w), n % 200 + 1) < ALPHA for n, w in enumerate(every)], (100, 200))
    assert naive.any(1).mean() > 0.25


def test_the_interval_holds_at_all_times_together():
    answers = coins(0.7, 200, 60)
    wins = answers.cumsum(1)
    missed = 0
    for row in wins:
        intervals = (anytime_interval(int(w), n + 1 - int(w)) for n, w in enumerate(row))
        missed += any(not low <= 0.7 <= high for low, high in intervals)
    assert missed / len(wins) <= ALPHA


@pytest.mark.parametrize(("rate", "power", "median"), [(0.8, 0.85, 19), (0.9, 0.99, 12)])
def test_power_within_forty_answers(rate, power, median):
    needed = [next((n for n in range(1, 41) if decided(row[:n])), None) for row in coins(rate, 400, 40)]
    found = [n for n in needed if n is not None]
    assert len(found) / len(needed) > power
    assert abs(np.median(found) - median) <= 2


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="at least 0, got 3 and -1"):
        binomial_interval(3, 2)
