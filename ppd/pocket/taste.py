"""From picks to user embeddings in the pocket world: the pool that people pick from, their support pairs, the prior."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..encoders.population import PopulationPrior, fit_population
from ..encoders.posterior import fit_posteriors
from .people import People, pick

SUPPORT_COUNTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Pool:
    """Pictures to pick from: caption index [n], whitened clipped statistics [n, M], encoder features [n, f]."""

    captions: np.ndarray
    statistics: Tensor
    features: Tensor

    @cached_property
    def _by_caption(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.captions == c) for c in range(self.captions.max() + 1)]

    def draw_pairs(self, captions: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each caption index, two different pictures of it."""
        drawn = [rng.choice(self._by_caption[c], 2, replace=False) for c in captions]
        a, b = np.array(drawn).T
        return a, b

    @property
    def drawable(self) -> np.ndarray:
        """Captions with at least two pictures."""
        return np.flatnonzero([len(index) >= 2 for index in self._by_caption])


@dataclass(frozen=True)
class Support:
    """Everybody's support pairs, nested: the first n of a row are the n-pair support. All [P, n] picture indices."""

    chosen: np.ndarray
    rejected: np.ndarray


def draw_support(pool: Pool, people: People, count: int, rng: np.random.Generator) -> Support:
    """`count` picks of each person among the pool's pictures, every one of another caption."""
    chosen = np.empty((len(people.weights), count), np.int64)
    rejected = np.empty_like(chosen)
    for person in range(len(chosen)):
        captions = rng.choice(pool.drawable, count, replace=False)
        chosen[person], rejected[person] = pool.draw_pairs(captions, rng)
    first = pick(people.rewards(pool.statistics[chosen]), people.rewards(pool.statistics[rejected]), rng).numpy()
    return Support(np.where(first, chosen, rejected), np.where(first, rejected, chosen))


def fit_prior(
    pool: Pool, support: Support, center: Tensor, basis: Tensor, encoder: str, encoder_hash: str
) -> PopulationPrior:
    """The population prior from training people's support pairs (EM), in whitened feature space."""
    x = (pool.features[support.chosen] - pool.features[support.rejected]) @ basis
    mean, covariance = fit_population([(row, torch.ones(len(row))) for row in x])
    return PopulationPrior(mean.float(), covariance.float(), center, basis, encoder=encoder, encoder_hash=encoder_hash)


def embed_people(pool: Pool, support: Support, prior: PopulationPrior, pairs: int) -> Tensor:
    """Posterior means [P, d] from each person's first `pairs` support pairs; with 0 pairs the population user."""
    if pairs == 0:
        return prior.mean.expand(len(support.chosen), -1).clone()
    x = prior.differences(pool.features[support.chosen[:, :pairs]], pool.features[support.rejected[:, :pairs]])
    ones = torch.ones(x.shape[:2])
    return fit_posteriors(x, ones, ones, prior.mean, prior.covariance)[0]
