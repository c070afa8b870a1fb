"""How sure a share of wins is: exactly for a number of answers fixed beforehand, and for a test that may stop any time.

Whoever stops as soon as a fixed-number test says "significant" is wrong far more often than it says. Here the evidence
against a fair coin is a mixture likelihood ratio with a uniform prior on the win rate,

    E(w, l) = int_0^1 p^w (1 - p)^l dp / (1/2)^(w + l) = 2^n / ((n + 1) C(n, w)),   n = w + l,

a martingale with mean 1 where each answer is a fair coin, so that it ever reaches 1 / alpha with a probability of at
most alpha (Ville 1939; Robbins 1970, Ann. Math. Stat. 41:1397; Ramdas et al. 2023, Stat. Sci. 38:576). All p that the
same ratio does not refute are a confidence sequence: it holds at all times together, so also when one stops.

Ties are dropped (the sign test: Dixon and Mood 1946). Under the null hypothesis a tie says nothing of who would have
won, so the martingale stays one; counted as half a win each, answers would be no coin. Shares of ties are told beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import exp, lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""The error that a test states: how often arms that nobody can tell apart are called different."""
STEPS = 60
"""Of bisection: to the last digits of a double."""


def binomial_interval(wins: int, answers: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Exact interval of a win rate by `wins` of a fixed number of `answers` (Clopper and Pearson 1934)."""
    _check(wins, answers - wins)
    low = 0.0 if wins == 0 else _bisect(lambda p: _tail(wins, answers, p) > alpha / 2, 0.0, 1.0)
    high = 1.0 if wins == answers else 1 - _bisect(lambda p: _tail(answers - wins, answers, p) > alpha / 2, 0.0, 1.0)
    return low, high


def binomial_p(wins: int, answers: int) -> float:
    """Two-sided exact p of a fixed number of answers against a fair coin (the sign test); 1 without answers."""
    _check(wins, answers - wins)
    return min(1.0, 2 * _tail(max(wins, answers - wins), answers, 0.5))


def log_evidence(wins: int, losses: int) -> float:
    """log E(w, l) against a fair coin; 0 without answers."""
    _check(wins, losses)
    n = wins + losses
    return n * log(2) - log(n + 1) - _log_choose(n, wins)


def anytime_p(outcomes: Iterable[bool]) -> float:
    """1 / the largest E on the way of these outcomes: a p that holds whenever one stops."""
    return min(1.0, exp(-max(_path(outcomes), default=0.0)))


def decided(outcomes: Iterable[bool], alpha: float = ALPHA) -> bool:
    """Whether E has reached 1 / alpha on the way: at most a share alpha of tests of a fair coin ever do."""
    return any(evidence >= -log(alpha) for evidence in _path(outcomes))


def anytime_interval(wins: int, losses: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The confidence sequence of a win rate after these answers: the truth is in all of them together but for a share
    alpha of tests."""
    _check(wins, losses)
    n = wins + losses
    # log of int p^w (1 - p)^l dp, that is of the numerator of E
    mixture = -log(n + 1) - _log_choose(n, wins)

    def is_refuted(p: float) -> bool:
        likelihood = sum(count * log(part) if part else -1e300 for count, part in ((wins, p), (losses, 1 - p)) if count)
        return mixture - likelihood >= -log(alpha)

    best = wins / n if n else 0.5
    low = _bisect(lambda p: not is_refuted(p), 0.0, best) if is_refuted(0.0) else 0.0
    high = 1 - _bisect(lambda q: not is_refuted(1 - q), 0.0, 1 - best) if is_refuted(1.0) else 1.0
    return low, high


def _path(outcomes: Iterable[bool]) -> Iterable[float]:
    wins = losses = 0
    for won in outcomes:
        wins, losses = wins + won, losses + (not won)
        yield log_evidence(wins, losses)


def _tail(wins: int, answers: int, p: float) -> float:
    """P(X >= wins) of a binomial, 0 < p < 1; in logs, since C(1100, 550) is no float."""
    k = np.arange(wins, answers + 1)
    return float(np.exp(_log_chooses(answers)[wins:] + k * log(p) + (answers - k) * log1p(-p)).sum())


@lru_cache(maxsize=8)
def _log_chooses(n: int) -> NDArray[np.float64]:
    """log C(n, k) for k = 0 to n."""
    factorials = np.array([lgamma(k + 1) for k in range(n + 1)])
    return factorials[-1] - factorials - factorials[::-1]


def _bisect(is_above: Callable[[float], bool], low: float, high: float) -> float:
    """Where `is_above` turns from False to True between low and high."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return high


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _check(wins: int, losses: int) -> None:
    if wins < 0 or losses < 0:
        raise ValueError(f"Expected numbers of wins and losses of at least 0, got {wins} and {losses}.")
