"""What is said of a person: the few looks that explain their picks together, each as sure as the picks make it.

Looks go together in pictures, so a person who picks muted pictures picks warm or icy ones too, and each look by itself
would explain the picks. Here few looks explain them jointly (spike and slab: George and McCulloch 1993): the
log-odds of a pick are the sum over a subset of looks of effect times how far the two pictures are apart, and something
that the looks do not tell, N(0, rho^2) in every direction of phi; the best of several is one choice by such log-odds
(choices.py). Subsets of up to three looks are weighed by Laplace's approximation of their evidence (MacKay 1992), over
sizes of effects and of rho; every figure is a mean over subsets. Nothing here leans to what people mostly like: swapped
picks turn every statement round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .choices import Choices
from .looks import Looks

SIZES = (0.1, 0.4, 0.3, 0.2)
"""How probable it is that 0, 1, 2, 3 looks matter to somebody, before any pick."""
MOST = len(SIZES) - 1
EFFECTS = (0.7, 1.5, 3.0)
"""Standard deviations of an effect, in log-odds per standard deviation of pictures along a look; equally probable."""
UNTOLD = (0.05, 0.2)
"""Values of rho; equally probable."""
SURE = 0.9
"""A look is called sure from this probability on that it matters with that sign; `benchmarks.looks` says how often such
statements are right."""
LIKELY = 0.5
LEAST_ASKED = 1.5
"""A look has been asked once the picks' Fisher information about its effect is this, per squared log-odds for one
standard deviation: three pairs of pictures as far apart as two pictures mostly are."""
TOGETHER = 3
"""At most so many looks are named as not told apart from one."""
ALIKE = 0.5
"""Looks have gone together in the pairs if they correlate by this much."""
LEAST_NAMED = 0.1
"""And each of them only from this probability on."""
REACHED = (12, 40, 40)
"""Of many looks, how many subsets grow by one look at a time, and how many of two and of three looks are weighed."""
NEWTON_STEPS = 10
LONGEST_STEP = 3.0
"""By how much a Newton step may change a pick's log-odds, since Newton's method may overshoot far from the mode."""
NINETY = 1.645
"""Standard deviations to either side that hold 90 %."""

State = Literal["sure", "likely", "unknown", "not asked yet"]
SENTENCES: tuple[tuple[State, str], ...] = (
    ("sure", "You like"),
    ("likely", "Perhaps you like"),
    ("not asked yet", "Not asked yet"),
)


@dataclass(frozen=True)
class Statement:
    """What the picks say of one look.

    `state`: "sure", "likely", "unknown", or "not asked yet", where the pairs hardly differed in it. `low`, `high`: its
    words; `prefers` the one that is liked, "" unless sure or likely. `probability_low`, `probability_high`: that it
    matters with that sign. `mean` and the 90 % interval `least` to `most`: log-odds of a pick for one step from low to
    high, if the look matters. `asked`: Fisher information of the pairs about it, as in LEAST_ASKED. `instead`: looks
    of which one may matter in its place, since they have not been told apart.
    """

    name: str
    low: str
    high: str
    state: State
    prefers: str
    probability_low: float
    probability_high: float
    mean: float
    least: float
    most: float
    asked: float
    instead: tuple[str, ...] = ()

    @property
    def probability(self) -> float:
        """That the look matters with its more probable sign."""
        return max(self.probability_low, self.probability_high)


def statements(
    looks: Looks,
    differences: Tensor,
    outcomes: Tensor | None = None,
    weights: Tensor | None = None,
    choices: Tensor | None = None,
) -> list[Statement]:
    """One statement per look, in their order, of somebody's picks.

    `differences` [n, d] are phi(chosen) - phi(rejected) (`PopulationPrior.differences` times its noise), `outcomes` [n]
    1 for a pick and .5 for a tie, `weights` [n] as fading gives them, `choices` [n] as in `fit_posterior`.
    """
    n, k = len(differences), len(looks)
    given = (
        differences,
        torch.ones(n) if outcomes is None else outcomes,
        torch.ones(n) if weights is None else weights,
    )
    x, y, w = (part.detach().cpu().double() for part in given)
    if x.shape != (n, looks.dim) or y.shape != (n,) or w.shape != (n,):
        raise ValueError(
            f"Expected differences [n, {looks.dim}] with an outcome and a weight each, got {list(x.shape)}, "
            f"{list(y.shape)} and {list(w.shape)}."
        )
    scale, apart = looks.readings.double().norm(dim=1), _apart(looks, x)
    known = _weigh(apart, x.square().sum(1), (y, w, torch.arange(n) if choices is None else choices))
    matters, high, mean, square = known.by_look(k)
    mean = mean / matters
    deviation = (square / matters - mean.square()).clamp_min(0).sqrt()
    ends = torch.stack([mean, mean - NINETY * deviation, mean + NINETY * deviation], 1) / scale[:, None]
    low, asked = matters - high, asked_of(looks, x, w, choices)
    most = torch.maximum(low, high)
    alike = (F.normalize(apart, dim=0).T @ F.normalize(apart, dim=0)).abs()
    rivals = (alike > ALIKE) & (most < SURE) & ~torch.eye(k, dtype=torch.bool)
    found = []
    for index, name in enumerate(looks.names):
        p, information = float(most[index]), float(asked[index])
        state: State = "sure" if p >= SURE else "likely" if p >= LIKELY else "unknown"
        if state == "unknown" and information < LEAST_ASKED:
            state = "not asked yet"
        row = rivals[index].nonzero().flatten().tolist()
        liked = looks.high[index] if high[index] > low[index] else looks.low[index]
        found.append(
            Statement(
                name=name,
                low=looks.low[index],
                high=looks.high[index],
                state=state,
                prefers=liked if state in ("sure", "likely") else "",
                probability_low=float(low[index]),
                probability_high=float(high[index]),
                mean=float(ends[index, 0]),
                least=float(ends[index, 1]),
                most=float(ends[index, 2]),
                asked=information,
                instead=tuple(looks.names[i] for i in known.instead(index, row, k)) if p < SURE else (),
            )
        )
    return found


def in_words(found: Sequence[Statement]) -> list[str]:
    """What is said of somebody's looks, in sentences; nothing where nothing can be said."""

    def those(state: State) -> str:
        return ", ".join(one.prefers or f"{one.low} / {one.high}" for one in found if one.state == state)

    return [f"{start}: {those(state)}." for state, start in SENTENCES if those(state)]


def asked_of(looks: Looks, differences: Tensor, weights: Tensor | None = None, choices: Tensor | None = None) -> Tensor:
    """Fisher information [k] of picks about each look, as in LEAST_ASKED: differences [n, d], weights and choices [n]
    as in `statements`."""
    apart = _apart(looks, differences)[None]
    w = torch.ones(1, apart.shape[1], dtype=apart.dtype) if weights is None else weights.detach().cpu().double()[None]
    said = Choices(torch.ones_like(w), w, None if choices is None else choices[None])
    return said.root(torch.zeros_like(w), apart)[0].square().sum(0)


def would_ask(looks: Looks, asked: Tensor, differences: Tensor) -> Tensor:
    """Which candidates, differences [n, d] of phi(first) - phi(second), would ask of a look that has not been asked,
    by `asked_of`: bool [n]. Their pictures are apart in it by what two pictures mostly are."""
    apart = _apart(looks, differences).abs()
    return ((apart >= math.sqrt(2)) & (asked < LEAST_ASKED)).any(1)


def _apart(looks: Looks, differences: Tensor) -> Tensor:
    """How far two pictures are apart in each look, in standard deviations of pictures: [n, d] to [n, k]."""
    return looks.amounts(differences) / looks.readings.double().norm(dim=1)


@dataclass(frozen=True)
class _Weighed:
    """The posterior over m subsets and h sizes of effect and rho: `subsets` [m, MOST] of look indices, k standing for
    none, `probability` [h, m], and of the effects of each subset's looks `mean` and `variance` [h, m, MOST]. Of the
    subsets of many looks that were not weighed, `rest` [h] is the probability by which each look is in one."""

    subsets: Tensor
    probability: Tensor
    mean: Tensor
    variance: Tensor
    rest: Tensor

    def by_look(self, k: int) -> Tensor:
        """Of each look the probability that it matters, that it does with a positive sign, and the sums of its effect
        and the effect's square: [4, k]."""
        p = self.probability[..., None]
        parts = (
            p.expand_as(self.mean),
            p * torch.special.ndtr(self.mean / self.variance.sqrt()),
            p * self.mean,
            p * (self.mean.square() + self.variance),
        )
        spread = float(self.rest @ torch.tensor(EFFECTS * len(UNTOLD), dtype=torch.float64).square())
        rest = float(self.rest.sum())
        sums = torch.tensor([rest, rest / 2, 0.0, spread], dtype=torch.float64)[:, None].repeat(1, k + 1)
        for row, part in zip(sums, parts, strict=True):
            row.index_add_(0, self.subsets.flatten(), part.sum(0).flatten())
        return sums[:, :k]

    def instead(self, index: int, rivals: list[int], k: int) -> list[int]:
        """Those of the `rivals` of which one surely matters if look `index` does not, where it takes few to say so."""
        p = self.probability.sum(0)
        member = (self.subsets[..., None] == torch.arange(k)).any(1).double()
        own = member[:, index]
        if float(p @ own) < LEAST_NAMED:
            return []
        found: list[int] = []
        left, rivals = p * (1 - own), [*rivals]
        while rivals and len(found) < TOGETHER and float(left.sum()) > 1 - SURE:
            gains = left @ member[:, rivals]
            if float(gains.max()) < LEAST_NAMED:
                break
            found.append(rivals.pop(int(gains.argmax())))
            left = left * (1 - member[:, found[-1]])
        return found if float(left.sum()) <= 1 - SURE else []


_Said = tuple[Tensor, Tensor, Tensor]
"""Outcomes, weights and numbers of choices, each [n]."""


def _by_each(subsets: Tensor, said: _Said) -> Choices:
    """What was said, as m subsets explain it, each by itself."""
    return Choices(*(part.expand(len(subsets), -1) for part in said))


def _weigh(apart: Tensor, square: Tensor, said: _Said) -> _Weighed:
    """The posterior of picks: apart [n, k] in standard deviations of the looks, square [n] of |phi's difference|."""
    k = apart.shape[1]

    def design(untold: float) -> Tensor:
        """What looks do not tell makes picks noisier (MacKay 1992), of a choice each rejected picture by itself, which
        `benchmarks.choices` finds right as often as of picks: [n, k + 1], a column of zeros for none."""
        return F.pad(apart / (1 + math.pi / 8 * untold**2 * square).sqrt()[:, None], (0, 1))

    subsets = _subsets(design(UNTOLD[len(UNTOLD) // 2]), said)
    sizes = (subsets < k).sum(1)
    shares = _sizes(k)
    before = torch.tensor([math.log(share / math.comb(k, m)) for m, share in enumerate(shares)], dtype=apart.dtype)
    fits = [_laplace(subsets, x, said, effect) for x in map(design, UNTOLD) for effect in EFFECTS]
    evidence, mean, covariance = (torch.stack([fit[part] for fit in fits]) for part in range(3))
    none = evidence[:, sizes == 0].squeeze(1)
    poorer = evidence[:, sizes == 1].sort(1).values[:, : max(1, k - REACHED[0])]  # whose subsets were not reached
    gain = poorer.logsumexp(1) - math.log(poorer.shape[1]) - none
    left = [shares[m] * (1 - int((sizes == m).sum()) / math.comb(k, m)) for m in range(len(shares))]
    unseen = torch.stack([none + m * gain + math.log(max(1e-300, share)) for m, share in enumerate(left)], 1)
    total = torch.cat([evidence + before[sizes], unseen], 1)
    probability = torch.softmax(total.flatten(), 0).view_as(total)
    rest = probability[:, len(subsets) :] @ torch.arange(len(shares), dtype=apart.dtype) / k
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    return _Weighed(subsets, probability[:, : len(subsets)], mean, variance, rest)


def _sizes(k: int) -> tuple[float, ...]:
    """SIZES for k looks, of which there may be fewer than MOST."""
    possible = SIZES[: k + 1]
    return tuple(share / sum(possible) for share in possible)


def _subsets(x: Tensor, said: _Said) -> Tensor:
    """Subsets to weigh [m, MOST]: all of few looks; of many the empty one, the single ones, and those that gain most
    evidence as looks are added one at a time."""
    k = x.shape[1] - 1
    level = torch.full((1, MOST), k)
    levels = [level]
    for kept in (k, *REACHED[1:]):
        level = _grown(level, x, said, kept if k > REACHED[0] else math.comb(k, MOST) + k * k)
        if not len(level):
            break
        levels.append(level)
    return torch.cat(levels)


def _grown(level: Tensor, x: Tensor, said: _Said, kept: int) -> Tensor:
    """The `kept` best of the subsets [m, MOST] grown by one look; each gain is a quadratic approximation's."""
    k, effect = x.shape[1] - 1, EFFECTS[len(EFFECTS) // 2]
    if k <= REACHED[0]:
        added = [sorted({*row, look}) for row in level.tolist() for look in range(k) if look not in row]
        full = [[*(i for i in row if i < k), *[k] * MOST][:MOST] for row in added]
        return torch.tensor(sorted(set(map(tuple, full))), dtype=torch.long).reshape(-1, MOST)
    evidence, mean, covariance = _laplace(level, x, said, effect)
    best = evidence.topk(min(REACHED[0], len(level))).indices
    subsets, covariance, chosen = level[best], covariance[best], x.T[level[best]].mT
    z, explained = (chosen @ mean[best][..., None]).squeeze(-1), _by_each(subsets, said)
    slope, curve = -explained.slope(z) @ x[:, :k], explained.root(z, x[:, :k].expand(len(best), -1, -1))
    mixed = explained.root(z, chosen).mT @ curve
    left = curve.square().sum(1) + effect**-2 - torch.einsum("mik,mij,mjk->mk", mixed, covariance, mixed)
    gain = evidence[best, None] + 0.5 * slope.square() / left - 0.5 * (left * effect**2).log()
    gain = F.pad(gain, (0, 1)).scatter(1, subsets, -math.inf)[:, :k]
    order = gain.flatten().argsort(descending=True)[: 2 * kept]  # most are reached in two ways or more
    larger = torch.cat([subsets[order // k], (order % k)[:, None]], 1).sort(1).values[:, :MOST]
    return torch.unique(larger, dim=0)


def _laplace(subsets: Tensor, x: Tensor, said: _Said, effect: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each subset [m, MOST] the log-evidence [m], and the effects' mode [m, MOST] and covariance [m, MOST, MOST]."""
    chosen = x.T[subsets].mT.contiguous()
    identity = torch.eye(MOST, dtype=x.dtype) / effect**2
    at, explained = x.new_zeros(subsets.shape), _by_each(subsets, said)

    def curvature(z: Tensor) -> tuple[Tensor, Tensor]:
        r = explained.root(z, chosen)
        return _inverse(r.mT @ r + identity)

    z = x.new_zeros(chosen.shape[:2])
    for _ in range(NEWTON_STEPS):
        covariance, _ = curvature(z)
        slope = chosen.mT @ explained.slope(z)[..., None] + at[..., None] / effect**2
        step = -(covariance @ slope).squeeze(-1)
        moved = (chosen @ step[..., None]).squeeze(-1)
        share = LONGEST_STEP / moved.abs().amax(1, keepdim=True).clamp_min(LONGEST_STEP) if len(x) else 1.0
        at, z = at + share * step, z + share * moved
    covariance, determinant = curvature(z)
    fit = -explained.loss(z) - 0.5 * at.square().sum(1) / effect**2
    return fit - 0.5 * determinant.log() - MOST * math.log(effect), at, covariance


def _inverse(h: Tensor) -> tuple[Tensor, Tensor]:
    """Of symmetric [..., 3, 3] the inverse and the determinant; LAPACK takes far longer over many small ones."""
    first, second, third = h.unbind(-2)
    crossed = torch.linalg.cross(second, third)
    determinant = (first * crossed).sum(-1)
    adjugate = torch.stack([crossed, torch.linalg.cross(third, first), torch.linalg.cross(first, second)], -2)
    return adjugate / determinant[..., None, None], determinant
