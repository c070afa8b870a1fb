"""Diffusion-DPO (Wallace et al., arXiv 2311.12908), which PPD (arXiv 2501.06655) gives a user, and its safeguard."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per sample, in float32 whatever the precision of the denoiser: [B, ...], [B, ...] -> [B]."""
    return _mean_square(prediction.float() - target.float())


def diffusion_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO (arXiv 2311.12908, equation 14): -logsigmoid(-beta/2 * ((m_w - m_l) - (r_w - r_l))).

    Arguments are mean squared errors per sample [B] from `denoising_error`: m of the policy (user branch on), r of the
    reference (branch off), w on the chosen picture, l on the rejected one, all four of a pair at the same timestep and
    with the same noise. `beta` belongs to mean errors, so it grows with the latent: .1 to 1 per element is usual.
    `label` [B] is the probability that the chosen picture is the better one, below 1 for soft labels (cross-entropy).

    Returns the loss per pair [B] and the implicit logits [B], above 0 where the policy prefers the chosen picture more
    than the reference does.
    """
    logits = -0.5 * beta * ((policy_chosen - policy_rejected) - (reference_chosen - reference_rejected))
    return -label * F.logsigmoid(logits) - (1 - label) * F.logsigmoid(-logits), logits


def rightness(logits: Tensor) -> Tensor:
    """1 where the policy prefers the chosen picture more than the reference does, 0 where the rejected one, and a half
    where neither, as of a new adapter: float32, in the shape of the implicit `logits`."""
    return 0.5 * (logits.float().sign() + 1)


@dataclass(frozen=True)
class PairErrors:
    """One denoiser's errors on pairs: mean squares [B] of `chosen` and `rejected` pictures, and the differences of
    predictions and targets [B, ...] that they are of."""

    chosen: Tensor
    rejected: Tensor
    differences: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, prediction: Tensor, target: Tensor) -> PairErrors:
        """Of predictions [2B, ...] for the chosen pictures, then for the rejected ones."""
        first, second = (prediction.float() - target.float()).chunk(2)
        return cls(_mean_square(first), _mean_square(second), (first, second))

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The two that Diffusion-DPO compares."""
        return self.chosen, self.rejected

    def safeguarded(self, mu: float) -> PairErrors:
        """The same with a smaller gradient of the rejected ones where it would raise the chosen ones' error.

        Diffusion-SDPO: min(1, (1 - mu) |e_w|^2 / <e_w, e_l>) of it is kept where <e_w, e_l> > 0, e the differences.
        """
        chosen, rejected = (one.detach().flatten(1) for one in self.differences)
        together = (chosen * rejected).sum(1)
        most = (1 - mu) * chosen.square().sum(1) / together
        kept = most.clamp_max(1).where(together > 0, 1.0)
        return replace(self, rejected=kept * self.rejected + (1 - kept) * self.rejected.detach())


def _mean_square(difference: Tensor) -> Tensor:
    """Of each sample [B, ...] -> [B]."""
    return difference.square().flatten(1).mean(1)
