"""EM for the population prior, when its people are in several studios: what each studio sends is a sum over its people.

The E-step (population.fit_population) looks at one person at a time and the M-step needs of them only the sums of
posterior means and of second moments, and how many they are: sufficient statistics. So the server that adds up what
studios send gets the prior of everybody pooled, to the last bits of float64 and without an approximation.

In the coordinates theta = mean + root @ a of the prior at hand, root root' = covariance, a person is one row

    [ E a,  E aa' - I,  1 ]        of width d + d (d + 1) / 2 + 1

by Laplace's approximation. A row is 0 but for its last entry where a person tells nothing. Off the diagonal, symmetric
entries are sent once, times sqrt 2, so that a row is as long as its moments are in Frobenius' norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..encoders.population import PRIOR_SCALES, Said, by_size, pad_people
from ..encoders.posterior import laplace, root_of

Prior = tuple[Tensor, Tensor]
"""Mean [d] and covariance [d, d] of theta over people, in float64."""
ROUNDS = 50


def width(d: int) -> int:
    """How many numbers a row has."""
    return d + d * (d + 1) // 2 + 1


def rows(people: Sequence[Said], prior: Prior) -> Tensor:
    """People's rows [P, width], in any order; ValueError where somebody's picks are no picks of this prior."""
    mean, root = prior[0], root_of(prior[1])
    identity, upper = torch.eye(len(mean), dtype=torch.float64), _upper(len(mean))
    back, parts = torch.linalg.pinv(root), []
    for some in by_size(people):
        theta, covariance, _ = _fit(some, mean, root)
        a = (theta - mean) @ back.T
        moments = back @ covariance @ back.T + a[:, :, None] * a[:, None, :] - identity
        entries = moments[:, upper[0], upper[1]] * _lengths(upper)
        parts.append(torch.cat([a, entries, torch.ones(len(some), 1, dtype=torch.float64)], 1))
    return torch.cat(parts)


def updated(total: Tensor, prior: Prior) -> Prior:
    """The M-step: the prior of the people whose rows add up to `total` [width], each read by `prior`."""
    mean, root = prior[0], root_of(prior[1])
    a, moments = averages(total, len(mean))
    covariance = moments + torch.eye(len(mean), dtype=torch.float64) - torch.outer(a, a)
    return mean + root @ a, root @ covariance @ root.T


def averages(total: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """The means over people of E a [d] and E aa' - I [d, d]."""
    if total.shape != (width(d),):
        raise ValueError(f"Expected sums of {width(d)} numbers for {d} dimensions, got {list(total.shape)}.")
    a, entries, count = total.split([d, width(d) - d - 1, 1])
    moments, upper = torch.zeros(d, d, dtype=torch.float64), _upper(d)
    moments[upper[0], upper[1]] = moments[upper[1], upper[0]] = entries / _lengths(upper)
    return a / count, moments / count


def evidence(people: Sequence[Said]) -> Tensor:
    """The sum over people of the log-evidence of each of PRIOR_SCALES as an isotropic prior, over that of guessing."""
    d = people[0][0].shape[-1]
    zero, identity = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    guessed = -math.log(2) * sum(len(outcomes) for _, outcomes, *_ in people)
    found = [
        sum(float(_fit(some, zero, identity * scale**0.5)[2].sum()) for some in by_size(people))
        for scale in PRIOR_SCALES
    ]
    return torch.tensor(found, dtype=torch.float64) - guessed


def start(total: Tensor, d: int) -> Prior:
    """Where EM starts: a mean of 0, and the isotropic covariance of largest evidence `total` [8] over everybody."""
    scale = PRIOR_SCALES[int(total.argmax())]
    return torch.zeros(d, dtype=torch.float64), scale * torch.eye(d, dtype=torch.float64)


def added(answers: Sequence[Tensor]) -> Tensor:
    """The sum of what studios sent, in their order; ValueError where one sent what cannot be a sum over people.

    A studio that sent nothing is left out by the caller: EM then fits the people of the others.
    """
    if not answers:
        raise ValueError("Expected at least one studio to answer, got none.")
    for number, answer in enumerate(answers, 1):
        if answer.shape != answers[0].shape or not bool(answer.isfinite().all()):
            raise ValueError(
                f"What studio {number} of {len(answers)} sent is no sum over people: expected "
                f"{answers[0].numel()} finite numbers. Let it check its pairs and taste encoder, or go on without it."
            )
    return torch.stack(list(answers)).sum(0)


def fit_federated(studios: Sequence[Sequence[Said]], rounds: int = ROUNDS) -> Prior:
    """The prior of all studios' people: population.fit_population of them pooled, by sums alone."""
    d = studios[0][0][0].shape[-1]
    prior = start(added([evidence(people) for people in studios]), d)
    for _ in range(rounds):
        prior = updated(added([rows(people, prior).sum(0) for people in studios]), prior)
    return prior


def _fit(people: Sequence[Said], mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, w, choices = pad_people(people)
    return laplace(x, y, w, mean, root, choices)


def _upper(d: int) -> Tensor:
    return torch.triu_indices(d, d)


def _lengths(upper: Tensor) -> Tensor:
    """Of one entry of a symmetric matrix in Frobenius' norm: it is there twice off the diagonal."""
    return torch.where(upper[0] == upper[1], 1.0, math.sqrt(2)).double()
