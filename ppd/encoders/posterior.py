"""The posterior encoder: preference pairs to user embedding, as Bayesian Bradley-Terry on picture features.

A person with taste theta picks the first of two pictures with probability sigmoid(theta . (phi(first) - phi(second))),
phi the whitened features (Bradley and Terry 1952). Over people theta ~ N(mean, covariance), the population prior,
fitted by EM over training people. The user embedding is the posterior mean by Laplace's approximation (MacKay 1992;
Rasmussen and Williams 2006, 3.4): the population user with no pairs, nearer to the person with each pair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import read_tensors, write_tensors
from ..pairs import PreferencePair
from ..pictures import PreferenceError
from ..user_embedding import UserEmbedding, covariance_factor
from .clip import ClipFeatures

log = logging.getLogger(__name__)

FORMAT = "ppd-population-prior"
VERSION = "1"
PEOPLE_PER_BATCH = 256
MOST_STEPS = 100
PRIOR_SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NOISES = (1.0, 1.5, 2.5, 4.0)
"""Scales of a person's pick noise, against that of the population the prior was fitted on."""
NOISE_SPREAD = 0.5
"""Standard deviation over people of the logarithm of that scale, as assumed before any pick."""


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
        if not self.noise > 0:
            raise ValueError(f"Expected a pick noise above 0, got {self.noise}.")

    @property
    def dim(self) -> int:
        """d, the width of the user embedding."""
        return self.mean.numel()

    def whiten(self, features: Tensor) -> Tensor:
        """phi: features [..., f] to [..., d]."""
        return (features - self.center.to(features)) @ self.basis.to(features)

    def differences(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """What one pick tells: (phi(chosen) - phi(rejected)) / noise, features [..., f] to [..., d]."""
        return (chosen - rejected) @ self.basis.to(chosen) / self.noise

    def save(self, path: Path | str) -> None:
        """Write the prior as safetensors (format "ppd-population-prior", version "1")."""
        tensors = {name: getattr(self, name) for name in ("mean", "covariance", "center", "basis")}
        metadata = {"encoder": self.encoder, "encoder_hash": self.encoder_hash, "noise": repr(self.noise)}
        write_tensors(Path(path), FORMAT, VERSION, tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> PopulationPrior:
        """Read a prior; a file that is none raises ValueError saying so."""
        path = Path(path)
        names = ("mean", "covariance", "center", "basis")
        tensors, metadata = read_tensors(
            path, FORMAT, VERSION, names, ("encoder", "encoder_hash", "noise"), "population prior"
        )
        try:
            noise = float(metadata["noise"])
        except ValueError:
            raise ValueError(f"{path.name}: expected a number as noise, got {metadata['noise']!r}.") from None
        try:
            chosen = {name: tensors[name] for name in names}
            return cls(**chosen, encoder=metadata["encoder"], encoder_hash=metadata["encoder_hash"], noise=noise)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def fit_posterior(
    differences: Tensor, outcomes: Tensor, mean: Tensor, covariance: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Posterior mean [d] and covariance [d, d] of one person's theta by Laplace's approximation.

    `differences` [n, d] are phi(chosen) - phi(rejected), `outcomes` [n] is 1 for a pick and .5 for a tie, `weights` [n]
    scales log-likelihoods (fading: 2^(-age/half-life)); `mean`, `covariance` are the prior, returned itself for n = 0.
    """
    if len(differences) == 0:
        return mean.clone(), covariance.clone()
    mask = torch.ones_like(outcomes) if weights is None else weights
    means, covariances = fit_posteriors(differences[None], outcomes[None], mask[None], mean, covariance)
    return means[0], covariances[0]


def fit_posteriors(
    differences: Tensor, outcomes: Tensor, mask: Tensor, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """`fit_posterior` for P people at once: differences [P, n, d], outcomes and mask [P, n] to means [P, d] and
    covariances [P, d, d].

    `mask` is False or 0 for padding, True or a weight for observations; mean [d], covariance [d, d] are everybody's
    prior. Computed in float64 on the CPU, returned in the prior's type on the prior's device.
    """
    x, y, w, m = _checked(differences, outcomes, mask, mean)
    root = _root(covariance)
    parts = [
        _laplace(*part, m, root)[:2]
        for part in zip(x.split(PEOPLE_PER_BATCH), y.split(PEOPLE_PER_BATCH), w.split(PEOPLE_PER_BATCH), strict=True)
    ]
    means, covariances = (torch.cat(part) for part in zip(*parts, strict=True))
    return means.to(mean), covariances.to(mean)


def fit_with_noise(
    differences: Tensor, outcomes: Tensor, mean: Tensor, covariance: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """`fit_posterior` at the most probable of NOISES, and that scale: picks that contradict each other raise it, and
    each of them tells less then.

    The scale's prior is log-normal around 1 (NOISE_SPREAD), its likelihood Laplace's evidence (MacKay 1992) of the
    picks alone: a tie is no contradiction.
    """
    if len(differences) == 0:
        return mean.clone(), covariance.clone(), 1.0
    scales = torch.tensor(NOISES, dtype=torch.float64)
    shape = (len(scales), len(outcomes))
    decided = (outcomes != 0.5) * (1.0 if weights is None else weights)
    x, y, w, m = _checked(
        differences.expand(len(scales), -1, -1), outcomes.expand(shape), decided.double().expand(shape), mean
    )
    evidence = _laplace(x / scales[:, None, None], y, w, m, _root(covariance))[2]
    noise = NOISES[int((evidence - 0.5 * (scales.log() / NOISE_SPREAD).square()).argmax())]
    return *fit_posterior(differences / noise, outcomes, mean, covariance, weights), noise


def fit_population(people: Sequence[tuple[Tensor, Tensor]], rounds: int = 50) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] of theta over people, by EM with Laplace's approximation as its E-step.

    `people` holds each person's (differences [n, d], outcomes [n]), any n. The start is the mean of 0 and the isotropic
    covariance of largest approximate evidence. EM is slow where each person tells little: on 1,000 simulated people,
    16 pairs each in 48 dimensions, 8 rounds gave away 5 to 7 points of accuracy against 40. Returned in float64.
    """
    if not people:
        raise ValueError("Expected at least one person to fit a population prior, got none.")
    d = people[0][0].shape[-1]
    batches = [_pad(part, d) for part in _by_size(people)]
    mean = torch.zeros(d, dtype=torch.float64)
    identity = torch.eye(d, dtype=torch.float64)
    evidence = {
        scale: sum(float(_laplace(*batch, mean, identity * scale**0.5)[2].sum()) for batch in batches)
        for scale in PRIOR_SCALES
    }
    covariance = identity * max(evidence, key=lambda scale: evidence[scale])
    for _ in range(rounds):
        root = _root(covariance)
        fits = [_laplace(*batch, mean, root) for batch in batches]
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


class PosteriorEncoder:
    """Preference pairs to user embedding: `features` reads the pictures, `prior` says what people are like."""

    def __init__(self, features: ClipFeatures, prior: PopulationPrior) -> None:
        if prior.encoder_hash != features.weight_hash:
            raise ValueError(
                f"The population prior was fitted on features of {prior.encoder} ({prior.encoder_hash[:12]}), got "
                f"{features.name} ({features.weight_hash[:12]}): use that encoder, or fit a prior for this one."
            )
        self.features = features
        self.prior = prior

    @property
    def name(self) -> str:
        """The encoder's name, as user embeddings and adapters carry it."""
        return self.features.name

    @cached_property
    def weight_hash(self) -> str:
        """sha256 of what gives u's coordinates their meaning: the features' weights and the whitening basis.

        The prior's mean and covariance are left out: refitting them moves people within the same space.
        """
        basis = self.prior.basis.contiguous().numpy().tobytes()
        return sha256(self.features.weight_hash.encode() + basis + repr(self.prior.noise).encode()).hexdigest()

    def encode(
        self,
        pairs: Sequence[PreferencePair],
        *,
        on_bad: str = "raise",
        skipped: list[PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UserEmbedding:
        """The user embedding [1, d] behind `pairs`, covariance kept; with no pairs the population user.

        A picture that cannot be read raises PreferenceError naming its pair, or with `on_bad="skip"` is logged, put in
        `skipped`, and its pair left out. `progress(pictures done, of)` may raise to cancel.
        """
        read = self.features.pair_features(pairs, on_bad=on_bad, skipped=skipped, progress=progress)
        return self.encode_differences(self.prior.differences(read.chosen, read.rejected), read.outcomes, read.weights)

    def encode_differences(
        self, differences: Tensor, outcomes: Tensor | None = None, weights: Tensor | None = None
    ) -> UserEmbedding:
        """The user embedding behind differences [n, d] as `prior.differences` makes them; outcomes default to picks."""
        outcomes = torch.ones(len(differences)) if outcomes is None else outcomes
        mean, covariance, noise = fit_with_noise(
            differences, outcomes, self.prior.mean.double(), self.prior.covariance.double(), weights
        )
        return UserEmbedding(
            u=mean[None].float(),
            encoder=self.name,
            encoder_hash=self.weight_hash,
            pairs=len(differences),
            created=date.today().isoformat(),
            covariance_factor=covariance_factor(covariance).float(),
            noise=noise,
        )


def _checked(
    differences: Tensor, outcomes: Tensor, mask: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def _root(covariance: Tensor) -> Tensor:
    """L [d, d] with L L' = covariance; works for a covariance without full rank, which has no inverse."""
    values, vectors = torch.linalg.eigh(covariance.detach().cpu().double())
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"Expected a covariance without negative variances, got one of {float(values[0]):.3g}.")
    return vectors * values.clamp_min(0).sqrt()


def _laplace(x: Tensor, y: Tensor, w: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method for all people together, in coordinates theta = mean + root @ a with prior a ~ N(0, I).

    x [P, n, d], y and w [P, n] to the mode [P, d], its covariance [P, d, d] and the log-evidence [P]. There the Hessian
    I + A' W A has no eigenvalue below 1, whatever the prior.
    """
    design, offset = x @ root, x @ mean
    identity = torch.eye(root.shape[1], dtype=x.dtype)
    a = torch.zeros(x.shape[0], root.shape[1], dtype=x.dtype)

    def objective(at: Tensor) -> tuple[Tensor, Tensor]:
        z = offset + torch.einsum("pnd,pd->pn", design, at)
        return (w * (F.softplus(z) - y * z)).sum(-1) + 0.5 * at.square().sum(-1), z

    def hessian_factor(p: Tensor) -> Tensor:
        return torch.linalg.cholesky(identity + design.mT @ (design * (w * p * (1 - p))[..., None]))

    value, z = objective(a)
    for _ in range(MOST_STEPS):
        p = torch.sigmoid(z)
        gradient = a + torch.einsum("pnd,pn->pd", design, w * (p - y))
        step = torch.cholesky_solve(gradient[..., None], hessian_factor(p)).squeeze(-1)
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
    p = torch.sigmoid(z)
    factor = hessian_factor(p)
    half = torch.linalg.solve_triangular(factor, root.T.expand_as(factor), upper=False)
    evidence = -value - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return mean + a @ root.T, half.mT @ half, evidence


def _by_size(people: Sequence[tuple[Tensor, Tensor]]) -> list[list[tuple[Tensor, Tensor]]]:
    """People in batches of similar numbers of pairs, so that one with many pairs does not pad the others."""
    ordered = sorted(people, key=lambda person: len(person[0]))
    return [ordered[start : start + PEOPLE_PER_BATCH] for start in range(0, len(ordered), PEOPLE_PER_BATCH)]


def _pad(people: Sequence[tuple[Tensor, Tensor]], d: int) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(differences) for differences, _ in people)
    x = torch.zeros(len(people), longest, d, dtype=torch.float64)
    y = torch.full((len(people), longest), 0.5, dtype=torch.float64)
    w = torch.zeros(len(people), longest, dtype=torch.float64)
    for index, (differences, outcomes) in enumerate(people):
        n = len(differences)
        if differences.shape != (n, d) or outcomes.shape != (n,):
            raise ValueError(
                f"Expected differences [n, {d}] and outcomes [n] of each person, got {list(differences.shape)} and "
                f"{list(outcomes.shape)}."
            )
        x[index, :n], y[index, :n], w[index, :n] = differences, outcomes, 1.0
    checked = _checked(x, y, w, torch.zeros(d))
    return checked[0], checked[1], checked[2]
