"""Pictures sorted by a taste: works for whatever painted them, since it only looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoders.population import PopulationPrior
from .user_embedding import UserEmbedding


@dataclass(frozen=True, eq=False)
class Ranking:
    """n pictures, best first.

    `order` [n] which picture stands where · `scores` [n] the log-odds with which the person would pick each over the
    taste encoder's mean picture · `spread` [n - 1] posterior standard deviation of each score's difference to the next,
    `preferred` [n - 1] the probability that each would be picked over the next; both None where the user embedding
    does not know how sure it is.
    """

    order: list[int]
    scores: Tensor
    spread: Tensor | None
    preferred: Tensor | None


def rank(features: Tensor, embedding: UserEmbedding, prior: PopulationPrior) -> Ranking:
    """Sort pictures by their tower's features [n, f]; `prior` is the taste encoder's, whose u `embedding` holds.

    Of equals the first comes first. A probability is the logistic's mean over the posterior, by the probit
    approximation sigmoid(m / sqrt(1 + pi v / 8)) of MacKay (1992).
    """
    phi = prior.whiten(features.double()) / (prior.noise * embedding.noise)
    scores = phi @ embedding.u[0].to(phi)
    scores, order = scores.sort(descending=True, stable=True)
    if embedding.covariance_factor is None:
        return Ranking(order.tolist(), scores, None, None)
    apart = phi[order[:-1]] - phi[order[1:]]
    spread = (apart @ embedding.covariance_factor.to(phi)).norm(dim=1)
    corrected = (scores[:-1] - scores[1:]) / (1 + math.pi / 8 * spread.square()).sqrt()
    return Ranking(order.tolist(), scores, spread, torch.sigmoid(corrected))
