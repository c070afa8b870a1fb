"""What training asks of a denoiser, whichever library runs it and whatever it predicts: noise, v, a flow's velocity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..adapters import UserAdapter


class Texts(Protocol):
    """What prompts say to a denoiser: `texts[rows]` is the context of a batch, a row each."""

    def __getitem__(self, rows: np.ndarray, /) -> Any: ...


ReadTexts = Callable[[Sequence[str]], list[Any]]
"""What each of some prompts says: tensors on the CPU in the denoiser's precision, and plain values, in containers."""
KeepTexts = Callable[[Sequence[str], ReadTexts], Sequence[Any]]
"""The same of many prompts, wherever it is kept, read by what is given."""


def in_memory(prompts: Sequence[str], read: ReadTexts) -> Sequence[Any]:
    """Reads and keeps all (KeepTexts)."""
    return read(prompts)


def numbered(prompts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Prompts, each once, and the place of each of n among them [n]."""
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return list(place), np.array([place[prompt] for prompt in prompts])


class PersonalHost(Protocol):
    """A denoiser that an adapter personalises; outside of `personalized` it is the reference."""

    adapter: Any

    def personalized(self, u: Tensor) -> AbstractContextManager[None]:
        """Within it the denoiser's calls have a row for each of u [B, N, d]."""
        ...


class Denoiser(Protocol):
    """Latents x0 [n, C, ...] and noise of their shape; t [n] in the units that the denoiser is told."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def text(self, prompts: Sequence[str]) -> Texts:
        """Prompts, by their place in the list."""
        ...

    def draw_timesteps(self, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        """t [count] of the part of the noise schedule from 0 to `end_percent`, as the denoiser is trained on it."""
        ...

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents under noise."""
        ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What `predict` should give for them."""
        ...

    def predict(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        """The denoiser's answer for noised latents."""
        ...

    def host(self, adapter: UserAdapter) -> PersonalHost:
        """The denoiser, to be personalised on its own noise schedule."""
        ...

    def plain_attention(self) -> AbstractContextManager[None]:
        """Within it gradients flow, by the attention whose backward is fastest."""
        ...
