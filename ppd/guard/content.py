"""Content leakage and prompt loss: whether personal pictures show things that nobody asked for, or lack what was asked.

A taste is to change how pictures look. What they show is the prompt's: a thing that liked pictures happened to show
must not come into pictures of unrelated prompts, and what a prompt names must not get lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .paired import Shift, check_pairs, shifts
from .probes import Probe, names

LEAST = 0.1
"""Of a hundred pictures ten more, or ten fewer, are worth a flag."""
LIKED = 0.25
"""Share of the liked pictures from which on a thing is theirs."""


@dataclass(frozen=True)
class ContentCheck:
    """`leaks`: of each word the pictures whose prompts do not name it; `losses`: those whose prompts do. `liked`: the
    share of liked pictures that show it, empty where none were given."""

    leaks: list[Shift]
    losses: list[Shift]
    liked: dict[str, float]

    @property
    def passed(self) -> bool:
        """Nothing is flagged."""
        return not any(row.flagged for row in (*self.leaks, *self.losses))

    def report(self) -> str:
        """For people, the verdict first."""
        flagged = [self._leak(row) for row in self.leaks if row.flagged]
        flagged += [
            f"Lost: {row.word} is in {_of_100(row.personal)} of 100 personal pictures that should show it, in "
            f"{_of_100(row.base)} of the plain ones ({_range(row, -1)} fewer)."
            for row in self.losses
            if row.flagged
        ]
        told = [f"{row.word}: {_change(row)}, unasked" for row in self.leaks]
        told += [f"{row.word}: {_change(row)}, asked for" for row in self.losses]
        if flagged:
            return "\n".join(["Did not pass.", *flagged, "All:", *told])
        verdict = "Passed: the pictures show what the prompts ask for, as the plain ones do."
        return "\n".join([verdict, *told])

    def _leak(self, row: Shift) -> str:
        theirs = self.liked.get(row.word, 0.0) >= LIKED
        why = ", and the liked pictures show it" if theirs else ""
        return (
            f"{'Leak' if theirs else 'Unasked'}: {row.word} is in {_of_100(row.personal)} of 100 personal pictures "
            f"whose prompts do not name it, in {_of_100(row.base)} of the plain ones ({_range(row, 1)} more){why}."
        )


def check_content(
    base: NDArray[np.bool_],
    personal: NDArray[np.bool_],
    prompts: Sequence[str],
    words: Sequence[str],
    liked: NDArray[np.bool_] | None = None,
    least: float = LEAST,
) -> ContentCheck:
    """Both checks, of which of `words` were found in pictures [n, k] of `prompts` [n], and in liked ones [m, k].

    Leaks and losses are tested as one family, so that ALPHA is the chance of any flag of either.
    """
    check_pairs(base, personal, prompts)
    _, prompt = np.unique(prompts, return_inverse=True)
    asked = np.array([[names(one, word) for word in words] for one in prompts])
    twice = np.tile(base, 2), np.tile(personal, 2)
    counted, direction = np.hstack([~asked, asked]), np.repeat([1, -1], len(words))
    rows = shifts((*words, *words), *twice, prompt, counted, direction=direction, least=least)
    leaks = int((~asked).any(0).sum())
    return ContentCheck(
        rows[:leaks],
        rows[leaks:],
        {} if liked is None else dict(zip(words, liked.mean(0).tolist(), strict=True)),
    )


def found(probe: Probe, pictures: Sequence[Tensor], words: Sequence[str]) -> NDArray[np.bool_]:
    """Which of k words the probe finds in pictures [H, W, C]: [n, k]."""
    with torch.inference_mode():
        return (probe.scores(pictures, words) > 0).numpy()


def _of_100(share: float) -> int:
    return round(100 * share)


def _range(row: Shift, direction: int) -> str:
    low, high = sorted((direction * row.low, direction * row.high))
    return f"{round(100 * direction * row.shift)}, between {round(100 * low)} and {round(100 * high)},"


def _change(row: Shift) -> str:
    bounds = f"{100 * row.low:+.0f} to {100 * row.high:+.0f}"
    return f"{_of_100(row.base)} → {_of_100(row.personal)} of 100 ({bounds}; {row.units} prompts)"
