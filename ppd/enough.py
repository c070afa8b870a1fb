"""How well somebody is known, counted in good picks: how many of eight are still to come. The bar of the tab Taste, the
sentence beside it, and the nodes' reports all say this one number.

What a posterior has explained is the share of the prior's variance that is gone, 1 - tr(covariance) / tr(prior); what
painting for somebody takes is what eight good picks explain of it. A pick shrinks the covariance by its expected Fisher
information (Laplace's approximation; Houlsby et al. 2011): of a spread of differences as pictures have them, the most
telling is picked each time, and the covariance loses C x x' C w / (1 + w x' C x), with w the mean of p (1 - p) over
theta ~ N(0, C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .encoders.population import PopulationPrior

ENOUGH = 8
"""Well-asked picks after which pictures painted for somebody are theirs; `benchmarks.asking` shows the curve."""
SPREAD_OF = 256
"""Differences that the picks are chosen from."""


@dataclass(frozen=True)
class Known:
    """How well somebody is known: the good picks that painting for them still takes, 0 to ENOUGH, parts of one too."""

    left: float

    @property
    def share(self) -> float:
        """Of ENOUGH picks what is done, 0 to 1."""
        return 1 - self.left / ENOUGH

    @property
    def more(self) -> int:
        """Whole picks still to come; 0 only where all is done."""
        return math.ceil(self.left)

    def told(self) -> str:
        """The same words as in the tab (`locales`)."""
        if not self.more:
            return "Known well enough to paint in this taste."
        share = min(99.0, 100 * self.share)
        return f"{share:.0f} % known: about {self.more} more {'pick' if self.more == 1 else 'picks'} to go."


def enough(prior: PopulationPrior, covariance: Tensor) -> Known:
    """How well somebody of a posterior covariance [d, d] is known.

    Between two good picks in a row, the later of which explains enough, the last is counted by the part of it that is
    needed, so that every pick counts.
    """
    first = prior.covariance.double()
    wanted, now = _wanted(prior), _explained(first, covariance.double())
    if now >= wanted:
        return Known(0.0)
    picks = _good_picks(covariance.double(), _differences(prior))
    for done, then in enumerate(_explained(first, next(picks)) for _ in range(ENOUGH)):
        if then >= wanted:
            return Known(done + (wanted - now) / (then - now))
        now = then
    return Known(float(ENOUGH))


@lru_cache(maxsize=8)
def _wanted(prior: PopulationPrior) -> float:
    """The share that is explained after ENOUGH good picks."""
    first = prior.covariance.double()
    picks = _good_picks(first, _differences(prior))
    return _explained(first, [next(picks) for _ in range(ENOUGH)][-1])


@lru_cache(maxsize=8)
def _differences(prior: PopulationPrior) -> Tensor:
    """Differences [n, d] of two pictures each, over the noise: phi has unit variances, so a difference has two."""
    generator = torch.Generator().manual_seed(0)
    return math.sqrt(2) / prior.noise * torch.randn(SPREAD_OF, prior.dim, generator=generator, dtype=torch.float64)


def _good_picks(covariance: Tensor, x: Tensor) -> Iterator[Tensor]:
    """The covariance [d, d] after one, two, ... picks, each the most telling of the differences [n, d]."""
    while True:
        along = x @ covariance
        variance = (along * x).sum(1)
        best = int(variance.argmax())
        # E[p (1 - p)] of a logit of this variance, which is 1/4 where it is 0 (MacKay 1992)
        weight = 0.25 / math.sqrt(1 + math.pi / 8 * 2 * float(variance[best]))
        seen = along[best]
        covariance = covariance - torch.outer(seen, seen) * weight / (1 + weight * float(variance[best]))
        yield covariance


def _explained(prior: Tensor, covariance: Tensor) -> float:
    return 1 - float(covariance.trace() / prior.trace())
