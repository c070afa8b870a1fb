"""The pocket autoencoder: diffusers' AutoencoderTiny (the TAESD layout, which ComfyUI loads too), trained on scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from ..training import device_of, fit
from .data import PictureSet, to_tensor

VAE_CONFIG: dict[str, Any] = {"latent_channels": 4}
LATENT_NOISE = 0.05
"""Standard deviation added to latents in training, so that the decoder is smooth where the denoiser is not exact."""


def build_autoencoder() -> AutoencoderTiny:
    """3 x 128 x 128 pictures to 4 x 16 x 16 latents and back, 2.4 M parameters, no normalisation layers."""
    return AutoencoderTiny(**VAE_CONFIG)


def reconstruction_loss(vae: AutoencoderTiny, pictures: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of noisy reconstruction, and a wall that keeps latents inside TAESD's tanh clamp at 3."""
    x = pictures * 2 - 1
    latents = vae.encoder(x).float()
    decoded = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents)).float()
    error = (decoded - x).pow(2).mean() / 4  # in 0..1 units, so that psnr = -10 log10(error)
    wall = (latents.abs() - 2).clamp(min=0).pow(2).mean()
    return error + 1e-3 * wall, {"psnr": -10 * float(np.log10(error.item())), "latent_std": latents.std().item()}


def train_autoencoder(data: PictureSet, checkpoint: Path, steps: int, batch: int = 8, seed: int = 1) -> AutoencoderTiny:
    """Train from nothing on random pictures of `data`; resumes from `checkpoint`."""
    torch.manual_seed(seed)
    vae = build_autoencoder().to(memory_format=torch.channels_last)

    def loss(model: AutoencoderTiny, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        pictures, _ = data.batch(rng, batch)
        if rng.random() < 0.5:
            pictures = pictures.flip(3)
        return reconstruction_loss(model, pictures.to(device_of(model)))

    return fit("autoencoder", vae, loss, steps=steps, learning_rate=1e-3, checkpoint=checkpoint, seed=seed)


@torch.inference_mode()
def encode_pictures(vae: AutoencoderTiny, pictures: np.ndarray, batch: int = 32) -> Tensor:
    """[n, 128, 128, 3] uint8 to latents [n, 4, 16, 16] float32 (unscaled)."""
    parts = []
    for start in range(0, len(pictures), batch):
        x = to_tensor(pictures[start : start + batch]).to(next(vae.parameters()).device) * 2 - 1
        with torch.autocast(x.device.type, torch.bfloat16):
            parts.append(vae.encoder(x).float().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def decode_latents(vae: AutoencoderTiny, latents: Tensor, batch: int = 32) -> Tensor:
    """Unscaled latents [n, 4, 16, 16] to pictures [n, 3, 128, 128] in 0..1."""
    parts = []
    for start in range(0, len(latents), batch):
        z = latents[start : start + batch].to(next(vae.parameters()).device)
        with torch.autocast(z.device.type, torch.bfloat16):
            parts.append(vae.decoder(z).float().cpu().add(1).div(2).clamp(0, 1))
    return torch.cat(parts)
