"""The objective of user adapters: user-conditioned Diffusion-DPO (PPD, arXiv 2501.06655), and what was added to it.

The reference is the denoiser itself with the branch off. Each addition is a switch; docs/benchmarks.md has what each of
them does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..hosts.denoiser import Denoiser, PersonalHost, Texts
from .dpo import PairErrors, diffusion_dpo_loss, rightness
from .picks import QueryPicks
from .settings import Objective

BETA_PER_NUMBER = 0.1
"""As Diffusion-DPO's 2,000 for the 16,384 numbers of SD1.5's latents."""
GRADIENT_FACTOR = 0.2
"""Mean of sigmoid(-logit), by which DPO's gradient is weighted, that a steered beta aims at."""
STEEPEST, FLATTEST = 1.0, 0.01
"""Bounds of a steered beta, for each number of a latent."""


class Noised(NamedTuple):
    """Noised latents [2b, C, ...] of chosen, then of rejected pictures, what should be predicted, t [2b], context."""

    x: Tensor
    target: Tensor
    t: Tensor
    context: Any


@dataclass(frozen=True)
class UserDPO:
    """The loss of picks for an adapter in its host; without `personal` everybody is the population user (ordinary
    Diffusion-DPO)."""

    denoiser: Denoiser
    host: PersonalHost
    picks: QueryPicks
    texts: Texts
    objective: Objective
    end_percent: float
    personal: bool = True

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, Tensor]:
        """Picks [b], and the u [b, d] of whose they are."""
        index = self.picks.draw(rng, batch)
        support = rng.integers(len(self.picks.embeddings), size=batch)
        u = self.picks.embeddings[support, self.picks.person[index]]
        dropped = torch.ones(batch, dtype=torch.bool)
        if self.personal:
            dropped = torch.from_numpy(rng.random(batch) < self.objective.user_dropout)
            if not self.picks.population.any():  # of an encoder that met nobody: the null user, who teaches nothing
                dropped[:] = False
        return index, torch.where(dropped[:, None], self.picks.population, u)

    def loss(self, rng: np.random.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of `batch` picks, and figures for the log."""
        index, own_u = self.draw(rng, batch)
        noised = self.noised(rng, index)
        reference, own = self.reference(noised), self.policy(noised, own_u)
        if self.objective.safeguard is not None:
            own = own.safeguarded(self.objective.safeguard)
        beta = self.beta(own, reference)
        labels, is_hard = self.picks.labels(index), self.picks.is_plain(index)
        if not self.objective.soft_labels:
            labels, is_hard = torch.ones(batch), np.ones(batch, bool)
        losses, logits = diffusion_dpo_loss(*own.means, *reference.means, beta, labels.to(own.chosen))
        value = losses.mean()
        figures = {
            "loss": value.item(),
            "accuracy": rightness(logits).mean().item(),
            "beta": beta,
            "chosen_error": (own.chosen - reference.chosen).mean().item(),
        }
        is_own = (own_u != self.picks.population).any(1).numpy()
        hard = np.flatnonzero(is_hard & is_own)
        if self.objective.contrast and len(hard):
            others, weights = self._others(rng, index, noised, hard)
            means = reference.chosen[hard], reference.rejected[hard]
            theirs = diffusion_dpo_loss(*others.means, *means, beta)[1]
            apart = -F.logsigmoid(logits[hard] - theirs) * weights.to(logits)
            value = value + self.objective.contrast * apart.sum() / batch
            figures["own_over_other"] = rightness(logits[hard] - theirs).mean().item()
        return value, figures

    def _others(
        self, rng: np.random.Generator, index: np.ndarray, noised: Noised, rows: np.ndarray
    ) -> tuple[PairErrors, Tensor]:
        """Errors of the policy under somebody else's u for the picks index[rows], and how much more probable each of
        these is for its own person than for the other, 0 to 1; 1 where that is not known."""
        picks, chosen = self.picks, index[rows]
        other = picks.others(chosen, rng)
        u = picks.embeddings[rng.integers(len(picks.embeddings)), other]
        both = np.concatenate([rows, rows + len(index)])
        context = self.texts[np.concatenate([picks.caption[chosen]] * 2)]
        same = Noised(noised.x[both], noised.target[both], noised.t[both], context)
        own, theirs = (picks.logits(chosen, person).sigmoid() for person in (picks.person[chosen], other))
        return self.policy(same, u), (own - theirs).clamp_min(0).nan_to_num(1.0)

    def beta(self, policy: PairErrors, reference: PairErrors) -> float:
        """beta for a batch."""
        numbers = math.prod(self.picks.latents.shape[1:])
        if not self.objective.steered_beta:
            return BETA_PER_NUMBER * numbers if self.objective.beta is None else self.objective.beta
        margin = (policy.chosen - policy.rejected) - (reference.chosen - reference.rejected)
        steered = 2 * math.log(1 / GRADIENT_FACTOR - 1) / max(margin.detach().abs().mean().item(), 1e-12)
        return min(max(steered, FLATTEST * numbers), STEEPEST * numbers)

    def noised(self, rng: np.random.Generator, index: np.ndarray) -> Noised:
        """The pictures of the picks `index` [b] under noise: both of a pair under one, or each under its own true one;
        t is the same."""
        pictures = torch.from_numpy(self.picks.pictures(index))
        latents = self.picks.latents[pictures].to(self.denoiser.device, torch.float32)
        noise = torch.randn(len(index), *latents.shape[1:]).repeat(2, *[1] * (latents.ndim - 1))
        if self.objective.true_noise:
            noise = self.picks.true_noise(pictures, noise)
        noise = noise.to(latents)
        t = self.denoiser.draw_timesteps(rng, len(index), self.end_percent).to(latents.device).repeat(2)
        context = self.texts[np.concatenate([self.picks.caption[index]] * 2)]
        return Noised(self.denoiser.noised(latents, noise, t), self.denoiser.target(latents, noise, t), t, context)

    @torch.no_grad()
    def reference(self, noised: Noised) -> PairErrors:
        """Errors of the denoiser itself."""
        return PairErrors.of(self.denoiser.predict(noised.x, noised.t, noised.context), noised.target)

    def policy(self, noised: Noised, u: Tensor) -> PairErrors:
        """Errors under u [b, d]."""
        with self.host.personalized(u[:, None].repeat(2, 1, 1)):
            return PairErrors.of(self.denoiser.predict(noised.x, noised.t, noised.context), noised.target)
