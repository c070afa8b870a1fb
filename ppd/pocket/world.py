"""The embedded worlds: what tells one from the other. Scenes, captions, people and the whole recipe are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextModel

from ..adapters import UserAdapter
from . import paint, scenes
from .adapters import BETA, keys_values, low_rank
from .autoencoder import VAE_CONFIG
from .data import PictureSet, Render
from .encoder import PROBED
from .flow import FlowModel
from .flow_training import train_flow
from .look_words import LOOK_WORDS
from .model import PocketModel, train_base
from .painter import Painter
from .statistics import Statistics, picture_statistics

SIZES = {"pictures": 24000, "decoded": 8000, "pool": 2000}
"""Rendered pictures, how many of them the autoencoder returns to train on, and how many the base paints."""

STEPS = {
    "autoencoder": 1500,
    "decoder": 300,
    "base": 2000,
    "encoder": 400,
    "classifier": 800,
    "adapter": 240,
}
FLOW_VAE_CONFIG: dict[str, Any] = {"latent_channels": 4, "width": 96, "fine_width": 32}


@dataclass(frozen=True)
class World:
    """One world: how its pictures are drawn and measured, its model's class, and its files.

    `train`: denoiser, text encoder and vocabulary from nothing, of scaled latents [n, 4, 16, 16] of the pictures, a
    checkpoint to resume from, and how many steps. `probed`: of each statistic, the words for its low and high end.
    `tower`: the taste encoder's folder whose tower sees this world, its own or another's. `new_adapter`: of what kind
    its user adapters are; `end_percent`: until where in the noise schedule they act, since colour and tone are decided
    early; `beta`, `learning_rate`: of their training.
    """

    name: str
    title: str
    render: Render
    statistics: Statistics
    model: type[Painter]
    train: Callable[[Tensor, PictureSet, Path, int], tuple[nn.Module, CLIPTextModel, Tensor]]
    vae_config: dict[str, Any]
    probed: dict[str, tuple[str, str]]
    tower: str
    new_adapter: Callable[..., UserAdapter] = keys_values
    end_percent: float = 0.5
    beta: float = BETA
    learning_rate: float = 1e-3
    steps: dict[str, int] = field(default_factory=lambda: dict(STEPS))
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))
    adapters: dict[str, tuple[bool, int]] = field(default_factory=dict)
    """Names of user adapters, the own one, "-seed2" and "-population": whether it is personal, and its seed."""
    examples: dict[str, dict[str, float]] = field(default_factory=dict)
    """The shipped preference sets: for each, the tuning person whose taste is nearest to this direction."""

    def file(self, weights: Path, part: str) -> Path:
        """base, classifier, world or turbo, in the folder of weights."""
        return weights / f"{self.name.replace('-', '_')}_{part}.safetensors"

    def encoder(self, weights: Path) -> Path:
        """The taste encoder's folder."""
        return weights / "taste_encoders" / self.name

    @property
    def has_turbo(self) -> bool:
        """Whether a LoRA makes few-step pictures of the base."""
        return "turbo" in self.steps

    def load_model(self, weights: Path) -> Painter:
        """The base of the folder of weights."""
        return self.model.load(self.file(weights, "base"))


POCKET = World(
    name="pocket",
    title="the pocket",
    render=scenes.render,
    statistics=picture_statistics,
    model=PocketModel,
    train=train_base,
    vae_config=VAE_CONFIG,
    probed=PROBED,
    tower="pocket",
    steps=STEPS,
    sizes=SIZES,
    adapters={"pocket": (True, 11), "pocket-seed2": (True, 12), "pocket-population": (False, 11)},
    examples={
        "cool and soft": {"warmth": -1.0, "saturation": -0.5, "contrast": -0.6},
        "vivid and bold": {"warmth": 0.4, "saturation": 1.0, "contrast": 0.6},
    },
)
POCKET_FLOW = World(
    name="pocket-flow",
    title="pocket flow",
    render=paint.render,
    statistics=paint.painted_statistics,
    model=FlowModel,
    train=train_flow,
    vae_config=FLOW_VAE_CONFIG,
    probed={name: (low[0], high[0]) for name, (low, high) in LOOK_WORDS.items()},
    tower="pocket",
    new_adapter=low_rank,
    end_percent=0.8,
    beta=30.0,
    learning_rate=5e-4,
    steps={"autoencoder": 1600, "decoder": 300, "base": 3000, "classifier": 800, "adapter": 400, "turbo": 300},
    sizes={"pictures": 16000, "decoded": 8000, "pool": 2000},
    adapters={"pocket-flow": (True, 11), "pocket-flow-seed2": (True, 12), "pocket-flow-population": (False, 11)},
    examples={
        "dark and bold": {"brightness": -1.0, "contrast": 1.0},
        "pale and soft": {"saturation": -1.0, "brightness": 1.0, "contrast": -1.0},
    },
)
WORLDS = {world.name: world for world in (POCKET, POCKET_FLOW)}
