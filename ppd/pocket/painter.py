"""What the recipe, the evaluation and the studio ask of a world's model, and how any of them paints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from typing_extensions import Self

from ..branch import Adapter
from ..files import check_shapes, on_meta
from ..hosts.diffusers import DiffusersHost, guidance_rows
from ..precision import autocast
from .autoencoder import PocketAutoencoder, decode_latents
from .base_file import read_base, write_base
from .text import named_like, tokenize

LATENT_SHAPE = (4, 16, 16)
GUIDANCE = 4.0
"""The scale of classifier-free guidance wherever many pictures are painted."""


@dataclass
class Painter(ABC):
    """Denoiser, text encoder and autoencoder; the denoiser sees autoencoder latents times `latent_scale`.

    Subclasses say what a denoiser is told and learns (`draw_timesteps`, `noised`, `target`, `predict`; t [n] in the
    units of its scheduler's timesteps), how it is sampled, and how it is personalised.
    """

    denoiser: nn.Module
    text_encoder: CLIPTextModel
    vae: PocketAutoencoder
    latent_scale: float
    vocabulary: Tensor

    part: ClassVar[str]
    """The denoiser's name in the base file and in diffusers' pipelines."""
    family: ClassVar[str]
    """Of the denoiser, for adapters."""
    config: ClassVar[dict[str, Any]]
    text_config: ClassVar[dict[str, Any]]
    schedule: ClassVar[dict[str, Any]]
    steps: ClassVar[int]
    """Of the sampler, wherever many pictures are painted."""
    sampler: ClassVar[str]

    @classmethod
    @abstractmethod
    def build_denoiser(cls, config: dict[str, Any]) -> nn.Module:
        """A new denoiser of diffusers' class."""

    @classmethod
    @abstractmethod
    def scheduler(cls, steps: int) -> Any:
        """diffusers' scheduler, ready for `steps` steps."""

    @classmethod
    @abstractmethod
    def draw_timesteps(cls, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        """t [count], even over the part of the noise schedule from 0 to `end_percent`."""

    @classmethod
    @abstractmethod
    def noised(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents [n, 4, H, W] under noise at t [n]."""

    @classmethod
    @abstractmethod
    def target(cls, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What `predict` should give for them."""

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The denoiser's answer for latents [n, 4, H, W] at t, [n] or one for all, and text states [n, T, 128]."""

    @abstractmethod
    def host(self, adapter: Adapter) -> DiffusersHost:
        """The denoiser, to be personalised on the model's own noise schedule."""

    @contextmanager
    @abstractmethod
    def plain_attention(self) -> Iterator[None]:
        """Within it attention is plain matrix products, whose backward is faster on CPU."""

    @property
    def device(self) -> torch.device:
        """Where it paints."""
        return next(self.denoiser.parameters()).device

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to text states [n, T, 128]."""
        unique = sorted(set(prompts))
        ids = tokenize(unique, self.text_encoder.config.max_position_embeddings)
        states = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
        return states[[unique.index(prompt) for prompt in prompts]]

    def to(self, device: torch.device) -> Self:
        """Move all three there."""
        for module in (self.denoiser, self.text_encoder, self.vae):
            module.to(device)
        return self

    def decode(self, latents: Tensor) -> Tensor:
        """Denoiser latents [n, 4, 16, 16] to pictures [n, 3, 128, 128] in 0..1."""
        return decode_latents(self.vae, latents / self.latent_scale)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a base file of this kind (format in base_file.py) as float32."""
        base, source = read_base(path), Path(path).name
        if base.part != cls.part:
            raise ValueError(f"{source} holds a {base.part}, expected a {cls.part}: load the other model's.")
        configs = base.metadata
        if configs["scheduler_config"] != cls.schedule:
            raise ValueError(
                f"{source} has the noise schedule {configs['scheduler_config']}, expected {cls.schedule}: "
                "train it with that."
            )
        planned: tuple[tuple[Callable[[], nn.Module], dict[str, Tensor]], ...] = (
            (lambda: cls.build_denoiser(configs[f"{base.part}_config"]), base.denoiser),
            (lambda: CLIPTextModel(CLIPTextConfig(**configs["text_config"])), base.text_encoder),
            (lambda: PocketAutoencoder(**configs["vae_config"]), base.vae),
        )
        modules = []
        for build, tensors in planned:
            module = on_meta(source, build)
            check_shapes(source, module.state_dict(), named_like(module, tensors))
            module = build()
            module.load_state_dict(named_like(module, tensors))
            modules.append(module.eval().requires_grad_(False))
        denoiser, text_encoder, vae = modules
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(denoiser, text_encoder, vae, configs["latent_scale"], base.vocabulary)  # type: ignore[arg-type]

    def save(
        self, path: Path | str, vae_config: dict[str, Any], rgb_factors: list[list[float]], rgb_bias: list[float]
    ) -> None:
        """Write the base file: float16, only the vocabulary's rows of the token embedding."""
        text = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in self.text_encoder.state_dict().items()}
        metadata = {
            f"{self.part}_config": {k: list(v) if isinstance(v, tuple) else v for k, v in self.config.items()},
            "text_config": self.text_config,
            "vae_config": vae_config,
            "scheduler_config": self.schedule,
            "latent_scale": self.latent_scale,
            "latent_rgb_factors": rgb_factors,
            "latent_rgb_bias": rgb_bias,
        }
        state = self.denoiser.state_dict()
        write_base(path, state, text, self.vae.state_dict(), self.vocabulary, metadata, part=self.part)


@torch.inference_mode()
def generate(
    model: Painter,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    host: DiffusersHost | None = None,
    u: Tensor | None = None,
    strength: float = 1.0,
    guidance: float = GUIDANCE,
    steps: int | None = None,
    batch: int = 50,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Paint: latents [n, 4, 16, 16] in the denoiser's scale, with the model's sampler and classifier-free guidance.

    u [n or 1, N, d] are the user embeddings of the pictures, for `host`'s adapter. Row i depends on (prompt i, seed i,
    u i) alone, apart from rounding. `steps` is the model's own number where it is left out.
    """
    device = model.device
    empty = model.text([""])
    parts = []
    for start in range(0, len(prompts), batch):
        part = slice(start, min(start + batch, len(prompts)))
        scheduler = model.scheduler(steps or model.steps)
        noise = [torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(int(s))) for s in seeds[part]]
        x = torch.stack(noise).to(device)  # both schedules begin at unit variance
        context = model.text(prompts[part])
        context = torch.cat([empty.expand(len(context), -1, -1), context])
        branch: Any = nullcontext()
        if host is not None and u is not None:
            rows = (u[part] if len(u) > 1 else u.expand(len(x), -1, -1)).to(device)
            branch = host.personalized(guidance_rows(rows, host.adapter.config.unconditional), strength)
        with branch, autocast(device):
            for t in scheduler.timesteps:
                plain, prompted = model.predict(torch.cat([x, x]), t, context).float().chunk(2)
                x = scheduler.step(plain + guidance * (prompted - plain), t, x).prev_sample
        parts.append(x.cpu())
        if on_batch is not None:
            on_batch(len(x))
    return torch.cat(parts)


def preview_colors(latents: Tensor, pictures: np.ndarray) -> tuple[list[list[float]], list[float]]:
    """Least-squares colours for live previews: denoiser latents [n, 4, 16, 16] to 8 px means of pictures, in -1..1."""
    small = torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).unflatten(1, (16, 8)).unflatten(3, (16, 8))
    colors = small.mean((2, 4)).reshape(-1, 3)
    x = latents.permute(0, 2, 3, 1).reshape(-1, 4).double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), colors.double()).solution.round(
        decimals=4
    )
    return solution[:4].tolist(), solution[4].tolist()
