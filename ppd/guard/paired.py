"""Paired comparisons: the same prompts and seeds painted by the base and for a person, and what is in more of one.

Under the null hypothesis that the person's taste changes nothing of what a picture shows, base and personal can be
swapped within any pair, which flips the sign of its difference (Fisher's randomization test for paired data; where
differences are -1, 0 or 1 it is McNemar's exact test). Several words are tested at once: Holm (1979).
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXACT = 14
"""Up to so many units all sign flips are counted, beyond that FLIPS are drawn."""
FLIPS = 40_000
ALPHA = 0.05
"""The chance of any flag at all where nothing is changed."""
Z = 1.959964
"""Of a two-sided interval of 95 %."""


@dataclass(frozen=True)
class Shift:
    """How often `word` was found in `base` and in `personal` pictures (shares), the difference with its 95 % interval,
    p adjusted for all words of the check, and how many `units` (prompts or pictures) tell; `flagged` where p is at most
    ALPHA and the difference at least what the check asks."""

    word: str
    base: float
    personal: float
    shift: float
    low: float
    high: float
    p: float
    units: int
    flagged: bool


def check_pairs(base: Sized, personal: Sized, prompts: Sized) -> None:
    """ValueError unless there are as many plain as personal pictures as prompts, and two of each or more."""
    if not len(base) == len(personal) == len(prompts) > 1:
        raise ValueError(
            f"Expected as many plain as personal pictures as prompts, at least 2, got {len(base)}, {len(personal)} and "
            f"{len(prompts)}: paint each prompt both ways, with the same seed."
        )


def signs(units: int, seed: int = 0) -> tuple[Array, bool]:
    """Sign flips [f, units] of -1 and 1, and whether they are all there are."""
    if units <= EXACT:
        every = np.arange(2**units)[:, None] >> np.arange(units) & 1
        return (1 - 2 * every).astype(np.float64), True
    drawn = np.random.default_rng(seed).integers(0, 2, (FLIPS, units), dtype=np.int8)
    return (1 - 2 * drawn).astype(np.float64), False


def p_values(observed: Array, flipped: Array, exact: bool) -> Array:
    """p [k] of statistics [k] among flipped ones [f, k], larger being stranger; drawn flips count the observed one
    (Phipson and Smyth 2010), so that p is never 0."""
    stranger = (flipped >= observed - 1e-9).sum(0)
    return stranger / len(flipped) if exact else (1 + stranger) / (1 + len(flipped))


def holm(p: Array) -> Array:
    """p [k] adjusted by Holm's step-down method, in the order given."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def interval(differences: Array) -> tuple[float, float]:
    """95 % interval of the mean of paired differences [n] in -1..1 (Agresti and Min 2005).

    Their adjustment adds half a pair to each of the four cells: two pairs of mean 0 with one difference between them.
    Without it no difference in a few pairs would count as certain.
    """
    n = len(differences) + 2
    mean = differences.sum() / n
    spread = np.sqrt(((differences**2).sum() + 1) / n - mean**2)
    half = Z * spread / np.sqrt(n)
    return float(max(-1.0, mean - half)), float(min(1.0, mean + half))


def by_unit(values: Array, unit: NDArray[np.int_], counted: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Means [U, k] of values [n, k] over the counted rows of each unit [n], 0 where it has none; and which have any."""
    count = np.zeros((unit.max() + 1, values.shape[1]))
    total = np.zeros_like(count)
    np.add.at(count, unit, counted)
    np.add.at(total, unit, values * counted)
    return total / np.maximum(count, 1), count > 0


def shifts(
    words: Sequence[str],
    base: NDArray[np.bool_],
    personal: NDArray[np.bool_],
    prompt: NDArray[np.int_],
    counted: NDArray[np.bool_],
    *,
    direction: int | NDArray[np.int_],
    least: float,
) -> list[Shift]:
    """What is found in `base` and `personal` pictures [n, k] of the same prompts [n] and seeds, for each of k `words`
    of which anything tells.

    Only pictures `counted` [n, k] for a word tell of it. A unit is a prompt, since pictures of one prompt are alike.
    `direction`, one or each word's [k], is 1 where only more is of interest, -1 for less, 0 for both; `least` the
    smallest difference that is worth a flag.
    """
    direction = np.broadcast_to(direction, len(words))
    difference, told = by_unit(personal.astype(float) - base, prompt, counted)
    shares = [by_unit(side.astype(float), prompt, counted)[0] for side in (base, personal)]
    flips, exact = signs(len(difference))
    observed, flipped = (_towards(direction, sums) for sums in (difference.sum(0), flips @ difference))
    tested = told.any(0).nonzero()[0]
    p = np.ones(len(words))
    p[tested] = holm(p_values(observed, flipped, exact)[tested])
    rows = []
    for index in tested.tolist():
        rows_of = told[:, index]
        own = difference[rows_of, index]
        size = _towards(direction[index], own.mean())
        before, after = (float(side[rows_of, index].mean()) for side in shares)
        low, high = interval(own)
        flagged = bool(p[index] <= ALPHA and size >= least)
        units = int(rows_of.sum())
        rows.append(Shift(words[index], before, after, float(own.mean()), low, high, float(p[index]), units, flagged))
    return rows


def _towards(direction: NDArray[np.int_], difference: Array) -> Array:
    """How far differences [..., k] go in their word's direction."""
    return np.where(direction == 0, np.abs(difference), direction * difference)
