"""What is known of a person before any pick: whitened coordinates, and the population prior in them, fitted by EM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .posterior import PEOPLE_PER_BATCH, checked, laplace, root_of

Said = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""What somebody picked: differences [n, d], outcomes [n] and, where there are choices among several, their numbers [n]
(`choices.numbered`)."""
LONGEST = 100.0
"""How many times as long as the average person's a taste may be."""
PRIOR_SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, eq=False)
class PopulationPrior:
    """What is known of a person before any pick, and the coordinates it is known in.

    `mean` [d], `covariance` [d, d] of theta over people · whitening phi(x) = (x - center) @ basis with `center` [f],
    `basis` [f, d] · `encoder`, `encoder_hash` name and weight hash of the features x · `noise` scale of pick noise, by
    which differences are divided: a larger one makes every pick tell less.
    """

    mean: Tensor
    covariance: Tensor
    center: Tensor
    basis: Tensor
    encoder: str
    encoder_hash: str
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "covariance", "center", "basis"):
            tensor = getattr(self, name).detach().cpu().to(torch.float32)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"The population prior's {name} holds values that are not finite: fit it again.")
            object.__setattr__(self, name, tensor)
        shapes = [tuple(getattr(self, name).shape) for name in ("mean", "covariance", "center", "basis")]
        d, f = self.mean.numel(), self.center.numel()
        if shapes != [(d,), (d, d), (f,), (f, d)]:
            raise ValueError(f"Expected mean [d], covariance [d, d], center [f], basis [f, d], got {shapes}.")
        if not d:
            raise ValueError("Expected at least one dimension of taste, got none.")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"Expected a pick noise above 0, got {self.noise}.")
        root_of(self.covariance)

    @property
    def dim(self) -> int:
        """d, the width of the user embedding."""
        return self.mean.numel()

    def check_embedding(self, u: Tensor) -> None:
        """Raise ValueError unless u [N, d] can be the taste of one of these people: one vector of no absurd length."""
        longest = LONGEST * float((self.mean.double().square().sum() + self.covariance.double().trace()).sqrt())
        if u.shape != (1, self.dim) or u.norm() > longest:
            raise ValueError(
                f"The taste encoder {self.encoder} makes tastes of shape {[1, self.dim]} and of a length of at most "
                f"{longest:.0f}, got {list(u.shape)} and {u.norm():.3g}: ask for it again, or encode the pairs again."
            )

    def whiten(self, features: Tensor) -> Tensor:
        """phi: features [..., f] to [..., d]."""
        return (features - self.center.to(features)) @ self.basis.to(features)

    def differences(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """What one pick tells: (phi(chosen) - phi(rejected)) / noise, features [..., f] to [..., d]."""
        return (chosen - rejected) @ self.basis.to(chosen) / self.noise


def fit_population(people: Sequence[Said], rounds: int = 50) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] of theta over people, by EM with Laplace's approximation as its E-step.

    `people` hold any number of pairs. The start is the mean of 0 and the isotropic
    covariance of largest approximate evidence. EM is slow where each person tells little: on 1,000 simulated people,
    16 pairs each in 48 dimensions, 8 rounds gave away 5 to 7 points of accuracy against 40. Returned in float64.
    """
    if not people:
        raise ValueError("Expected at least one person to fit a population prior, got none.")
    d = people[0][0].shape[-1]
    batches = [pad_people(part) for part in by_size(people)]
    mean = torch.zeros(d, dtype=torch.float64)
    identity = torch.eye(d, dtype=torch.float64)

    def fit(root: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [laplace(x, y, w, mean, root, choices) for x, y, w, choices in batches]

    evidence = {scale: sum(float(e.sum()) for *_, e in fit(identity * scale**0.5)) for scale in PRIOR_SCALES}
    covariance = identity * max(evidence, key=lambda scale: evidence[scale])
    for _ in range(rounds):
        fits = fit(root_of(covariance))
        means = torch.cat([fit[0] for fit in fits])
        mean = means.mean(0)
        covariance = sum((fit[1].sum(0) for fit in fits), torch.zeros_like(identity)) / len(people)
        covariance = covariance + (means - mean).T @ (means - mean) / len(people)
    return mean, covariance


def fit_whitening(features: Tensor, dims: int = 48) -> tuple[Tensor, Tensor]:
    """`center` [f] and `basis` [f, d] so that (features - center) @ basis has unit variances and no correlation.

    PCA of features [n, f] cut to its d <= `dims` strongest directions; directions without variance are left out. The
    sign of each is fixed by its largest entry, so that one set of features always gives one basis.
    """
    x = features.double()
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Expected features of shape [n, f] with n of at least 2, got {list(features.shape)}.")
    center = x.mean(0)
    values, vectors = torch.linalg.eigh((x - center).T @ (x - center) / (len(x) - 1))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    kept = values > 1e-9 * values[0]
    if not bool(kept.any()):
        raise ValueError("The features are all alike: give features of different pictures to whiten by.")
    basis = vectors[:, kept] / values[kept].sqrt()
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return center.to(features), (basis * largest.sign()).to(features)


def by_size(people: Sequence[Said]) -> list[list[Said]]:
    """People in batches of similar numbers of pairs, so that one with many pairs does not pad the others."""
    ordered = sorted(people, key=lambda person: len(person[0]))
    return [ordered[start : start + PEOPLE_PER_BATCH] for start in range(0, len(ordered), PEOPLE_PER_BATCH)]


def pad_people(people: Sequence[Said]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What people picked as differences [P, n, d], outcomes, weights and numbers of choices [P, n], checked."""
    d = people[0][0].shape[-1]
    longest = max(len(differences) for differences, *_ in people)
    x = torch.zeros(len(people), longest, d, dtype=torch.float64)
    y = torch.full((len(people), longest), 0.5, dtype=torch.float64)
    w = torch.zeros(len(people), longest, dtype=torch.float64)
    choices = torch.arange(longest).repeat(len(people), 1)
    for index, (differences, outcomes, *numbers) in enumerate(people):
        n = len(differences)
        if differences.shape != (n, d) or outcomes.shape != (n,):
            raise ValueError(
                f"Expected differences [n, {d}] and outcomes [n] of each person, got {list(differences.shape)} and "
                f"{list(outcomes.shape)}."
            )
        x[index, :n], y[index, :n], w[index, :n] = differences, outcomes, 1.0
        if numbers:
            choices[index, :n] = numbers[0]
    x, y, w, _ = checked(x, y, w, torch.zeros(d))
    return x, y, w, choices
