"""Simulated people: tastes along the looks that a model's pictures really vary in, and what real people share, where an
encoder knows that.

People of random directions alone teach an adapter nothing: they like what pictures hardly vary in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .population import PopulationPrior

SIMULATED = 1000
LIKED = 3
"""A simulated person likes 1 to so many looks."""
OTHERWISE = 0.2
"""Share of a simulated taste's variance that lies in any direction."""
TYPICAL_LOGIT = 3.0
"""Standard deviation over pairs of pictures of what decides a simulated person's pick, in logits: with it a person
agrees with themselves on four of five pairs asked twice, as real people do."""


@dataclass(frozen=True)
class SimulatedPeople:
    """`tastes` [P, d] in whitened coordinates phi, in logits: P(a over b) = sigmoid(taste . (phi a - phi b)); `looks`
    [P, k] how much of each look they like, below 0 its opposite, of length 1; without looks k directions stand in."""

    tastes: Tensor
    looks: Tensor

    def __len__(self) -> int:
        return len(self.tastes)

    def embeddings(self, noise: float) -> Tensor:
        """u [P, d] after endless picks, by a prior of this pick noise."""
        return (noise * self.tastes).float()


def people_of(prior: PopulationPrior, readings: Tensor, count: int = SIMULATED, seed: int = 0) -> SimulatedPeople:
    """People as a taste encoder knows them: each likes looks, `readings` [k, d], and all share the mean of its `prior`,
    which is 0 where that met nobody.

    Else the population user, the mean, would be trained on picks that contradict each other. What they differ in is not
    drawn from the covariance: that of few people is so narrow that all drawn would be nearly one person.
    """
    people = simulate(prior.basis, readings, count, seed)
    return SimulatedPeople(people.tastes + prior.mean / prior.noise, people.looks)


def simulate(basis: Tensor, readings: Tensor | None, count: int = SIMULATED, seed: int = 0) -> SimulatedPeople:
    """People in a whitening `basis` [f, d]: each likes 1 to LIKED looks or their opposites, `readings` [k, d] telling
    looks, and a little of any direction.

    Without looks the strongest directions stand in for them, in proportion to how much pictures vary along them.
    """
    generator = torch.Generator().manual_seed(seed)
    dims = basis.shape[1]
    deviations = 1 / basis.double().norm(dim=0)
    liked = torch.diag(deviations / deviations.max()) if readings is None else F.normalize(readings.double(), dim=1)
    weights = torch.randn(count, len(liked), generator=generator, dtype=torch.float64)
    if readings is not None:
        number = torch.randint(1, min(LIKED, len(liked)) + 1, (count, 1), generator=generator)
        order = torch.rand(count, len(liked), generator=generator).argsort(1).argsort(1)
        weights = weights * (order < number)
    tastes = F.normalize(weights @ liked, dim=1) * (1 - OTHERWISE) ** 0.5
    anything = F.normalize(torch.randn(count, dims, generator=generator, dtype=torch.float64), dim=1)
    tastes = (tastes + anything * OTHERWISE**0.5) * TYPICAL_LOGIT / 2**0.5
    return SimulatedPeople(tastes, F.normalize(weights, dim=1))
