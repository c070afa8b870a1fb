"""The pocket model: text encoder, denoiser and autoencoder of Stable Diffusion 1.5's kinds; training and sampling."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..files import check_shapes, on_meta
from ..hosts.diffusers import DiffusersHost, guidance_rows
from ..precision import autocast
from ..training import device_of, fit
from . import scenes
from .autoencoder import VAE_CONFIG, PocketAutoencoder, decode_latents
from .base_file import read_base, write_base

END = 49407
CONTEXT = 77
LATENT_SHAPE = (4, 16, 16)
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


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(prompts: Sequence[str]) -> Tensor:
    """CLIP token ids [n, 77], padded with the end token as Stable Diffusion 1.5 does; longer prompts are cut."""
    rows = torch.full((len(prompts), CONTEXT), END)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = [49406, *_tokenizer().encode(prompt)[: CONTEXT - 2]]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def unknown_words(prompt: str, vocabulary: Tensor) -> list[str]:
    """Parts of `prompt` that have no row in the pocket's vocabulary, as the tokenizer cuts them."""
    known = set(vocabulary.tolist())
    parts = [_tokenizer().decode([i]).strip() for i in _tokenizer().encode(prompt) if i not in known]
    return [part for part in parts if any(map(str.isalnum, part))]  # a comma says nothing to begin with


def vocabulary_in_use() -> Tensor:
    """Sorted token ids that occur in any caption, with begin and end."""
    return torch.unique(tokenize([scene.caption for scene in scenes.SCENES]))


@dataclass
class PocketModel:
    """Text encoder, denoiser and autoencoder; the denoiser sees autoencoder latents times `latent_scale`."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: PocketAutoencoder
    latent_scale: float
    vocabulary: Tensor

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to text states [n, 77, 128]."""
        unique = sorted(set(prompts))
        states = self.text_encoder(tokenize(unique).to(self.text_encoder.device)).last_hidden_state
        return states[[unique.index(prompt) for prompt in prompts]]

    def to(self, device: torch.device) -> PocketModel:
        """Move all three there."""
        for module in (self.unet, self.text_encoder, self.vae):
            module.to(device)
        return self

    def decode(self, latents: Tensor) -> Tensor:
        """Denoiser latents [n, 4, 16, 16] to pictures [n, 3, 128, 128] in 0..1."""
        return decode_latents(self.vae, latents / self.latent_scale)

    @classmethod
    def load(cls, path: Path | str) -> PocketModel:
        """Read the pocket base file (format in base_file.py) as float32."""
        base = read_base(path)
        source, configs = Path(path).name, base.metadata
        planned: tuple[tuple[Callable[[], nn.Module], dict[str, Tensor]], ...] = (
            (lambda: UNet2DConditionModel(**configs["unet_config"]), base.unet),
            (lambda: CLIPTextModel(CLIPTextConfig(**configs["text_config"])), base.text_encoder),
            (lambda: PocketAutoencoder(**configs["vae_config"]), base.vae),
        )
        for build, tensors in planned:
            module = on_meta(source, build)
            check_shapes(source, module.state_dict(), _named_like(module, tensors))
        unet = UNet2DConditionModel(**configs["unet_config"])
        unet.load_state_dict({k: v.float() for k, v in base.unet.items()})
        text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_config"]))
        text_encoder.load_state_dict(_named_like(text_encoder, base.text_encoder))
        vae = PocketAutoencoder(**configs["vae_config"])
        vae.load_state_dict({k: v.float() for k, v in base.vae.items()})
        modules: tuple[nn.Module, ...] = (unet, text_encoder, vae)
        for module in modules:
            module.eval().requires_grad_(False)
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(unet, text_encoder, vae, configs["latent_scale"], base.vocabulary)

    def save(self, path: Path | str, rgb_factors: list[list[float]], rgb_bias: list[float]) -> None:
        """Write the pocket base file: float16, only the vocabulary's rows of the token embedding."""
        text = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in self.text_encoder.state_dict().items()}
        metadata = {
            "unet_config": {k: list(v) if isinstance(v, tuple) else v for k, v in UNET_CONFIG.items()},
            "text_config": TEXT_CONFIG,
            "vae_config": VAE_CONFIG,
            "scheduler_config": SCHEDULE,
            "latent_scale": self.latent_scale,
            "latent_rgb_factors": rgb_factors,
            "latent_rgb_bias": rgb_bias,
        }
        write_base(path, self.unet.state_dict(), text, self.vae.state_dict(), self.vocabulary, metadata)


def _named_like(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers 5 dropped the prefix `text_model.` that transformers 4, ComfyUI and our files have."""
    prefixed = any(name.startswith("text_model.") for name in module.state_dict())
    return {name if prefixed else name.removeprefix("text_model."): value.float() for name, value in tensors.items()}


class _Base(nn.Module):
    """What the base's training trains: the denoiser and the text encoder together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET_CONFIG)  # not channels last: GroupNorm is slow there on CPU
        self.unet.set_attn_processor(AttnProcessor())  # plain matrix products: faster backward than SDPA on CPU
        # A table of the words in use alone: AdamW would walk through all 49,408 rows at every step.
        small = {**TEXT_CONFIG, "vocab_size": len(vocabulary_in_use()), "bos_token_id": 0, "eos_token_id": 1}
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**small))

    def full_text_encoder(self) -> CLIPTextModel:
        """The text encoder behind the whole CLIP vocabulary; words that no caption uses are zero."""
        full = CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG))
        state = dict(self.text_encoder.state_dict())
        name = next(key for key in state if key.endswith("token_embedding.weight"))
        table = torch.zeros(TEXT_CONFIG["vocab_size"], TEXT_CONFIG["hidden_size"])
        table[vocabulary_in_use()] = state[name].cpu()
        full.load_state_dict({**state, name: table})
        return full


def train_base(
    latents: Tensor, captions: np.ndarray, checkpoint: Path, steps: int, batch: int = 24, seed: int = 2
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Denoising training from nothing on scaled latents [n, 4, 16, 16]; captions index scenes.SCENES; resumes."""
    torch.manual_seed(seed)
    model = _Base()
    # Fused, a step takes two thirds of the time; without a C++ compiler it runs as it is.
    denoiser = torch.compile(model.unet) if shutil.which("g++") else model.unet
    schedule = DDPMScheduler(**SCHEDULE)
    tokens = torch.searchsorted(vocabulary_in_use(), tokenize(["", *(scene.caption for scene in scenes.SCENES)]))

    def loss(module: _Base, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(len(latents), size=batch)
        caption = np.where(rng.random(batch) < 0.1, 0, captions[index] + 1)  # 0: dropped, for guidance
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
    return trained.unet, trained.full_text_encoder()


@torch.inference_mode()
def generate(
    model: PocketModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    host: DiffusersHost | None = None,
    u: Tensor | None = None,
    strength: float = 1.0,
    guidance: float = 4.0,
    steps: int = SAMPLING_STEPS,
    batch: int = 50,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Paint: latents [n, 4, 16, 16] in the denoiser's scale, with DPM-Solver++(2M) and classifier-free guidance.

    u [n or 1, N, d] are the user embeddings of the pictures, for `host`'s adapter. Row i depends on (prompt i, seed i,
    u i) alone, apart from rounding.
    """
    device = model.unet.device
    empty = model.text([""])
    parts = []
    for start in range(0, len(prompts), batch):
        part = slice(start, min(start + batch, len(prompts)))
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
        scheduler.set_timesteps(steps)
        noise = [torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(int(s))) for s in seeds[part]]
        x = torch.stack(noise).to(device) * scheduler.init_noise_sigma
        context = model.text(prompts[part])
        context = torch.cat([empty.expand(len(context), -1, -1), context])
        branch: Any = nullcontext()
        if host is not None and u is not None:
            rows = (u[part] if len(u) > 1 else u.expand(len(x), -1, -1)).to(device)
            branch = host.personalized(guidance_rows(rows, host.adapter.config.unconditional), strength)
        with branch, autocast(device):
            for t in scheduler.timesteps:
                plain, prompted = model.unet(torch.cat([x, x]), t, context).sample.float().chunk(2)
                x = scheduler.step(plain + guidance * (prompted - plain), t, x).prev_sample
        parts.append(x.cpu())
        if on_batch is not None:
            on_batch(len(x))
    return torch.cat(parts)
