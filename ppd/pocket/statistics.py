"""What a simulated person looks at: six statistics of the pixels, never of any encoder's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import weave

STATISTICS = ("warmth", "saturation", "brightness", "contrast", "outline", "texture")
Statistics = Callable[[Tensor], Tensor]
"""Pictures [n, 3, 128, 128] in 0..1 to their raw statistics [n, 6]."""
CLIP = 2.0
"""Whitened statistics are clipped here (in standard deviations), since a linear reward pays for ruined pictures."""


def luma(x: Tensor) -> Tensor:
    """Lightness [n, 1, H, W] of pictures [n, 3, H, W]."""
    return (x * x.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)


def picture_statistics(x: Tensor) -> Tensor:
    """Pictures [n, 3, 128, 128] in 0..1 to raw statistics [n, 6], in the order of STATISTICS.

    warmth: mean red minus blue · saturation: mean of largest minus smallest channel · brightness: mean luma ·
    contrast: standard deviation of luma over 8 x 8 px means · outline: mean darkness of thin dark lines (morphological
    closing minus picture) · texture: median amplitude of the 8 px weave.
    """
    light = luma(x)
    warmth = (x[:, 0] - x[:, 2]).mean((1, 2))
    saturation = (x.amax(1) - x.amin(1)).mean((1, 2))
    brightness = light.mean((1, 2, 3))
    contrast = F.avg_pool2d(light, 8).flatten(1).std(1)
    pattern = torch.as_tensor(weave(), device=x.device)[None, None]
    texture = (F.avg_pool2d(light * pattern, 8) / pattern.pow(2).mean()).flatten(1).median(1).values
    smooth = light - texture.view(-1, 1, 1, 1) * pattern  # so that outline does not count the weave again
    closing = -F.max_pool2d(-F.max_pool2d(smooth, 7, 1, 3), 7, 1, 3)
    outline = (closing - smooth - 0.10).clamp(min=0).mean((1, 2, 3))
    return torch.stack([warmth, saturation, brightness, contrast, outline, texture], dim=1)


@dataclass(frozen=True)
class Whitening:
    """ZCA whitening of the statistics of pictures that the base paints: each stays itself, less its correlations."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, statistics: Tensor) -> Whitening:
        """From raw statistics [n, M]."""
        x = statistics.double()
        covariance = torch.cov(x.T)
        scale = covariance.diagonal().clamp(min=1e-12).rsqrt()  # a statistic may never vary
        values, vectors = torch.linalg.eigh(covariance * scale * scale[:, None])
        root = vectors @ torch.diag(values.clamp(min=1e-3).rsqrt()) @ vectors.T
        return cls(x.mean(0).float(), (scale[:, None] * root).float())

    def scores(self, statistics: Tensor) -> Tensor:
        """Raw statistics [..., M] to whitened ones, not clipped: out of range beyond CLIP."""
        return (statistics - self.mean) @ self.matrix


def reward_statistics(whitening: Whitening, statistics: Tensor) -> Tensor:
    """What rewards are linear in: whitened statistics clipped at two standard deviations."""
    return whitening.scores(statistics).clamp(-CLIP, CLIP)
