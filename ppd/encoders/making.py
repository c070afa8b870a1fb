"""Making a taste encoder: whitening, population prior and looks out of pictures, studies and many people's pairs.

The mathematics of it, on features that are there already; `make_encoder` (workshop.py) reads the pictures.

Whitening is PCA cut where held-out pictures are likeliest under it (probabilistic PCA: Tipping and Bishop 1999). Where
real people picked, its last direction is the one that they agree on beyond the strongest ones: with as many directions,
it reads somebody new better than the next strongest would (benchmarks/encoders.py). Without real people the prior is
that of simulated ones, who like a few looks as painted by the model and a little of anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .hierarchy import fit_hierarchy
from .population import PopulationPrior, fit_whitening
from .simulated import simulate

MOST_DIMS = 48
DIMS = (2, 4, 8, 12, 16, 24, 32, 40, 48)
FOLDS = 5
LEAST_PICTURES = 16
"""Fewer pictures say nothing of how pictures vary."""
LEAST_PEOPLE = 12
"""Fewer people say nothing of how people vary, and simulated ones stand in."""
ALL_DIRECTIONS = 192
"""Directions in which what people agree on is looked for."""


@dataclass(frozen=True, eq=False)
class Picks:
    """One person's pairs: indices [n] of chosen and rejected pictures, outcomes [n] (1 a pick, .5 a tie, a soft label
    between them), and the numbers of their choices [n] (`choices.numbered`; None: each is one)."""

    chosen: Tensor
    rejected: Tensor
    outcomes: Tensor
    choices: Tensor | None = None

    def __len__(self) -> int:
        """How many picks they are, the best of several being one."""
        return len(self.outcomes) if self.choices is None else len(self.choices.unique())

    def differences(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Differences [n, d] of the pictures' coordinates [N, d], the outcomes, and the numbers of choices."""
        choices = torch.arange(len(self.chosen)) if self.choices is None else self.choices
        return coordinates[self.chosen] - coordinates[self.rejected], self.outcomes.double(), choices


def held_out_likelihoods(features: Tensor, most: int = MOST_DIMS, seed: int = 0) -> dict[int, float]:
    """For each number of directions the mean log-likelihood of held-out features [n, f] under probabilistic PCA.

    Cross-validated over FOLDS; numbers that the pictures are too few for are left out.
    """
    x = features.double()
    n, f = x.shape
    fold = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % FOLDS
    numbers = [d for d in DIMS if d <= most and d < min(f, n - n // FOLDS - 2)] or [1]
    total = torch.zeros(len(numbers), dtype=torch.float64)
    for number in range(FOLDS):
        train, out = x[fold != number], x[fold == number]
        center = train.mean(0)
        _, singular, directions = torch.linalg.svd(train - center, full_matrices=False)
        variances = singular.square() / len(train)
        squares = ((out - center) @ directions.T).square()
        norms = (out - center).square().sum(1)
        for index, d in enumerate(numbers):
            rest = (variances.sum() - variances[:d].sum()).clamp_min(1e-12) / (f - d)
            within, beyond = squares[:, :d] / variances[:d].clamp_min(1e-12), norms - squares[:, :d].sum(1)
            spread = variances[:d].clamp_min(1e-12).log().sum() + (f - d) * rest.log()
            total[index] -= 0.5 * (spread + within.sum(1) + beyond / rest).sum()
    return dict(zip(numbers, (total / n).tolist(), strict=True))


def choose_dims(features: Tensor, most: int = MOST_DIMS) -> int:
    """The number of directions, at most `most`, under which held-out pictures are likeliest."""
    if len(features) < LEAST_PICTURES:
        raise ValueError(
            f"Expected at least {LEAST_PICTURES} different pictures to make a taste encoder of, got {len(features)}: "
            "let Paint Studies paint more, or add a folder of pictures."
        )
    likelihoods = held_out_likelihoods(features, most)
    return max(likelihoods, key=lambda d: likelihoods[d])


def prior_of_people(
    features: Tensor, people: Sequence[Picks], dims: int, *, encoder: str, encoder_hash: str
) -> PopulationPrior:
    """Whitening in `dims` directions by pictures' features [N, f], and the population prior of real people's picks.

    Both parts of the prior start alike in all directions of the features, not of the whitened ones, since people look
    at what varies; hierarchy.py says how it is fitted.
    """
    center, everything = fit_whitening(features, ALL_DIRECTIONS)
    deviations = 1 / everything.double().norm(dim=0)  # a direction's standard deviation over pictures
    coordinates = (features.double() - center.double()) @ everything.double()
    wide = fit_hierarchy([picks.differences(coordinates) for picks in people], deviations, rounds=0)
    turn, spread = torch.eye(len(deviations), dtype=torch.float64)[:, :dims], deviations[:dims].clone()
    agreed = wide.mean[dims - 1 :]
    if len(agreed) > 1 and float(agreed.norm()) > 0:
        turn[dims - 1 :, -1] = F.normalize(agreed, dim=0)
        spread[-1] = agreed.norm() / (wide.mean / deviations).square().mean().sqrt()
    fitted = fit_hierarchy([picks.differences(coordinates @ turn) for picks in people], spread)
    basis = (everything.double() @ turn).to(features)
    return PopulationPrior(fitted.mean, fitted.covariance, center, basis, encoder, encoder_hash)


def prior_of_looks(
    center: Tensor, basis: Tensor, readings: Tensor | None, *, encoder: str, encoder_hash: str, seed: int = 0
) -> PopulationPrior:
    """The prior of simulated people in a whitening (simulated.py), by the moments of their tastes, which are known."""
    tastes = simulate(basis, readings, seed=seed).tastes
    covariance = tastes.T @ tastes / len(tastes)  # a look is liked as often as its opposite: the mean is 0
    return PopulationPrior(torch.zeros(basis.shape[1]), covariance, center, basis, encoder, encoder_hash)
