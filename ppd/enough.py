"""How much of a taste is known, against what eight good picks tell, and how many more picks that takes.

What is known is the share of the prior's variance that the posterior has explained, 1 - tr(covariance) / tr(prior). A
pick shrinks the covariance by its expected Fisher information (Laplace's approximation; Houlsby et al. 2011): of a
spread of differences as pictures have them, the most telling is picked each time, and the covariance loses
C x x' C w / (1 + w x' C x), with w the mean of p (1 - p) over theta ~ N(0, C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from .encoders.population import PopulationPrior

ENOUGH = 8
"""Well-asked picks after which pictures painted for somebody are theirs; `benchmarks.asking` shows the curve."""
SPREAD_OF = 256
"""Differences that the picks are chosen from."""


def enough(prior: PopulationPrior, covariance: Tensor) -> tuple[float, int]:
    """How far somebody of a posterior covariance [d, d] is on the way to being known well enough to paint for, 0 to 1,
    and how many more good picks that takes; 0 only at 1."""
    first = prior.covariance.double()
    wanted, now = _wanted(prior), _explained(first, covariance.double())
    if now >= wanted:
        return 1.0, 0
    more = 0
    for more, later in enumerate(_good_picks(covariance.double(), _differences(prior)), 1):
        if more == ENOUGH or _explained(first, later) >= wanted:
            break
    return max(0.0, round(now / wanted, 4)), more


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
