"""The objective: Diffusion-DPO (Wallace et al., arXiv 2311.12908), which PPD (arXiv 2501.06655) gives a user."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per sample, in float32 whatever the precision of the denoiser: [B, ...], [B, ...] -> [B]."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def diffusion_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO (arXiv 2311.12908, equation 14): -logsigmoid(-beta/2 * ((m_w - m_l) - (r_w - r_l))).

    Arguments are mean squared errors per sample [B] from `denoising_error`: m of the policy (user branch on), r of the
    reference (branch off), w on the chosen picture, l on the rejected one, all four of a pair at the same timestep and
    with the same noise. `beta` belongs to mean errors, so it grows with the latent: .1 to 1 per element is usual.

    Returns the loss per pair [B] and the implicit logits [B], above 0 where the policy prefers the chosen picture more
    than the reference does.
    """
    logits = -0.5 * beta * ((policy_chosen - policy_rejected) - (reference_chosen - reference_rejected))
    return -F.logsigmoid(logits), logits
