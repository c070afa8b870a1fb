"""How learning rate and weight average change over a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...] | list[Tensor]


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear to 1 over `warmup` steps, then half a cosine down to 0.02."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warm_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average with decay min(`decay`, (1 + n) / (10 + n)) after n earlier updates.

    At the full decay from the start, the random start would keep a share of decay^steps: a third after 1,000 steps of
    .999, and in a deep network even some percent of it shrink and darken everything.
    """

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
