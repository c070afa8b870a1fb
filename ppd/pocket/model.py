"""The first world's model: text encoder, denoiser and autoencoder of Stable Diffusion 1.5's kinds; its training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..branch import Adapter
from ..hosts.diffusers import DiffusersHost
from ..training.loop import device_of, fit
from . import scenes
from .base_file import END
from .data import PictureSet
from .painter import Painter
from .text import CONTEXT, full_text_encoder, small_text_encoder, tokenize, vocabulary_of

SAMPLING_STEPS = 8
"""Of DPM-Solver++(2M) wherever many pictures are painted; 12 look the same."""


UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 2,
    "norm_num_groups": 32,
}
TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": END,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def vocabulary_in_use() -> Tensor:
    """Sorted token ids that occur in any caption, with begin and end."""
    return vocabulary_of(scene.caption for scene in scenes.SCENES)


class PocketModel(Painter):
    """A UNet that predicts the noise."""

    part: ClassVar[str] = "unet"
    family: ClassVar[str] = "pocket"
    config = UNET_CONFIG
    text_config = TEXT_CONFIG
    schedule = SCHEDULE
    steps = SAMPLING_STEPS
    sampler = "DPM-Solver++(2M)"
    denoiser: UNet2DConditionModel

    @classmethod
    def build_denoiser(cls, config: dict[str, Any]) -> UNet2DConditionModel:
        return UNet2DConditionModel(**config)

    @classmethod
    def scheduler(cls, steps: int) -> DPMSolverMultistepScheduler:
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
        scheduler.set_timesteps(steps)
        return scheduler

    @classmethod
    def draw_timesteps(cls, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        return torch.from_numpy(rng.integers(round((1 - end_percent) * 1000), 1000, count))

    @classmethod
    def noised(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return DDPMScheduler(**SCHEDULE).add_noise(x0, noise, t)

    @classmethod
    def target(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def predict(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.denoiser(x, t, context).sample

    def host(self, adapter: Adapter) -> DiffusersHost:
        return DiffusersHost(self.denoiser, adapter)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        processors = self.denoiser.attn_processors
        self.denoiser.set_attn_processor(AttnProcessor())
        try:
            yield
        finally:
            self.denoiser.set_attn_processor(processors)


class _Base(nn.Module):
    """What the base's training trains: the denoiser and the text encoder together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET_CONFIG)  # not channels last: GroupNorm is slow there on CPU
        self.unet.set_attn_processor(AttnProcessor())  # plain matrix products: faster backward than SDPA on CPU
        self.text_encoder = small_text_encoder(TEXT_CONFIG, vocabulary_in_use())


def train_base(
    latents: Tensor, data: PictureSet, checkpoint: Path, steps: int, batch: int = 24, seed: int = 2
) -> tuple[UNet2DConditionModel, CLIPTextModel, Tensor]:
    """Denoising training from nothing on scaled latents [n, 4, 16, 16] of `data`. Denoiser, text encoder and
    vocabulary; resumes."""
    torch.manual_seed(seed)
    model = _Base()
    # Fused, a step takes two thirds of the time; without a C++ compiler it runs as it is.
    denoiser = torch.compile(model.unet) if shutil.which("g++") else model.unet
    schedule, vocabulary = DDPMScheduler(**SCHEDULE), vocabulary_in_use()
    tokens = torch.searchsorted(vocabulary, tokenize(["", *(scene.caption for scene in scenes.SCENES)]))

    def loss(module: _Base, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(len(latents), size=batch)
        caption = np.where(rng.random(batch) < 0.1, 0, data.captions[index] + 1)  # 0: dropped, for guidance
        used, row = np.unique(caption, return_inverse=True)
        device = device_of(module)
        context = module.text_encoder(tokens[torch.from_numpy(used)].to(device)).last_hidden_state[row]
        x0 = latents[torch.from_numpy(index)].to(device)
        noise = torch.randn_like(x0)
        # More of the noisy half, which decides what is where
        t = (1000 * torch.rand(batch) ** 0.7).long().clamp(max=999).to(device)
        predicted = denoiser(schedule.add_noise(x0, noise, t), t, context).sample.float()
        error = (predicted - noise).pow(2).mean()
        return error, {"mse": error.item()}

    trained = fit("base", model, loss, steps=steps, learning_rate=2e-3, checkpoint=checkpoint, seed=seed, muon=True)
    return trained.unet, full_text_encoder(trained.text_encoder, TEXT_CONFIG, vocabulary), vocabulary
