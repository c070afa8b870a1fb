"""Which of somebody's picks say so: u as a sum over picks, without one of them, and with one answered otherwise.

At the mode of the posterior (posterior.py) the gradient is zero, so that u = mean + Cov sum_i alpha_i x_i, with Cov the
prior's covariance, x_i the difference of a pick's two pictures and alpha_i = w_i (y_i - sigmoid(u . x_i)) its dual
coefficient (Rasmussen and Williams 2006, 3.4; representer points: Yeh et al., arXiv 1811.09720): how little the rest of
the picks expects it. The sum is exact; what becomes of u without a pick takes another fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoders.choices import Choices
from ..encoders.encoder import Told
from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..encoders.posterior import fit_with_noise

TOLD_APART = 0.05
"""What looks have in common is shared out among them where less than this share of the strongest tells them apart."""


def fit(prior: PopulationPrior, told: Told) -> tuple[Tensor, Tensor, float]:
    """u [d], its covariance [d, d] and the pick noise, as `PosteriorEncoder.encode_differences` finds them, in
    float64."""
    mean, covariance = prior.mean.double(), prior.covariance.double()
    return fit_with_noise(told.differences.double(), told.outcomes, mean, covariance, told.weights, told.choices)


def answers_of(told: Told) -> Tensor:
    """The number 0, 1 ... of each row's answer [n]: the rows of one choice are one answer."""
    return told.choices.unique(return_inverse=True)[1]


def some(told: Told, rows: Tensor) -> Told:
    """What some rows [n] (bool) say by themselves."""
    kept = Told(*(part[rows] for part in told))
    return kept._replace(choices=answers_of(kept))


@dataclass(frozen=True, eq=False)
class Parts:
    """What u is made of: `u` [d] is the population's mean plus the sum of `parts` [a, d], one of each answer, which are
    `pulls` [a, d], sum of alpha_i x_i over its rows, times the prior's covariance; `covariance` [d, d] that of u,
    `noise` the scale of the picks'."""

    u: Tensor
    covariance: Tensor
    noise: float
    pulls: Tensor
    parts: Tensor


def parts_of(prior: PopulationPrior, told: Told) -> Parts:
    """What each answer adds to u; the answers in the order of `told`."""
    u, covariance, noise = fit(prior, told)
    answers, x = answers_of(told), told.differences.double() / noise
    said = Choices(told.outcomes.double()[None], told.weights.double()[None], told.choices[None])
    duals = -said.slope((x @ u)[None])[0]
    pulls = torch.zeros(int(answers.max()) + 1 if len(x) else 0, prior.dim, dtype=torch.float64)
    pulls.index_add_(0, answers, duals[:, None] * x)
    return Parts(u, covariance, noise, pulls, pulls @ prior.covariance.double())


def leans(looks: Looks, noise: float) -> Tensor:
    """L [k, d] so that L @ u says how much somebody likes each look: the log-odds of a pick for one step from low to
    high, the other looks alike. `noise` is the prior's.

    u is put together from the looks' readings R, u / noise = R' (L u) and a rest that no look tells (least squares), so
    that L moves by one look alone where u moves along that look's reading (turning.py).
    """
    return torch.linalg.pinv(looks.readings.double().T, rtol=TOLD_APART) / noise


def without(prior: PopulationPrior, told: Told, answers: Sequence[int]) -> Tensor:
    """u [m, d] as it would be had one of the answers not been given, for each of m: an exact fit each."""
    number = answers_of(told)
    found = [fit(prior, some(told, number != one))[0] for one in answers]
    return torch.stack(found) if found else torch.empty(0, prior.dim, dtype=torch.float64)


def otherwise(told: Told, row: int) -> Told:
    """What would have been said had the rejected picture of a row been chosen: of two pictures the other one; of
    several this one, which then wins against all of them.

    A tie is refused, for which picture should have won is not known.
    """
    if float(told.outcomes[row]) == 0.5:
        raise ValueError("Nothing was preferred in this answer, so there is no other way round: choose another.")
    own = told.differences[row]
    same = (told.choices == told.choices[row])[:, None]
    turned = torch.where(same, told.differences - own, told.differences)
    turned[row] = -own
    return told._replace(differences=turned)


def decided_otherwise(u: Tensor, other: Tensor) -> float:
    """The share 0..1 of pairs of pictures of which two tastes [d] choose differently: their angle over pi, where the
    features are normal, for they are white (Goemans and Williamson 1995). 0.5 where one of them is nobody's."""
    if not bool(u.any()) or not bool(other.any()):
        return 0.0 if torch.equal(u, other) else 0.5
    cosine = torch.nn.functional.cosine_similarity(u.double(), other.double(), dim=0)
    return float(cosine.clamp(-1, 1).acos() / torch.pi)
