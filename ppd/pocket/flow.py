"""The second world's model, pocket flow: a small transformer of Qwen-Image's class with flow matching.

Of today's families Qwen-Image's is the most used. Its class hands no hook into its attention, so that what personalises
it must act on its linear layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from torch import Tensor

from . import scenes
from .look_words import every_word
from .model import TEXT_CONFIG
from .painter import Painter
from .text import vocabulary_of

FLOW_CONTEXT = 32
"""Tokens of a prompt: the longest caption with three looks has 26."""

FLOW_CONFIG: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "axes_dims_rope": (8, 12, 12),
}
FLOW_TEXT_CONFIG: dict[str, Any] = {**TEXT_CONFIG, "num_hidden_layers": 2, "max_position_embeddings": FLOW_CONTEXT}
FLOW_SCHEDULE: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 2.0}
"""Of diffusers' scheduler; ComfyUI counts the shift as its logarithm."""


@cache
def flow_vocabulary() -> Tensor:
    """Sorted token ids that occur in any caption or word for a look, with begin and end."""
    return vocabulary_of([every_word(), *(scene.caption for scene in scenes.SCENES)])


class FlowModel(Painter):
    """A transformer that predicts the velocity, noise - x0, of (1 - t) x0 + t noise; its timesteps are 1000 t."""

    part: ClassVar[str] = "transformer"
    config = FLOW_CONFIG
    text_config = FLOW_TEXT_CONFIG
    schedule = FLOW_SCHEDULE
    steps = 12
    sampler = "Euler"
    denoiser: QwenImageTransformer2DModel

    @classmethod
    def build_denoiser(cls, config: dict[str, Any]) -> QwenImageTransformer2DModel:
        return QwenImageTransformer2DModel(**config)

    @classmethod
    def scheduler(cls, steps: int) -> FlowMatchEulerDiscreteScheduler:
        scheduler = FlowMatchEulerDiscreteScheduler(**FLOW_SCHEDULE)
        # As ComfyUI's simple scheduler: even steps from 1 to 0, then shifted
        scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].tolist())
        return scheduler

    @classmethod
    def noised(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(x0, noise, t.view(-1, 1, 1, 1).to(x0) / 1000)

    @classmethod
    def target(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def predict(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return velocity(self.denoiser, x, t.to(x).expand(len(x)) / 1000, context)


def velocity(transformer: Callable[..., Any], x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """The transformer's velocity of latents [n, 4, H, W], of even sides, at t [n] in 0..1 for text states [n, T, 128].

    Patches of 2 x 2 latents go in as tokens of 16.
    """
    n, channels, height, width = x.shape
    rows, columns = height // 2, width // 2
    patches = x.reshape(n, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1)
    (out,) = transformer(
        hidden_states=patches,
        encoder_hidden_states=context,
        timestep=t,
        img_shapes=[[(1, rows, columns)]] * n,
        return_dict=False,
    )
    return out.view(n, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
