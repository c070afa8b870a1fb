"""Win rates and their uncertainty. Figures are means over people, intervals by bootstrap over people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EXACT = 14
"""Signs of which a permutation test tries every pattern."""


def wins(ours: Array, theirs: Array) -> Array:
    """1 where ours is better, 1/2 where they tie, else 0; any shape."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return (ours > theirs) + 0.5 * (ours == theirs)


def bootstrap(
    rows: Array, figure: Callable[[Array], float] | None = None, rounds: int = 2000, seed: int = 0
) -> dict[str, float]:
    """{mean, low, high, n}: `figure` (mean by default) of rows [people, ...] and its 95 % percentile interval.

    People, not pictures, are drawn anew, since the pictures of one person are not independent.
    """
    rows = np.asarray(rows, dtype=np.float64)
    figure = figure or (lambda sample: float(sample.mean()))
    rng = np.random.default_rng(seed)
    drawn = [figure(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": figure(rows), "low": float(low), "high": float(high), "n": len(rows)}


def bootstrap_both(rows: Array, rounds: int = 2000, seed: int = 0) -> dict[str, float]:
    """{mean, low, high, people, prompts}: the mean of rows [people, prompts], NaN where somebody was not asked, and its
    95 % percentile interval.

    People and prompts are drawn anew, both at once (the pigeonhole bootstrap, Owen 2007), since other people would see
    other prompts; where there is one of either, the other alone. Of few people, and where both differ much,
    it covers .90 to .92 in place of .95.
    """
    rows = np.asarray(rows, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(rounds):
        counts = [np.bincount(rng.integers(n, size=n), minlength=n) for n in rows.shape]
        weights = np.outer(*counts) * ~np.isnan(rows)
        if weights.any():
            drawn.append(float((weights * np.nan_to_num(rows)).sum() / weights.sum()))
    low, high = np.percentile(drawn, [2.5, 97.5])
    mean, (people, prompts) = float(np.nanmean(rows)), rows.shape
    return {"mean": mean, "low": float(low), "high": float(high), "people": people, "prompts": prompts}


def permutation_p(differences: Array, rounds: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of paired differences [people, prompts], NaN where somebody was not asked: how often exchanging the
    two arms by lot gives a mean as far from 0.

    Answers of one person go together, and so do those to one prompt. So once whole people and once whole prompts are
    exchanged, and the larger p is told; where there is one of either, the other's. So fewer than
    six of either never come below .05, whatever they say. Where people and prompts both differ much it is somewhat too
    small (.08 to .11 false alarms at .05 in simulations). All exchanges are tried where there are at most 2^EXACT, else
    `rounds` by lot, the one found among them (Phipson and Smyth 2010).
    """
    sums = np.nan_to_num(np.asarray(differences, dtype=np.float64))
    tests = [sums.sum(1 - axis) for axis in (0, 1) if sums.shape[axis] > 1]
    return max((_sign_flip_p(units, rounds, seed) for units in tests), default=1.0)


def least_p(people: int, prompts: int) -> float:
    """The smallest `permutation_p` that any answers of so many can have: every sign the same."""
    return max((2.0 ** (1 - units) for units in (people, prompts) if units > 1), default=1.0)


def _sign_flip_p(units: Array, rounds: int, seed: int) -> float:
    """Of independent sums [n], each as likely with the other sign."""
    units = units[units != 0]
    if len(units) <= EXACT:
        patterns = np.arange(2 ** len(units))[:, None] >> np.arange(len(units)) & 1
    else:
        patterns = np.random.default_rng(seed).integers(2, size=(rounds, len(units)))
        patterns = np.vstack([patterns, np.ones(len(units), dtype=patterns.dtype)])
    found, exchanged = abs(units.sum()), np.abs((2 * patterns - 1) @ units)
    return float((exchanged >= found - 1e-9 * (1 + found)).mean())


def micro_f1(counts: Array) -> float:
    """Micro-averaged F1 of counts [..., 3]: right, found, named."""
    right, found, named = np.asarray(counts).reshape(-1, 3).sum(0)
    return float(2 * right / (found + named))


def object_counts(found: NDArray[np.bool_], named: NDArray[np.bool_]) -> Array:
    """Per picture (right, found, named) [n, 3] of bool arrays [n, kinds]."""
    return np.stack([(found & named).sum(1), found.sum(1), named.sum(1)], axis=1).astype(np.float64)


def correlation(x: Array, y: Array) -> float:
    """Pearson's correlation of two vectors."""
    return float(np.corrcoef(x, y)[0, 1])


def ridge_r2(features: Array, targets: Array, test: int, penalty: float = 1e-2) -> Array:
    """Held-out R2 [M] of ridge regression from features [n, f] to targets [n, M]; the last `test` rows are held out.

    `penalty` is relative to the features' mean squared size.
    """
    train = slice(0, len(features) - test)
    center, mean = features[train].mean(0), targets[train].mean(0)
    x, y = features - center, targets - mean
    gram = x[train].T @ x[train]
    weights = np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), x[train].T @ y[train])
    residual = y[-test:] - x[-test:] @ weights
    return 1 - residual.var(0) / y[-test:].var(0)
