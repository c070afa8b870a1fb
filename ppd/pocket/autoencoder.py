"""The pocket autoencoder: pictures to latents eight times smaller, and back. Imports neither host's libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import autocast

VAE_CONFIG: dict[str, Any] = {"latent_channels": 4, "width": 128, "fine_width": 32}


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        self.first = conv(width, width, 3, padding=1)
        self.second = conv(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class PocketAutoencoder(nn.Module):
    """Pictures [n, 3, 8h, 8w] in -1..1 to latents [n, 4, h, w] and back; 3.6 M parameters, no norms, no sampling.

    Pixels are folded into channels and out again (pixel unshuffle and shuffle), so that nearly all arithmetic happens
    at a quarter of the resolution; and a cell of the latents paints 8 x 8 pixels that differ, which nearest upsampling
    and convolutions cannot do: equal latents would give equal pixels, and no weave of the grid's own period.

    `conv` is the class of convolution; ComfyUI has its own, which casts and offloads.
    """

    def __init__(self, latent_channels: int, width: int, fine_width: int, conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()

        def layer(before: int, after: int, stride: int = 1) -> nn.Conv2d:
            return conv(before, after, 3, stride, padding=1)

        def blocks(count: int, of: int = width) -> list[nn.Module]:
            return [ResidualBlock(of, conv) for _ in range(count)]

        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), layer(48, width), *blocks(2), layer(width, width, 2), *blocks(2),
            layer(width, latent_channels),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            layer(latent_channels, width), *blocks(3), layer(width, 4 * width), nn.PixelShuffle(2), *blocks(2),
            layer(width, 4 * fine_width), nn.PixelShuffle(2), *blocks(1, fine_width), nn.ReLU(),
            layer(fine_width, 12), nn.PixelShuffle(2),
        )  # fmt: skip

    def encode(self, x: Tensor) -> Tensor:
        """[n, 3, 8h, 8w] in -1..1 to latents [n, 4, h, w]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [n, 4, h, w] to [n, 3, 8h, 8w], -1..1 where the latents are those of a picture."""
        return self.decoder(z)


@torch.inference_mode()
def encode_pictures(vae: PocketAutoencoder, pictures: np.ndarray, batch: int = 32) -> Tensor:
    """[n, 128, 128, 3] uint8 to latents [n, 4, 16, 16] float32 (unscaled)."""
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(pictures), batch):
        x = torch.from_numpy(np.array(pictures[start : start + batch])).permute(0, 3, 1, 2).to(device)
        with autocast(device):
            parts.append(vae.encode(x.float() / 127.5 - 1).float().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def decode_latents(vae: PocketAutoencoder, latents: Tensor, batch: int = 32) -> Tensor:
    """Unscaled latents [n, 4, h, w] to pictures [n, 3, 8h, 8w] in 0..1."""
    device = next(vae.parameters()).device
    parts = []
    for z in latents.split(batch):
        with autocast(device):
            parts.append(vae.decode(z.to(device)).float().cpu().add(1).div(2).clamp(0, 1))
    return torch.cat(parts)
