"""Training a user adapter of any kind for any denoiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..adapters import UserAdapter
from ..encoders.simulated import SimulatedPeople
from ..hosts.denoiser import Denoiser
from ..precision import autocast
from .distillation import Distillation, Sides, wordings
from .distributed import processes
from .dpo import diffusion_dpo_loss, rightness
from .loop import fit
from .objective import UserDPO
from .picks import QueryPicks
from .settings import Objective

WATCHED_PICKS, PICKS_OF_EACH = 128, 8


def train_adapter(
    denoiser: Denoiser,
    adapter: UserAdapter,
    picks: QueryPicks,
    checkpoint: Path,
    *,
    steps: int,
    objective: Objective,
    personal: bool = True,
    seed: int = 0,
    batch: int = 32,
    learning_rate: float = 1e-3,
    name: str = "adapter",
    fresh: bool = True,
    held_out: QueryPicks | None = None,
    **loop: Any,
) -> UserAdapter:
    """User-conditioned Diffusion-DPO of an adapter: `fresh` from the base, whatever its weights are, else from where it
    is. `loop`: what else `fit` takes, such as accumulate and progress.

    With `held_out` picks the weights are kept by which the implicit accuracy under one's own u exceeds that under
    another's the most. Not `personal`, everybody is the population user (ordinary Diffusion-DPO).
    """
    if fresh:
        begin(adapter, picks, seed)
    host, texts = denoiser.host(adapter), denoiser.text(picks.prompts)
    dpo = UserDPO(denoiser, host, picks, texts, objective, adapter.config.end_percent, personal)

    def loss(module: UserAdapter, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        return dpo.loss(rng, batch)

    def gap(averaged: UserAdapter, step: int) -> float:
        """How much more accurate one's own u is than another's, on fixed picks."""
        host.adapter = averaged
        own, other = own_and_other(watched, batch)
        host.adapter = adapter
        if processes().is_main_process:
            tqdm.write(f"{name} step {step}: accuracy own {own:.3f}, another's {other:.3f}")
        return own - other

    def report(averaged: UserAdapter, step: int) -> None:
        if personal and held_out is None and step % 100 == 0:
            gap(averaged, step)

    watched = dpo
    if held_out is not None:
        watched = replace(dpo, picks=held_out, texts=denoiser.text(held_out.prompts))
        loop["validate"] = gap
    with denoiser.plain_attention():
        trained = fit(
            name,
            adapter,
            loss,
            steps=steps,
            learning_rate=learning_rate,
            checkpoint=checkpoint,
            seed=seed,
            **{"warmup": 50, "ema": 0.99, "on_step": report, **loop},
        )
    summary = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "personal": personal,
        **objective.as_json(),
    }
    trained.config = replace(adapter.config, training={**adapter.config.training, **summary})
    return trained


def distil(
    denoiser: Denoiser,
    adapter: UserAdapter,
    picks: QueryPicks,
    people: SimulatedPeople,
    embeddings: Tensor,
    sides: Sides,
    checkpoint: Path,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 32,
    learning_rate: float = 1e-3,
    name: str = "distillation",
    **loop: Any,
) -> UserAdapter:
    """Self-distillation of an adapter from the base, for the simulated `people` of `picks` with their whole tastes as
    `embeddings` [P, d]; `loop` as above."""
    begin(adapter, picks, seed)
    host, texts = denoiser.host(adapter), denoiser.text(wordings(picks.prompts, sides))
    taught = Distillation(denoiser, host, picks, people, embeddings, texts, len(sides), adapter.config.end_percent)
    with denoiser.plain_attention():
        trained = fit(
            name,
            adapter,
            lambda module, rng, step: taught.loss(rng, batch),
            steps=steps,
            learning_rate=learning_rate,
            checkpoint=checkpoint,
            seed=seed,
            warmup=50,
            ema=0.99,
            **loop,
        )
    trained.config = replace(adapter.config, training={"distillation_steps": steps})
    return trained


def begin(adapter: UserAdapter, picks: QueryPicks, seed: int) -> None:
    """New weights: the base, ready for u of the size that the picks' people have."""
    torch.manual_seed(seed)
    adapter.reset_parameters()
    adapter.start_at(picks.embeddings.flatten(0, -2).pow(2).mean(0).sqrt())


def own_and_other(dpo: UserDPO, batch: int = WATCHED_PICKS) -> tuple[float, float]:
    """Implicit accuracy on fixed picks, noise and timesteps under one's own u, and under another's: their gap is what
    is personal. `batch` pairs fit into memory."""
    picks = dpo.picks
    count = min(WATCHED_PICKS, PICKS_OF_EACH * picks.people)
    index = np.random.default_rng(5).integers(len(picks), size=count)
    other = (picks.person[index] + np.random.default_rng(6).integers(1, picks.people, count)) % picks.people
    torch.manual_seed(5)
    rng, right = np.random.default_rng(7), []
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        users = [picks.embeddings[-1, person[part]] for person in (picks.person[index], other)]
        with torch.no_grad(), autocast(dpo.denoiser.device):
            noised = dpo.noised(rng, index[part])
            reference, found = dpo.reference(noised), [dpo.policy(noised, u) for u in users]
        logits = [diffusion_dpo_loss(*one.means, *reference.means, 1.0)[1] for one in found]
        right.append(torch.stack([rightness(one).cpu() for one in logits]))
    own, others = torch.cat(right, 1).mean(1).tolist()
    return own, others
