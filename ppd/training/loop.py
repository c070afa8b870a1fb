"""One training loop for every stage: accelerate for device and precision, EMA, checkpoints that resume exactly.

A stage supplies `loss(model, rng, step)`. The random generator is seeded by (seed, step), so that a run that was
killed and started again sees the batches that an uninterrupted run would have seen.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ..precision import has_bfloat16
from .optimizer import muon_and_adamw

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)
Tensors = tuple[Tensor, ...] | list[Tensor]
Loss = Callable[[Model, np.random.Generator, int], tuple[Tensor, dict[str, float]]]


def default_device() -> torch.device:
    """Where `fit` trains: the accelerator that accelerate finds, else the CPU."""
    return PartialState().device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are, and its inputs belong."""
    return next(model.parameters()).device


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


def fit(
    name: str,
    model: Model,
    loss: Loss[Model],
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    seed: int = 0,
    warmup: int = 100,
    ema: float = 0.999,
    save_every: float = 60.0,
    muon: bool = False,
    on_step: Callable[[Model, int], None] | None = None,
) -> Model:
    """Train `model`'s trainable parameters for `steps` steps and return it with the averaged (EMA) weights.

    The optimizer is AdamW, or `muon`: Muon for the matrices, AdamW for the rest (for what trains from nothing).

    `checkpoint` is written every `save_every` seconds and removed by nobody: a second call continues from it, and
    returns at once when it holds a finished run. `on_step(averaged model, step)` runs after each step.
    """
    accelerator = Accelerator(mixed_precision="bf16" if has_bfloat16(default_device()) else "no")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if muon:
        optimizers = muon_and_adamw(parameters, learning_rate)
    else:
        optimizers = [torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_with_warmup(step, steps, warmup))
        for optimizer in optimizers
    ]
    model, *optimizers = accelerator.prepare(model, *optimizers)
    averaged = AveragedModel(model, multi_avg_fn=warm_average(ema))

    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        for part, stored in zip([*optimizers, *schedules], state["optimizers"] + state["schedules"], strict=True):
            part.load_state_dict(stored)
        first = state["step"]
        log.info("%s: continues at step %d of %d", name, first, steps)

    def save(step: int) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {
                "step": step,
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "schedules": [schedule.state_dict() for schedule in schedules],
            },
            partial,
        )
        partial.replace(checkpoint)  # never half a checkpoint, whenever the process is killed

    model.train()
    saved = time.monotonic()
    progress = tqdm(range(first, steps), desc=name, initial=first, total=steps, mininterval=2.0)
    shown: dict[str, float] = {}
    for step in progress:
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        with accelerator.autocast():
            value, figures = loss(model, rng, step)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for schedule in schedules:
            schedule.step()
        averaged.update_parameters(model)
        for key, figure in figures.items():
            shown[key] = 0.98 * shown.get(key, figure) + 0.02 * figure
        progress.set_postfix({key: f"{figure:.4g}" for key, figure in shown.items()}, refresh=False)
        if on_step is not None:
            on_step(cast(Model, averaged.module), step + 1)
        if time.monotonic() - saved > save_every:
            save(step + 1)
            saved = time.monotonic()
    if first < steps:
        save(steps)
    model.load_state_dict(averaged.module.state_dict())
    return accelerator.unwrap_model(model).eval()
