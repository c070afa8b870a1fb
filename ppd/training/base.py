"""What a training asks of an artist's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from ..adapters import UserAdapter
from ..hosts.denoiser import Denoiser
from ..pictures import Picture


class Base(Protocol):
    """A checkpoint that an adapter is trained for; `signature` tells it from others, as the studies' does."""

    signature: dict[str, str]

    @property
    def denoiser(self) -> Denoiser:
        """What is trained on."""
        ...

    def new_adapter(self, kind: str | None, rank: int, **config: Any) -> UserAdapter:
        """A new adapter: of the family's own kind where that is None; `config` as of AdapterConfig."""
        ...

    def latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Latents [n, C, ...] of pictures, fitted to the size of the studies."""
        ...

    def paint(self, prompt: str, seed: int, adapter: UserAdapter | None = None, u: Tensor | None = None) -> Image.Image:
        """A picture as the studies were painted, plain or for u [1, d]."""
        ...
