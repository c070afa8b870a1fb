"""The second world's model, pocket flow: a small transformer of Qwen-Image's class with flow matching.

Of today's families Qwen-Image's is the most used. Its class hands no hook into its attention, so that what personalises
it must act on its linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from torch import Tensor

from ..branch import Adapter
from ..hosts.diffusers import DiffusersHost
from ..hosts.diffusers_denoisers import flow_sigma
from . import scenes
from .look_words import every_word
from .model import TEXT_CONFIG
from .painter import LATENT_SHAPE, Painter
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


class PlainAttention:
    """The class's joint attention in real numbers and plain matrix products, for one size of picture and text.

    Complex rotations cannot be fused, and the backward of plain products is faster on CPU. The outcome is the same.
    """

    def __init__(self, transformer: QwenImageTransformer2DModel, rows: int, columns: int, tokens: int) -> None:
        turns = transformer.pos_embed([(1, rows, columns)], max_txt_seq_len=tokens, device=torch.device("cpu"))
        turn = torch.cat(turns[::-1])[:, None]  # text first, as the tokens are joined
        self.cos, self.sin = turn.real.contiguous(), turn.imag.contiguous()

    def _rotated(self, x: Tensor) -> Tensor:
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos.to(x.device), self.sin.to(x.device)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states_mask: None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Picture tokens [n, S, d] and text tokens [n, T, d] to what each takes from both."""
        heads, texts = (attn.heads, -1), encoder_hidden_states.shape[1]
        q = torch.cat(
            [
                attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(-1, heads)),
                attn.norm_q(attn.to_q(hidden_states).unflatten(-1, heads)),
            ],
            1,
        )
        k = torch.cat(
            [
                attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(-1, heads)),
                attn.norm_k(attn.to_k(hidden_states).unflatten(-1, heads)),
            ],
            1,
        )
        v = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], 1).unflatten(-1, heads)
        q, k, v = (x.transpose(1, 2) for x in (self._rotated(q), self._rotated(k), v))
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out[:, texts:]), attn.to_add_out(out[:, :texts])


class FlowModel(Painter):
    """A transformer that predicts the velocity, noise - x0, of (1 - t) x0 + t noise; its timesteps are 1000 t."""

    part: ClassVar[str] = "transformer"
    family: ClassVar[str] = "qwen_image"
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
    def draw_timesteps(cls, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        percents = rng.uniform(0, end_percent, count)
        return torch.tensor([1000 * cls._sigma_at(percent) for percent in percents], dtype=torch.float32)

    @classmethod
    def noised(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(x0, noise, t.view(-1, 1, 1, 1).to(x0) / 1000)

    @classmethod
    def target(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def predict(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return velocity(self.denoiser, x, t.to(x).expand(len(x)) / 1000, context)

    @staticmethod
    def _sigma_at(percent: float) -> float:
        return flow_sigma(percent, FLOW_SCHEDULE["shift"])

    def host(self, adapter: Adapter) -> DiffusersHost:
        return DiffusersHost(self.denoiser, adapter, self._sigma_at)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        processors = self.denoiser.attn_processors
        rows, columns = (side // 2 for side in LATENT_SHAPE[1:])
        self.denoiser.set_attn_processor(PlainAttention(self.denoiser, rows, columns, FLOW_CONTEXT))
        try:
            yield
        finally:
            self.denoiser.set_attn_processor(processors)


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
