"""Training of the pocket autoencoder from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..training.loop import Loss, device_of, fit
from .autoencoder import VAE_CONFIG, PocketAutoencoder, ResidualBlock
from .data import PictureSet, to_tensor
from .statistics import Statistics, picture_statistics

LATENT_NOISE = 0.05
"""Standard deviation added to latents in training, so that the decoder is smooth where the denoiser is not exact."""

LATENT_LIMIT = 2.0
TILE_WEIGHT = 4.0
STATISTICS_WEIGHT, REFINING_WEIGHT = 2e-4, 5e-3


def tile_error(error: Tensor) -> Tensor:
    """Mean squared mean of `error` [n, 3, H, W] over its 8 x 8 px cells, place by place: colour casts and a lost weave.

    Both are faint in the mean squared error of single pixels and plain to the eye, since they fill the picture.
    """
    return error.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).mean((2, 4)).square().mean()


def reconstruction_loss(
    vae: PocketAutoencoder,
    pictures: Tensor,
    spread: Tensor,
    statistics_weight: float = STATISTICS_WEIGHT,
    statistics: Statistics = picture_statistics,
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of noisy reconstruction of `pictures` [n, 3, H, W] in 0..1, led by single pixels.

    Besides: `tile_error`; the shift of the picture's statistics in units of their `spread` [M]; and a wall that keeps
    latents in one range.
    """
    latents = vae.encode(pictures * 2 - 1).float()
    decoded = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).float() / 2 + 0.5
    error = decoded - pictures
    squared = error.square().mean()  # in 0..1 units, so that psnr = -10 log10(squared)
    shift = (statistics(decoded) - statistics(pictures)) / spread
    wall = (latents.abs() - LATENT_LIMIT).clamp(min=0).square().mean()
    loss = squared + TILE_WEIGHT * tile_error(error) + 1e-3 * wall
    loss = loss + statistics_weight * shift.clamp(-3, 3).square().mean()
    return loss, {"psnr": -10 * float(np.log10(squared.item())), "shift": shift.abs().mean().item()}


def build_autoencoder(config: Mapping[str, Any] = VAE_CONFIG) -> PocketAutoencoder:
    """A new autoencoder whose blocks start as the identity."""
    vae = PocketAutoencoder(**config)
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.weight)
            nn.init.zeros_(module.second.bias)  # type: ignore[arg-type]
    return vae


def train_autoencoder(
    data: PictureSet,
    checkpoint: Path,
    steps: int,
    batch: int = 4,
    seed: int = 1,
    *,
    config: Mapping[str, Any] = VAE_CONFIG,
    statistics: Statistics = picture_statistics,
) -> PocketAutoencoder:
    """Train from nothing on random pictures of `data`; resumes from `checkpoint`."""
    torch.manual_seed(seed)
    vae = build_autoencoder(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = _loss(data, batch, STATISTICS_WEIGHT, statistics)
    return fit("autoencoder", vae, loss, steps=steps, learning_rate=1.2e-3, checkpoint=checkpoint, seed=seed, muon=True)


def refine_decoder(
    vae: PocketAutoencoder,
    data: PictureSet,
    checkpoint: Path,
    steps: int,
    batch: int = 4,
    seed: int = 5,
    *,
    statistics: Statistics = picture_statistics,
) -> PocketAutoencoder:
    """Train the decoder alone to shift no statistic: what squared error leaves blurred, it makes lines too pale by.

    Latents stay as they are.
    """
    vae.encoder.requires_grad_(False)
    loss = _loss(data, batch, REFINING_WEIGHT, statistics)
    return fit("decoder", vae, loss, steps=steps, learning_rate=3e-4, checkpoint=checkpoint, seed=seed, muon=True)


def _loss(data: PictureSet, batch: int, statistics_weight: float, statistics: Statistics) -> Loss[PocketAutoencoder]:
    spread = statistics(to_tensor(data.pictures[:300])).std(0)

    def loss(model: PocketAutoencoder, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        pictures, _ = data.batch(rng, batch)  # never flipped: that would turn the weave's phase
        device = device_of(model)
        return reconstruction_loss(model, pictures.to(device), spread.to(device), statistics_weight, statistics)

    return loss
