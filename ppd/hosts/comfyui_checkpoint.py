"""An artist's checkpoint in ComfyUI, as a training asks of it (training/base.py)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig, UserAdapter
from ..pictures import Picture
from ..studies import StudySet
from ..user_embedding import UserEmbedding
from .comfyui import apply_user, manage_adapter
from .comfyui_base import Base
from .comfyui_denoisers import family_of, linear_sites, low_rank_family, widths_of
from .comfyui_studies import Painter, Sampling, model_signature
from .comfyui_training import ComfyUIDenoiser, reader
from .denoiser import KeepTexts, in_memory


class ComfyUICheckpoint:
    """MODEL, CLIP and VAE, which paint as `studies` were painted; `keep` is where the prompts' states stay."""

    def __init__(
        self, loaded: Base, studies: StudySet, *, checkpointing: bool = False, keep: KeepTexts = in_memory
    ) -> None:
        latents = [picture for picture in studies.pictures if picture.latent_file is not None]
        if not latents or studies.sampling is None:
            raise ValueError(f"The studies {studies.name!r} hold no pictures that a checkpoint painted: paint some.")
        if loaded.vae is None:
            raise ValueError("The checkpoint has no VAE: name it as the diffusion model, and its VAE's file.")
        self.loaded, self.sampling = loaded, Sampling(**studies.sampling)
        self._painter = Painter(loaded.model, loaded.clip, loaded.vae, self.sampling)
        shape = latents[0].latent().shape[1:]
        read = reader(loaded.clip)
        self.denoiser = ComfyUIDenoiser(loaded.model, read, shape, checkpointing=checkpointing, keep=keep)
        self.signature = model_signature(loaded.model)

    def new_adapter(self, kind: str | None, rank: int, **config: Any) -> UserAdapter:
        """A new adapter for the checkpoint's family: keys and values where it has cross-attention, else low-rank."""
        network, family = self.loaded.model.model.diffusion_model, family_of(self.loaded.model)
        kind = kind or ("cross_attention" if family else "low_rank")
        if kind == "low_rank":
            sites = tuple(linear_sites(network))
            return LowRankAdapter(
                LowRankConfig(family=low_rank_family(self.loaded.model), sites=sites, rank=rank, **config)
            )
        if family is None:
            raise ValueError("This checkpoint has no cross-attention that an adapter acts in: use the kind low_rank.")
        layers = widths_of(self.loaded.model)
        return CrossAttentionAdapter(CrossAttentionConfig(family=family, layers=layers, **config))

    @torch.no_grad()
    def latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Latents [n, C, ...] of pictures, cut and scaled to the studies' size."""
        size = self.sampling.width, self.sampling.height
        found = []
        for picture in pictures:
            fitted = ImageOps.fit(picture.open().convert("RGB"), size, Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)[None]
            found.append(self.loaded.vae.encode(pixels).to("cpu", torch.float16))
        return torch.cat(found)

    @torch.no_grad()
    def paint(self, prompt: str, seed: int, adapter: UserAdapter | None = None, u: Tensor | None = None) -> Image.Image:
        """A picture as the studies were painted, plain or for u [1, d]."""
        model = self.loaded.model
        if adapter is not None and u is not None:
            person = UserEmbedding(u, adapter.config.encoder, adapter.config.encoder_hash, 0, "")
            model = apply_user(model, manage_adapter(copy.deepcopy(adapter).requires_grad_(False)), [person])
        painter = self._painter.of(model)
        picture, _, _ = painter.paint(prompt, self.sampling.negative, seed, lambda step, foreseen: None)
        return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().cpu().numpy())
