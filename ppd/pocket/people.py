"""Simulated people: hidden linear rewards over clipped, whitened pixel statistics, and the picks they make.

The population is fixed here, before anything is trained: w = .35 m + c_type + .35 e with a unit vector m all share,
8 types c centred with root-mean-square norm 1, e ~ N(0, I / M), scaled to unit standard deviation of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .statistics import STATISTICS

TYPES = 8
TEMPERATURE = 0.38
SPLITS = {"training": 1000, "tuning": 200, "reporting": 200}
POPULATION_SEED = 2501


@dataclass(frozen=True)
class People:
    """`weights` [P, M] of unit reward standard deviation, `types` [P] in 0..7."""

    weights: Tensor
    types: Tensor

    def rewards(self, statistics: Tensor) -> Tensor:
        """Clipped whitened statistics [P, ..., M], each person's own pictures, to rewards [P, ...]."""
        shape = (len(self.weights),) + (1,) * (statistics.ndim - 2) + (len(STATISTICS),)
        return (statistics * self.weights.view(shape)).sum(-1)


def _structure() -> tuple[np.ndarray, np.ndarray]:
    """What all people share, m [M], and the eight types' centres [8, M]."""
    rng = np.random.default_rng(POPULATION_SEED)
    m = rng.normal(size=len(STATISTICS))
    types = rng.normal(size=(TYPES, len(STATISTICS)))
    types -= types.mean(0)
    return m / np.linalg.norm(m), types / np.sqrt((types**2).sum(1).mean())


def sample_weights(covariance: Tensor, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """`count` new people: weights [count, M] and types [count]; `covariance` [M, M] as in `population`."""
    m, types = _structure()
    kind = rng.integers(TYPES, size=count)
    own = rng.normal(size=(count, len(m))) / np.sqrt(len(m))
    w = torch.from_numpy(0.35 * m + types[kind] + 0.35 * own).float()
    return w / ((w @ covariance) * w).sum(1, keepdim=True).sqrt(), torch.from_numpy(kind)


def population(covariance: Tensor) -> dict[str, People]:
    """All people by split; `covariance` [M, M] of the base's clipped whitened statistics sets the reward's unit."""
    rng = np.random.default_rng(POPULATION_SEED + 1)
    return {split: People(*sample_weights(covariance, rng, count)) for split, count in SPLITS.items()}


def pick(rewards_a: Tensor, rewards_b: Tensor, rng: np.random.Generator) -> Tensor:
    """Bradley-Terry picks, True where a is chosen: P(a) = sigmoid((r_a - r_b) / TEMPERATURE)."""
    p = torch.sigmoid((rewards_a - rewards_b) / TEMPERATURE)
    return torch.from_numpy(rng.random(p.shape)) < p
