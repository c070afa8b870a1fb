"""Win rates, intervals, object F1, correlation and ridge regression on numbers worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ppd.evaluation import (
    bootstrap,
    bootstrap_both,
    correlation,
    micro_f1,
    object_counts,
    permutation_p,
    ridge_r2,
    wins,
)
from ppd.sequential import binomial_p


def test_ties_are_half_a_win():
    ours, theirs = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[0.0, 2.0], [0.5, -1.0]])
    assert wins(ours, theirs).tolist() == [[1.0, 0.5], [0.0, 0.5]]
    assert (wins(ours, theirs) + wins(theirs, ours) == 1).all()


def test_bootstrap_of_people_who_agree_has_no_width():
    assert bootstrap(np.full((5, 4), 0.75)) == {"mean": 0.75, "low": 0.75, "high": 0.75, "n": 5}


def test_bootstrap_interval_of_a_fair_coin():
    """400 people, half of them won: standard error .025, so the 95 % interval is .5 +- .049."""
    figures = bootstrap(np.repeat([0.0, 1.0], 200))
    assert figures["mean"] == 0.5
    assert figures["low"] == pytest.approx(0.451, abs=0.004)
    assert figures["high"] == pytest.approx(0.549, abs=0.004)
    assert figures == bootstrap(np.repeat([0.0, 1.0], 200))


def test_bootstrap_draws_people_not_pictures():
    people = np.repeat([0.0, 1.0], 50)
    alike = bootstrap(np.repeat(people[:, None], 25, axis=1))
    assert alike == bootstrap(people)


def test_bootstrap_of_another_figure():
    rows = np.array([[1.0, 1.0, 2.0], [2.0, 3.0, 2.0], [0.0, 1.0, 1.0]])
    figures = bootstrap(rows, micro_f1, rounds=500)
    assert figures["mean"] == pytest.approx(0.6)
    assert 0.0 <= figures["low"] <= 0.6 <= figures["high"] <= 0.8


def enumerated(units):
    """The share of all exchanges whose sum is as far from 0, one by one."""
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, units, strict=True)))
        for signs in product((1, -1), repeat=len(units))
    ]
    return sum(one >= abs(sum(units)) - 1e-9 for one in sums) / len(sums)


@pytest.mark.parametrize("seed", range(4))
def test_a_permutation_test_tries_every_exchange_of_people_and_of_prompts(seed):
    rows = np.random.default_rng(seed).choice([-0.5, 0.0, 0.5, np.nan], (7, 9), p=[0.2, 0.2, 0.4, 0.2])
    sums = np.nan_to_num(rows)
    people, prompts = enumerated(sums.sum(1).tolist()), enumerated(sums.sum(0).tolist())
    assert permutation_p(rows) == max(people, prompts) and people != prompts
    assert permutation_p(-rows) == permutation_p(rows)
    assert permutation_p(rows[:1]) == enumerated(sums[0].tolist())  # one person: prompts alone
    assert permutation_p(rows[:, :1]) == enumerated(sums[:, 0].tolist())


def test_many_are_exchanged_by_lot_which_comes_near_and_is_never_0():
    """Each answered one for one: the two-sided sign test."""
    told = np.repeat([0.5, -0.5], [19, 9])[None]
    assert permutation_p(told) == pytest.approx(binomial_p(19, 28), abs=0.005)
    assert permutation_p(np.full((1, 40), 0.5)) == 1 / 20_001
    assert permutation_p(np.zeros((3, 3))) == permutation_p(np.array([[0.5]])) == 1.0


def test_people_who_are_alike_count_once():
    """Twelve people who say the same of six prompts tell of six prompts and not of 72."""
    rows = np.tile([0.5, 0.5, 0.5, 0.5, 0.5, -0.5], (12, 1))
    assert permutation_p(rows) == permutation_p(rows[:1]) == pytest.approx(binomial_p(5, 6))
    assert bootstrap_both(rows)["low"] == pytest.approx(bootstrap_both(rows[:1])["low"], abs=0.05)


def test_the_bootstrap_over_people_and_prompts():
    """Independent answers: between the plain interval and one of twice the variance."""
    rows = np.random.default_rng(0).integers(0, 2, (40, 30)).astype(float)
    rows[3, 4] = np.nan
    found, deviation = bootstrap_both(rows), 0.5 / 1200**0.5
    assert found["mean"] == np.nanmean(rows) and (found["people"], found["prompts"]) == (40, 30)
    half = (found["high"] - found["low"]) / 2
    assert 1.96 * deviation < half < 1.96 * deviation * 2
    one = bootstrap_both(rows[:1])
    assert one["low"] == pytest.approx(bootstrap(rows[0])["low"], abs=0.02)


def test_micro_f1_on_literal_numbers():
    """Right 3, found 4, named 4: precision and recall .75."""
    assert micro_f1(np.array([[1, 1, 2], [2, 3, 2]])) == pytest.approx(0.75)
    assert micro_f1(np.array([[[2, 2, 2]], [[0, 0, 2]]])) == pytest.approx(2 / 3)


def test_object_counts():
    found = np.array([[True, True, False], [False, False, False]])
    named = np.array([[True, False, True], [True, True, False]])
    assert object_counts(found, named).tolist() == [[1.0, 2.0, 2.0], [0.0, 0.0, 2.0]]


def test_correlation():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert correlation(x, 3 - 2 * x) == pytest.approx(-1.0)
    assert correlation(x, np.array([1.0, -1.0, -1.0, 1.0])) == pytest.approx(0.0)


def test_ridge_r2_on_literal_numbers():
    """Gram 2, penalty 1 x 2: the slope 2 shrinks to 4 / (2 + 2) = 1, half of the target is left, a quarter of it as
    variance."""
    x = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    assert ridge_r2(x, 2 * x, test=2, penalty=1.0) == pytest.approx([0.75])


def test_ridge_r2_finds_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)) + 3
    targets = np.stack([x @ rng.normal(size=5) - 7, rng.normal(size=600)], axis=1)
    linear, noise = ridge_r2(x, targets, test=200, penalty=1e-6)
    assert linear > 0.9999
    assert noise < 0.05
