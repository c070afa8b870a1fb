"""Looks: pairs of opposites, and how a picture's features tell how much of each it has.

A look has a step, the mean difference of whitened features phi between its high and its low side, and a reading, the
direction by which phi tells how far a picture is along it. Steps of different looks lie close to each other: muted
pictures are also icier. Readings are therefore fitted for all looks together (multi-output ridge regression, which for
two sides is the linear discriminant: Hastie, Tibshirani and Friedman 2009, 4.2), so that each tells its own look from
the others: readings @ steps.T is nearly the identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = 5
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shrinkages that are tried, each as a share of what pictures vary anyway: phi has unit variance in every direction."""
LEAST_OBEYED = 0.75
"""A look is kept if at least this share of pairs that were held out is read the right way round; chance is .5."""
OTHERS_AT_ONCE = 7
"""Pictures mostly differ in several looks at once: in how many others, when it is judged how well a look is told."""
LEAST_TOLD = 0.5
"""A look is kept if its reading correlates with the look by this much then."""
TENSORS = ("steps", "readings", "reliability")


@dataclass(frozen=True, eq=False)
class Looks:
    """k looks by `names`, each with a `low` and a `high` word, in the coordinates phi of a taste encoder.

    `steps` [k, d] are the mean differences phi(high side) - phi(low side), `readings` [k, d] the directions along
    which phi tells the look, each scaled to read 1 from a step of its own; `reliability` [k] is the reading's
    correlation with the look on held-out pairs, where pictures differ in several. `japanese` holds the low and high
    words in Japanese, or nothing; `measured` says how.
    """

    names: tuple[str, ...]
    low: tuple[str, ...]
    high: tuple[str, ...]
    steps: Tensor
    readings: Tensor
    reliability: Tensor
    japanese: tuple[tuple[str, str], ...] = ()
    measured: str = ""

    def __post_init__(self) -> None:
        k = len(self.names)
        for name in TENSORS:
            object.__setattr__(self, name, getattr(self, name).detach().cpu().to(torch.float32))
        counts = [len(self.low), len(self.high), len(self.japanese) or k]
        shapes = [list(getattr(self, name).shape) for name in TENSORS]
        d = self.readings.shape[-1] if self.readings.ndim else 0
        if not k or counts != [k] * 3 or shapes != [[k, d], [k, d], [k]]:
            raise ValueError(f"Expected words, steps [k, d], readings [k, d], reliability [k] of looks, got {shapes}.")
        if len(set(self.names)) < k:
            raise ValueError(f"Expected looks of different names, got {', '.join(self.names)}.")
        lengths = self.readings.norm(dim=1) + self.steps.sum(1) * 0
        unusable = [name for name, n in zip(self.names, lengths.tolist(), strict=True) if not 0 < n < float("inf")]
        if unusable:
            raise ValueError(f"The features do not tell {', '.join(unusable)}: leave such looks out.")

    @property
    def dim(self) -> int:
        """d, the number of coordinates of phi."""
        return self.readings.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    def amounts(self, differences: Tensor) -> Tensor:
        """How far pictures are apart in each look, differences [..., d] of phi to [..., k], in steps.

        Of `PopulationPrior.differences`, times its noise.
        """
        return differences.double() @ self.readings.double().T

    @classmethod
    def from_differences(
        cls,
        differences: Tensor,
        look: Sequence[int],
        named: Sequence[tuple[str, str, str]],
        *,
        prompt: Sequence[int],
        japanese: Sequence[tuple[str, str]] = (),
        measured: str = "studies",
    ) -> tuple[Looks, tuple[str, ...]]:
        """Looks from study pairs, and the names of those dropped since the model does not obey them or the features do
        not tell them from other looks.

        `differences` [n, d] are phi(high side) - phi(low side), `look` [n] says which of `named` (name, low word, high
        word) each pair shows, and `prompt` [n] which pairs share a prompt: those are held out together.
        """
        x, which = differences.detach().cpu().double(), torch.as_tensor(look)
        _check_rows(x, len(which), len(prompt))
        missing = [name for index, (name, _, _) in enumerate(named) if not bool((which == index).any())]
        if missing or bool((which >= len(named)).any()):
            raise ValueError(f"Expected pairs of each look and of no other, got none of {', '.join(missing) or named}.")
        y = F.one_hot(which, len(named)).double()
        held_out, ridge = _held_out_readings(x, y, _folds(prompt))
        own = y.T.bool()
        obeyed = torch.stack([(held_out[rows, index] > 0).double().mean() for index, rows in enumerate(own)])
        told = torch.stack([_told(held_out[rows, index], held_out[~rows, index]) for index, rows in enumerate(own)])
        kept = ((obeyed >= LEAST_OBEYED) & (told >= LEAST_TOLD)).nonzero().flatten().tolist()
        dropped = tuple(name for index, (name, _, _) in enumerate(named) if index not in kept)
        if not kept:
            raise ValueError("The features tell none of the looks: paint more studies, or choose another tower.")
        rows = torch.isin(which, torch.tensor(kept))
        steps = torch.stack([x[which == index].mean(0) for index in kept])
        readings = _ridge(x[rows], y[rows][:, kept], ridge)
        names, low, high = zip(*(named[index] for index in kept), strict=True)
        return cls(
            names,
            low,
            high,
            steps,
            _to_steps(readings, steps),
            told[kept],
            tuple(japanese[index] for index in kept) if japanese else (),
            measured,
        ), dropped

    @classmethod
    def from_amounts(
        cls,
        differences: Tensor,
        amounts: Tensor,
        named: Sequence[tuple[str, str, str]],
        *,
        prompt: Sequence[int],
        measured: str,
    ) -> Looks:
        """Looks from pairs of pictures [n, d] of which it is known how far apart they are in each look, [n, k].

        A step is one standard deviation of these pairs' amounts, and how pictures that far apart differ otherwise.
        """
        x, y = differences.detach().cpu().double(), amounts.detach().cpu().double()
        _check_rows(x, len(y), len(prompt))
        y = y / y.square().mean(0).sqrt()
        held_out, ridge = _held_out_readings(x, y, _folds(prompt))
        reliability = F.normalize(held_out, dim=0).mul(F.normalize(y, dim=0)).sum(0)
        readings = _ridge(x, y, ridge)
        steps = (y.T @ x) / len(x)
        names, low, high = zip(*named, strict=True)
        return cls(names, low, high, steps, _to_steps(readings, steps), reliability, measured=measured)

    def tensors(self) -> dict[str, Tensor]:
        """What goes into a taste encoder's safetensors."""
        return {f"look_{name}": getattr(self, name).contiguous() for name in TENSORS}

    def lists(self) -> dict[str, object]:
        """What goes into its JSON, beside `tensors`."""
        return {
            "names": list(self.names),
            "low": list(self.low),
            "high": list(self.high),
            "japanese": [list(words) for words in self.japanese],
            "measured": self.measured,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], lists: Mapping[str, object]) -> Looks:
        """Looks of what `tensors` and `lists` gave; what is missing or does not fit raises ValueError."""
        missing = [f"look_{name}" for name in TENSORS if f"look_{name}" not in tensors]
        if missing:
            raise ValueError(f"its looks lack {', '.join(missing)}")
        names, low, high = (_words(name, lists.get(name)) for name in ("names", "low", "high"))
        japanese = lists.get("japanese", [])
        if not isinstance(japanese, list):
            raise ValueError(f"expected a list of words as japanese, got {json.dumps(japanese)[:80]}.")
        both = tuple(_words("japanese", one) for one in japanese)
        if any(len(one) != 2 for one in both):
            raise ValueError("expected two words of each look as japanese.")
        steps, readings, reliability = (tensors[f"look_{name}"] for name in TENSORS)
        pairs = tuple((one[0], one[1]) for one in both)
        measured = str(lists.get("measured", ""))
        return cls(names, low, high, steps, readings, reliability, pairs, measured)


def _words(key: str, words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a list of words as {key}, got {json.dumps(words)[:80]}.")
    return tuple(words)


def _check_rows(x: Tensor, looks: int, prompts: int) -> None:
    if x.ndim != 2 or len(x) < 2 or looks != len(x) or prompts != len(x):
        raise ValueError(
            f"Expected at least 2 differences [n, d] with a look and a prompt each, got {list(x.shape)}, {looks} and "
            f"{prompts}."
        )
    if not bool(x.isfinite().all()):
        raise ValueError("The differences hold values that are not finite: check the tower's features.")


def _folds(prompt: Sequence[int]) -> Tensor:
    """For each row one of FOLDS, the same for the same prompt."""
    _, group = torch.unique(torch.as_tensor(prompt), return_inverse=True)
    return group % FOLDS


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Readings [k, d]: y [n, k] from x [n, d]."""
    gram = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y / len(x)).T


def _held_out_readings(x: Tensor, y: Tensor, folds: Tensor) -> tuple[Tensor, float]:
    """What each row reads by looks fitted on the other folds, [n, k], at the ridge of least error, and that ridge."""
    best: tuple[float, Tensor, float] | None = None
    for ridge in RIDGES:
        read = torch.zeros_like(y)
        for fold in folds.unique():
            out = folds == fold
            read[out] = x[out] @ _ridge(x[~out], y[~out], ridge).T
        error = float((read - y).square().mean())
        if best is None or error < best[0]:
            best = (error, read, ridge)
    assert best is not None
    return best[1], best[2]


def _told(own: Tensor, others: Tensor) -> Tensor:
    """The correlation of a look's reading with the look, where OTHERS_AT_ONCE others are turned too: `own` is read from
    pairs that differ in the look, `others` from those that do not."""
    noise = own.var(correction=0) + OTHERS_AT_ONCE * (others.square().mean() if len(others) else 0.0)
    return own.mean() / (own.mean().square() + noise).sqrt()


def _to_steps(readings: Tensor, steps: Tensor) -> Tensor:
    """Each scaled to read 1 from its own step, of which ridge regression reads less; not a number where it reads it
    the wrong way round."""
    own = (readings * steps).sum(1, keepdim=True)
    return readings / torch.where(own > 0, own, torch.nan)
