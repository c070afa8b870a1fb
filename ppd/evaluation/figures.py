"""Win rates and their uncertainty. Figures are means over people, intervals by bootstrap over people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
