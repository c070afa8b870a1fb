"""ComfyUI's CLIP_VISION as a tower: CLIP, SigLIP, SigLIP2, DINOv2, DINOv3, which IP-Adapter and Redux users have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..fingerprint import fingerprint, hash_with
from .pixels import to_tensor

POOLING = {
    "clip_vision_model": "projection",
    "siglip_vision_model": "mean of patches",
    "siglip2_vision_model": "mean of patches",
    "dinov2": "class token",
    "dinov3": "class token",
}
"""What stands for the whole picture, by ComfyUI's model type. Its SigLIP classes leave the attention pooling out."""


class ClipVisionTower:
    """A picture as the vector that stands for all of it in one of ComfyUI's vision models.

    `look` takes fitted pictures [n, 3, h, w] in 0..1 to what the model pools, [n, f] or the patches' states
    [n, tokens, f], whose mean is taken. `fit` takes one picture [1, H, W, 3] in 0..1 to [1, 3, h, w], its size and cut
    as the model's own preprocessing has them, `preprocess` says which that is. Features have length 1 if `normalize`.
    """

    def __init__(
        self,
        model: nn.Module,
        look: Callable[[Tensor], Tensor],
        fit: Callable[[Tensor], Tensor],
        *,
        name: str,
        model_type: str,
        preprocess: Mapping[str, Any],
        normalize: bool = True,
        batch: int = 16,
    ) -> None:
        if model_type not in POOLING:
            raise ValueError(
                f"{name} is a {model_type}, and how its features are pooled is known for {', '.join(POOLING)}: choose "
                "one of those."
            )
        self.model, self.look, self.fit = model, look, fit
        self.name, self.normalize, self.batch = name, normalize, batch
        self.pooling = POOLING[model_type]
        self.preprocess = dict(preprocess)

    @cached_property
    def weight_hash(self) -> str:
        """sha256 that tells models (fingerprint.py), preprocessing and pooling apart."""
        settings = {"preprocess": self.preprocess, "pooling": self.pooling, "normalize": self.normalize}
        return hash_with(settings, fingerprint(self.model))

    @cached_property
    def dim(self) -> int:
        """f, the width of one feature vector."""
        return self.features([self.prepare(Image.new("RGB", (64, 64)))]).shape[1]

    def prepare(self, picture: Image.Image) -> Tensor:
        """One picture [3, h, w] at the model's size, in bytes: the model's own preprocessing rounds to them."""
        return (self.fit(to_tensor(picture).movedim(0, -1)[None])[0] * 255).round().to(torch.uint8)

    @torch.no_grad()
    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, f], float32 on the CPU; pictures of one shape after each other are looked at together."""
        rows = [self._row(torch.stack(list(part))) for _, part in groupby(prepared, key=lambda x: x.shape)]
        return torch.cat(rows) if rows else torch.empty(0, self.dim)

    def _row(self, pictures: Tensor) -> Tensor:
        seen = self.look(pictures.float() / 255).float().cpu()
        pooled = seen.mean(1) if seen.ndim == 3 else seen
        return F.normalize(pooled, dim=-1) if self.normalize else pooled
