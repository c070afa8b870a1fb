"""Person-level differential privacy of a federated prior: nobody can tell from it whether somebody took part.

**One person.** A row (sums.py) is shortened so that [E a, WEIGHT (E aa' - I)] is at most `clip` long, and its count is
COUNT of that: with somebody more or less, the sums of a round move by clip * sqrt(1 + COUNT^2) at most. (epsilon,
delta) is for the addition or removal of one person with all their picks (Dwork and Roth 2014; McMahan et al. 2018).

**Noise** of standard deviation sigma on the sums, as many parts of it as studios are expected, each added by a studio
before it sends: so no one sees sums without noise (distributed noise: Kairouz et al. 2021). A studio that does not
answer takes its part along; `studios` is therefore how many *must* answer.

**All rounds together.** R adaptive Gaussian releases of multiplier z are exactly as private as one of z / sqrt(R)
(Dong, Roth and Su 2022, corollary 3.3), for which the least z has a closed form (privacy.noise_multiplier). Renyi
accountants bound the same from above: tests/federated/test_flower.py asks Opacus'.

**What is done afterwards** costs no privacy. In what the noise hides the prior stays where it was: the mean is shrunk
(James and Stein 1961), and eigenvalues of the change of the covariance lose what noise alone reaches (the edge of
Wigner's semicircle). And nobody's row is longer than `clip`, so no mean of rows is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoders.population import Said
from ..encoders.posterior import root_of
from ..privacy import COUNT, Guarantee, noise_multiplier
from .sums import Prior, averages, rows

CLIP, WEIGHT, ROUNDS = 2.0, 0.3, 12
"""Chosen on the pocket's people (benchmarks/federated.py): more of each costs noise, less of each costs people."""
LEAST_VARIANCE = 0.05
"""Of that before the round, which noise may leave to a direction."""


@dataclass(frozen=True)
class Hiding:
    """`guarantee` for each person over all `rounds`; `studios` that must answer; `clip` and `weight` as above."""

    guarantee: Guarantee
    studios: int
    rounds: int = ROUNDS
    clip: float = CLIP
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if self.studios < 1 or self.rounds < 1:
            raise ValueError(f"Expected at least one studio and one round, got {self.studios} and {self.rounds}.")

    @property
    def sigma(self) -> float:
        """Of the noise on each number of the sums."""
        return noise_multiplier(self.guarantee) * math.sqrt(self.rounds) * self.clip * math.hypot(1, COUNT)

    def answer(self, people: Sequence[Said], prior: Prior, noise: random.Random | None = None) -> Tensor:
        """What a studio sends in a round: the sum of its people's clipped rows [width], with its part of the noise."""
        drawn, share = noise or random.SystemRandom(), self.sigma / math.sqrt(self.studios)
        total = clipped(rows(people, prior), len(prior[0]), self.clip, self.weight).sum(0)
        return total + torch.tensor([drawn.gauss(0, share) for _ in total], dtype=total.dtype)

    def updated(self, total: Tensor, prior: Prior) -> Prior:
        """The M-step from sums with noise, which moves the prior as far as they can be told from noise."""
        d = len(prior[0])
        scale = torch.ones_like(total)
        scale[d:-1] = 1 / self.weight
        scale[-1] = 1 / (COUNT * self.clip)
        total = total * scale
        total[-1] = total[-1].clamp_min(1.0)
        error = self.sigma / float(total[-1])
        a, moments = averages(total, d)
        a = _shrunk(a, error, self.clip)
        values, vectors = torch.linalg.eigh(moments - torch.outer(a, a))
        edge = math.sqrt(2 * d) * error / self.weight
        change = values.sign() * (values.abs() - edge).clamp_min(0)
        kept = 1 + change.clamp(LEAST_VARIANCE - 1, self.clip / self.weight)
        root = root_of(prior[1])
        return prior[0] + root @ a, root @ (vectors * kept @ vectors.T) @ root.T


def _shrunk(a: Tensor, error: float, longest: float) -> Tensor:
    """A mean [d] with noise of `error`: nothing of what is no longer than noise is in 97 of 100 cases."""
    square, d = max(float(a.square().sum()), 1e-300), len(a)
    noise = (d + 2 * math.sqrt(2 * d)) * error**2
    return a * min(max(0.0, 1 - noise / square), longest / math.sqrt(square))


def clipped(found: Tensor, d: int, clip: float = CLIP, weight: float = WEIGHT) -> Tensor:
    """Rows [P, width] as they may be summed: moments by `weight`, no longer than `clip`, counts of COUNT * `clip`."""
    told = torch.cat([found[:, :d], weight * found[:, d:-1]], 1)
    told = told * (clip / told.norm(dim=1, keepdim=True).clamp_min(clip))
    return torch.cat([told, torch.full_like(found[:, -1:], COUNT * clip)], 1)
