"""The posterior of a person's taste: Bayesian Bradley-Terry on differences of whitened picture features.

A person with taste theta picks the first of two pictures with probability sigmoid(theta . (phi(first) - phi(second))),
phi the whitened features (Bradley and Terry 1952), and one of several with softmax(theta . phi) (choices.py). Over
people theta ~ N(mean, covariance), the population prior, fitted by EM over training people. The user embedding is the
posterior mean by Laplace's approximation (MacKay 1992; Rasmussen and Williams 2006, 3.4): the population user with no
pairs, nearer to the person with each pair.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .choices import Choices

log = logging.getLogger(__name__)

PEOPLE_PER_BATCH = 256
MOST_STEPS = 100
NOISES = (1.0, 1.5, 2.5, 4.0)
"""Scales of a person's pick noise, against that of the population the prior was fitted on."""
NOISE_SPREAD = 0.5
"""Standard deviation over people of the logarithm of that scale, as assumed before any pick."""


def fit_posterior(
    differences: Tensor,
    outcomes: Tensor,
    mean: Tensor,
    covariance: Tensor,
    weights: Tensor | None = None,
    choices: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Posterior mean [d] and covariance [d, d] of one person's theta by Laplace's approximation.

    `differences` [n, d] are phi(chosen) - phi(rejected), `outcomes` [n] is 1 for a pick, .5 for a tie and the share of
    votes for a soft label, `weights` [n] scales log-likelihoods (fading: 2^(-age/half-life)); rows of one number in
    `choices` [n], of 0..n-1, are one choice among several (None: each is one of two); `mean`, `covariance` are the
    prior, returned itself for n = 0.
    """
    if len(differences) == 0:
        return mean.clone(), covariance.clone()
    mask = torch.ones_like(outcomes) if weights is None else weights
    told = None if choices is None else choices[None]
    means, covariances = fit_posteriors(differences[None], outcomes[None], mask[None], mean, covariance, told)
    return means[0], covariances[0]


def fit_posteriors(
    differences: Tensor,
    outcomes: Tensor,
    mask: Tensor,
    mean: Tensor,
    covariance: Tensor,
    choices: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fit_posterior` for P people at once: differences [P, n, d], outcomes, mask and choices [P, n] to means [P, d]
    and covariances [P, d, d].

    `mask` is False or 0 for padding, True or a weight for observations; mean [d], covariance [d, d] are everybody's
    prior. Computed in float64 on the CPU, returned in the prior's type on the prior's device.
    """
    x, y, w, m = checked(differences, outcomes, mask, mean)
    root = root_of(covariance)
    batches = [slice(start, start + PEOPLE_PER_BATCH) for start in range(0, len(x), PEOPLE_PER_BATCH)]
    parts = [
        laplace(x[some], y[some], w[some], m, root, None if choices is None else choices[some])[:2] for some in batches
    ]
    means, covariances = (torch.cat(part) for part in zip(*parts, strict=True))
    return means.to(mean), covariances.to(mean)


def fit_with_noise(
    differences: Tensor,
    outcomes: Tensor,
    mean: Tensor,
    covariance: Tensor,
    weights: Tensor | None = None,
    choices: Tensor | None = None,
) -> tuple[Tensor, Tensor, float]:
    """`fit_posterior` at the most probable of NOISES, and that scale: picks that contradict each other raise it, and
    each of them tells less then.

    The scale's prior is log-normal around 1 (NOISE_SPREAD), its likelihood Laplace's evidence (MacKay 1992) of the
    picks alone: a tie is no contradiction.
    """
    if len(differences) == 0:
        return mean.clone(), covariance.clone(), 1.0
    mask = torch.ones_like(outcomes) if weights is None else weights
    told = None if choices is None else choices[None]
    means, covariances, noises = fit_all_with_noise(
        differences[None], outcomes[None], mask[None], mean, covariance, told
    )
    return means[0], covariances[0], float(noises[0])


def fit_all_with_noise(
    differences: Tensor,
    outcomes: Tensor,
    mask: Tensor,
    mean: Tensor,
    covariance: Tensor,
    choices: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`fit_with_noise` for P people at once, with shapes and padding as in `fit_posteriors`; their scales are [P]."""
    x, y, w, m = checked(differences, outcomes, mask * (outcomes != 0.5), mean)
    scales, root = torch.tensor(NOISES, dtype=torch.float64), root_of(covariance)
    count = len(scales)
    evidence = []
    for start in range(0, len(x), PEOPLE_PER_BATCH // count):
        some = slice(start, start + PEOPLE_PER_BATCH // count)
        scaled = (x[some, None] / scales[:, None, None]).flatten(0, 1)
        outcome, weight = (one[some].repeat_interleave(count, 0) for one in (y, w))
        told = None if choices is None else choices[some].repeat_interleave(count, 0)
        evidence.append(laplace(scaled, outcome, weight, m, root, told)[2].unflatten(0, (-1, count)))
    best = (torch.cat(evidence) - 0.5 * (scales.log() / NOISE_SPREAD).square()).argmax(1)
    noises = scales[best]
    spread = differences / noises.to(differences)[:, None, None]
    return *fit_posteriors(spread, outcomes, mask, mean, covariance, choices), noises


def checked(differences: Tensor, outcomes: Tensor, mask: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments in float64 on the CPU, padding zeroed; ValueError where shapes or values are impossible."""
    if differences.ndim != 3 or differences.shape[-1] != mean.numel():
        raise ValueError(f"Expected differences [people, pairs, {mean.numel()}], got {list(differences.shape)}.")
    if outcomes.shape != differences.shape[:2] or mask.shape != differences.shape[:2]:
        raise ValueError(
            f"Expected an outcome and a weight per difference, {list(differences.shape[:2])}, "
            f"got {list(outcomes.shape)} and {list(mask.shape)}."
        )
    w = mask.detach().cpu().double()
    if not bool((w >= 0).all()) or not bool(w.isfinite().all()):
        raise ValueError("Expected weights that are finite and at least 0.")
    x = torch.where(w[..., None] > 0, differences.detach().cpu().double(), 0.0)
    y = torch.where(w > 0, outcomes.detach().cpu().double(), 0.5)
    if not bool(x.isfinite().all()):
        raise ValueError("The differences hold values that are not finite: check the encoder's features.")
    if not bool(((y >= 0) & (y <= 1)).all()):
        raise ValueError("Expected outcomes from 0 to 1 (1 a pick, .5 a tie).")
    return x, y, w, mean.detach().cpu().double()


def root_of(covariance: Tensor) -> Tensor:
    """L [d, d] with L L' = covariance; works for a covariance without full rank, which has no inverse."""
    values, vectors = torch.linalg.eigh(covariance.detach().cpu().double())
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"Expected a covariance without negative variances, got one of {float(values[0]):.3g}.")
    return vectors * values.clamp_min(0).sqrt()


def laplace(
    x: Tensor, y: Tensor, w: Tensor, mean: Tensor, root: Tensor, choices: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method for all people together, in coordinates theta = mean + root @ a with prior a ~ N(0, I).

    x [P, n, d], y, w and choices [P, n] to the mode [P, d], its covariance [P, d, d] and the log-evidence [P]. There
    the Hessian I + R' R has no eigenvalue below 1, whatever the prior.
    """
    said = Choices(y, w, choices)
    design, offset = x @ root, x @ mean
    identity = torch.eye(root.shape[1], dtype=x.dtype)
    a = torch.zeros(x.shape[0], root.shape[1], dtype=x.dtype)

    def objective(at: Tensor) -> tuple[Tensor, Tensor]:
        z = offset + torch.einsum("pnd,pd->pn", design, at)
        return said.loss(z) + 0.5 * at.square().sum(-1), z

    def hessian_factor(z: Tensor) -> Tensor:
        r = said.root(z, design)
        return torch.linalg.cholesky(identity + r.mT @ r)

    value, z = objective(a)
    for _ in range(MOST_STEPS):
        gradient = a + torch.einsum("pnd,pn->pd", design, said.slope(z))
        step = torch.cholesky_solve(gradient[..., None], hessian_factor(z)).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        length = torch.ones_like(value)
        for _ in range(40):
            trial_a = a - length[:, None] * step
            trial, trial_z = objective(trial_a)
            too_far = trial > value - 1e-4 * length * decrement + 1e-12 * (1 + value.abs())
            if not bool(too_far.any()):
                break
            length = torch.where(too_far, length / 2, length)
        a, value, z = trial_a, trial, trial_z
        if bool((decrement < 1e-12).all()):
            break
    else:
        log.warning("%d posteriors did not settle in %d Newton steps.", int((decrement >= 1e-12).sum()), MOST_STEPS)
    factor = hessian_factor(z)
    half = torch.linalg.solve_triangular(factor, root.T.expand_as(factor), upper=False)
    evidence = -value - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return mean + a @ root.T, half.mT @ half, evidence
