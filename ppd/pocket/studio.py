"""A pocket ready to use: pairs to user embedding, user embedding and prompt to picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..adapters import UserAdapter
from ..encoders.encoder import PosteriorEncoder, TasteEncoder
from ..encoders.towers import open_tower
from ..hosts.diffusers import DiffusersHost
from ..user_embedding import UserEmbedding
from .painter import GUIDANCE, Painter, generate
from .world import POCKET, World

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
ENCODER = POCKET.encoder(Path())


def load_encoder(weights: Path = WEIGHTS, world: World = POCKET) -> PosteriorEncoder:
    """A world's taste encoder."""
    folder = world.encoder(weights)
    encoder = TasteEncoder.load(folder)
    return encoder.open(open_tower(encoder.tower, folder))


@dataclass
class Studio:
    """A world's model with a user adapter in its diffusers host."""

    model: Painter
    host: DiffusersHost

    @classmethod
    def open(cls, adapter: Path | None = None, weights: Path = WEIGHTS, world: World = POCKET) -> Studio:
        """A world's shipped model with `adapter`, by default the shipped one."""
        model = world.load_model(weights)
        path = adapter or weights / "adapters" / f"{world.name}.safetensors"
        return cls(model, model.host(UserAdapter.load(path, family=model.family)))

    def paint(
        self,
        prompt: str,
        seed: int,
        users: list[UserEmbedding | None],
        strengths: list[float] | None = None,
        *,
        guidance: float = GUIDANCE,
        steps: int = 20,
    ) -> list[Image.Image]:
        """The same prompt and seed for each user (None paints the base), each at its strength (1 by default)."""
        for user in users:
            if user is not None:
                self.host.adapter.config.check_embedding(user)
        null = torch.zeros(1, self.host.adapter.config.embedding_dim)
        strengths = strengths or [1.0] * len(users)
        latents = torch.cat(
            [
                generate(
                    self.model,
                    [prompt],
                    [seed],
                    host=self.host,
                    u=(null if user is None else user.u)[None],
                    strength=strength,
                    guidance=guidance,
                    steps=steps,
                )
                for user, strength in zip(users, strengths, strict=True)
            ]
        )
        return to_images(self.model.decode(latents))


def to_images(pictures: Tensor) -> list[Image.Image]:
    """[n, 3, H, W] in 0..1 to PIL pictures."""
    arrays = (pictures * 255 + 0.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
