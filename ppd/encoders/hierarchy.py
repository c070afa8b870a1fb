"""A population prior from few people: EM for a hierarchical Bradley-Terry model, shrunk towards what picks can show.

Person p's taste is theta_p = mean + deviation_p. EM with a free covariance needs hundreds of people: from 80 people
with 30 picks each it finds differences that are noise, and then a person's own picks make the reading worse. So mean
and deviations first get one scale each, mean ~ N(0, shared^2 S) and deviation_p ~ N(0, own^2 S) with S diagonal, by the
largest evidence (empirical Bayes: MacKay 1992), and EM then moves the covariance of the deviations from there, held by
as many imagined people as there are directions (the inverse Wishart prior). The mean is integrated out with everybody
in one Laplace approximation, and what it is not sure of goes into the covariance of somebody new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .choices import Choices
from .population import Said, pad_people
from .posterior import root_of

MOST_STEPS = 30
EM_ROUNDS = 20
STEPS = ((1.0, 1.0), (1.5, 1.0), (1 / 1.5, 1.0), (1.0, 1.5), (1.0, 1 / 1.5))
START = (1.0, 0.4)
"""Where the search for `shared` and `own` starts, in logits of a typical pair."""
LEAST = 0.05
"""The same: smaller scales change nothing that picks can show."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """`mean` [d] and `covariance` [d, d] of the taste of somebody new, and the log-`evidence` of everybody's picks."""

    mean: Tensor
    covariance: Tensor
    evidence: float


def fit_hierarchy(people: Sequence[Said], spread: Tensor | None = None, *, rounds: int = EM_ROUNDS) -> Hierarchy:
    """The prior for somebody new from people with any number of pairs, in float64.

    `spread` [d] is S^1/2 up to scale (left out: all directions alike), `rounds` those of EM.
    """
    if not people:
        raise ValueError("Expected at least one person to fit a population prior, got none.")
    x, y, w, choices = pad_people(people)
    said = Choices(y, w, choices)
    spread = torch.ones(x.shape[-1], dtype=torch.float64) if spread is None else spread.double()
    typical = float((x * spread).square().sum(-1)[w > 0].mean().sqrt())
    if not typical > 0:
        raise ValueError("The people's pictures do not differ in these features: give other pairs, or another tower.")
    unit = torch.diag(spread / typical)
    known: dict[tuple[float, float], _Fit] = {}

    def fit(scales: tuple[float, float]) -> _Fit:
        if scales not in known:
            known[scales] = _laplace(x, said, scales[0] * unit, scales[1] * unit)
        return known[scales]

    best = START
    while True:  # up the one hill of the evidence, along one scale at a time
        near = [(best[0] * a, best[1] * b) for a, b in STEPS]
        found = max((scales for scales in near if min(scales) > LEAST), key=lambda scales: fit(scales).evidence)
        if found == best:
            break
        best = found
    shared, target = best[0] * unit, (best[1] * unit).square()
    fitted, covariance, imagined = fit(best), target, len(target)
    for _ in range(rounds):
        covariance = (fitted.moments + imagined * target) / (len(people) + imagined)
        fitted = _laplace(x, said, shared, root_of(covariance))
    return Hierarchy(fitted.mean, fitted.unsure + covariance, fitted.evidence)


@dataclass(frozen=True, eq=False)
class _Fit:
    """The mean's mode [d] and covariance `unsure` [d, d], `moments` [d, d] the sum over people of deviations' second
    moments, and the log-evidence."""

    mean: Tensor
    unsure: Tensor
    moments: Tensor
    evidence: float


def _laplace(x: Tensor, said: Choices, shared: Tensor, own: Tensor) -> _Fit:
    """Newton's method for the mean and everybody's deviation together; `shared` and `own` [d, d] are roots of their
    covariances.

    In coordinates of unit variance the Hessian is an arrow: a block for each person and a border for the mean, whose
    Schur complement is [d, d].
    """
    common, single = x @ shared, x @ own
    identity = torch.eye(x.shape[-1], dtype=torch.float64)
    mean, persons = torch.zeros(len(identity), dtype=torch.float64), x.new_zeros(len(x), len(identity))

    def objective(at: Tensor, each: Tensor) -> tuple[float, Tensor]:
        z = common @ at + torch.einsum("pnd,pd->pn", single, each)
        return float(said.loss(z).sum() + 0.5 * (at.square().sum() + each.square().sum())), z

    def curvature(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outer, inner = said.root(z, common), said.root(z, single)
        blocks = torch.linalg.cholesky(identity + inner.mT @ inner)
        border = inner.mT @ outer
        reached = torch.cholesky_solve(border, blocks)
        schur = identity + (outer.mT @ outer).sum(0) - (border.mT @ reached).sum(0)
        return blocks, reached, torch.linalg.cholesky(schur)

    value, z = objective(mean, persons)
    for _ in range(MOST_STEPS):
        blocks, reached, schur = curvature(z)
        error = said.slope(z)
        slope = mean + torch.einsum("pnd,pn->d", common, error)
        slopes = persons + torch.einsum("pnd,pn->pd", single, error)
        rest = (slope - torch.einsum("pde,pd->e", reached, slopes))[:, None]
        step = torch.cholesky_solve(rest, schur).squeeze(1)
        steps = torch.cholesky_solve(slopes[..., None], blocks).squeeze(-1) - reached @ step
        decrement, length = float((slope * step).sum() + (slopes * steps).sum()), 1.0
        trial, at = objective(mean - step, persons - steps)
        while trial > value - 1e-4 * length * decrement + 1e-9 * (1 + abs(value)) and length > 1e-6:
            length /= 2
            trial, at = objective(mean - length * step, persons - length * steps)
        mean, persons, value, z = mean - length * step, persons - length * steps, trial, at
        if decrement < 1e-9:
            break
    blocks, reached, schur = curvature(z)
    inverse = torch.cholesky_inverse(schur)
    second = torch.cholesky_inverse(blocks).sum(0) + (reached @ inverse @ reached.mT).sum(0) + persons.T @ persons
    determinants = blocks.diagonal(dim1=-2, dim2=-1).log().sum() + schur.diagonal().log().sum()
    return _Fit(shared @ mean, shared @ inverse @ shared.T, own @ second @ own.T, -value - float(determinants))
