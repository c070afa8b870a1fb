"""Pocket flow's turbo: a LoRA on the base that does in 4 steps at cfg 1 what the base does in 12 with guidance.

Trajectory distillation: from each of the four points of the schedule the base goes on with guidance, in three small
steps, and the LoRA learns the one straight step that ends there (as Song et al., arXiv 2303.01469, and Salimans and Ho,
arXiv 2202.00512, halve a teacher's steps). The next point is the teacher's at first, more and more the student's own
later, so that it learns to go on from where it really comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..lora import keyed, merge, write_lora
from ..training.loop import fit
from . import scenes
from .flow import FlowModel, velocity
from .look_words import styled_caption
from .painter import GUIDANCE

STEPS, SUBSTEPS = 4, 3
RANK = 8


class Lora(nn.Module):
    """Low-rank additions B A to the Linear layers of a transformer's blocks, but for the prompt's own MLPs, which say
    little of how a picture comes about: A [r, in], B [out, r], B = 0 at birth."""

    def __init__(self, denoiser: nn.Module, rank: int = RANK) -> None:
        super().__init__()
        layers = {
            name: module
            for name, module in denoiser.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("transformer_blocks.") and ".txt_mlp." not in name
        }
        self.names = list(layers)
        self.down = nn.ParameterList(torch.randn(rank, m.in_features) * m.in_features**-0.5 for m in layers.values())
        self.up = nn.ParameterList(torch.zeros(m.out_features, rank) for m in layers.values())

    @contextmanager
    def on(self, denoiser: nn.Module) -> Iterator[None]:
        """Within it the denoiser's layers have the additions."""

        def add(down: Tensor, up: Tensor) -> Any:
            return lambda _module, args, out: out + (args[0] @ down.T @ up.T).to(out.dtype)

        handles = [
            denoiser.get_submodule(name).register_forward_hook(add(down, up))
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def save(self, path: Path) -> None:
        """A LoRA file in half precision."""
        parts = zip(self.names, zip(self.down, self.up, strict=True), strict=True)
        write_lora(path, keyed(dict(parts)), "qwen_image")


def with_turbo(model: FlowModel, path: Path) -> FlowModel:
    """The model with a LoRA file merged into its denoiser: to be sampled in STEPS steps at guidance 1."""
    merge(model.denoiser, path)
    return model


def train_turbo(model: FlowModel, checkpoint: Path, steps: int, batch: int = 12, seed: int = 21) -> Lora:
    """Distil `model` into a LoRA on itself, on training captions, half of them with looks; resumes."""
    torch.manual_seed(seed)
    lora, denoiser = Lora(model.denoiser), model.denoiser
    coarse, fine = (model.scheduler(count).sigmas.tolist() for count in (STEPS, STEPS * SUBSTEPS))
    empty = model.text([""])

    @torch.no_grad()
    def teach(x: Tensor, segment: int, context: Tensor) -> Tensor:
        """Where the base, guided, goes from `x` in one segment of the schedule."""
        both = torch.cat([empty.expand(len(x), -1, -1), context])
        for i in range(segment * SUBSTEPS, (segment + 1) * SUBSTEPS):
            t = torch.full((2 * len(x),), fine[i], device=x.device)
            plain, prompted = velocity(denoiser, torch.cat([x, x]), t, both).float().chunk(2)
            x = x + (fine[i + 1] - fine[i]) * (plain + GUIDANCE * (prompted - plain))
        return x

    def loss(module: Lora, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        captions = rng.choice(scenes.TRAINING_CAPTIONS, batch)
        context = model.text([styled_caption(str(c), scenes.random_style(rng), rng) for c in captions])
        x = torch.randn(batch, 4, 16, 16, device=context.device)
        total = x.new_zeros(())
        for segment in range(STEPS):
            length = coarse[segment + 1] - coarse[segment]
            taught = teach(x, segment, context)
            with module.on(denoiser):
                found = velocity(denoiser, x, x.new_full((batch,), coarse[segment]), context).float()
            total = total + (found - (taught - x) / length).square().mean()
            own = torch.from_numpy(rng.random(batch) < step / steps).to(x.device)
            x = torch.where(own.view(-1, 1, 1, 1), x + length * found.detach(), taught)
        value = total / STEPS
        return value, {"mse": value.item()}

    return fit("turbo", lora, loss, steps=steps, learning_rate=2e-3, checkpoint=checkpoint, seed=seed, ema=0.99)
