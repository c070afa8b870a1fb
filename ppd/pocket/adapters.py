"""Training a pocket's user adapter (one for all people) and the population adapter (one taste for all) with DPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig, UserAdapter
from ..hosts.diffusers import cross_attentions, linear_sites
from ..precision import autocast
from ..training import fit
from ..training.dpo import denoising_error, diffusion_dpo_loss
from . import scenes
from .painter import Painter

BETA = 600.0
"""On mean errors of 1,024 latent elements: about .6 per element."""

USER_DROPOUT = 0.1
WATCHED_PICKS = 64


@dataclass(frozen=True)
class Picks:
    """Query picks of all training people: latents [n, 4, 16, 16] of the pictures, and per pick [k] the person, the two
    pictures and the caption. `embeddings` [S, P, d] holds u of each person from S different supports."""

    latents: Tensor
    person: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    caption: np.ndarray
    embeddings: Tensor
    population: Tensor


def keys_values(model: Painter, **config: Any) -> CrossAttentionAdapter:
    """A new adapter of a U-Net's cross-attention; `config`: encoder, encoder_hash and embedding_dim of its u, and
    end_percent of the part of the noise schedule that it is trained for and acts in."""
    layers = tuple(attention.inner_dim for attention in cross_attentions(model.denoiser))
    return CrossAttentionAdapter(CrossAttentionConfig(family=model.family, layers=layers, **config))


def low_rank(model: Painter, **config: Any) -> LowRankAdapter:
    """A new adapter of any denoiser's Linear layers; `config` as above."""
    return LowRankAdapter(LowRankConfig(family=model.family, sites=tuple(linear_sites(model.denoiser)), **config))


def pair_errors(model: Painter, latents: Tensor, noise: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Denoising errors of chosen and rejected latents [2B, 4, 16, 16] (chosen first) under one noise and timestep."""
    noise, t = torch.cat([noise, noise]), torch.cat([t, t])
    predicted = model.predict(model.noised(latents, noise, t), t, context)
    chosen, rejected = denoising_error(predicted, model.target(latents, noise, t)).chunk(2)
    return chosen, rejected


def train_adapter(
    model: Painter,
    adapter: UserAdapter,
    picks: Picks,
    checkpoint: Path,
    *,
    steps: int,
    personal: bool,
    seed: int,
    batch: int = 32,
    learning_rate: float = 1e-3,
    beta: float = BETA,
    name: str = "adapter",
) -> UserAdapter:
    """User-conditioned Diffusion-DPO of an adapter of any kind, from the base, whatever its weights are.

    Not `personal`, everybody is the population user (ordinary Diffusion-DPO).
    """
    torch.manual_seed(seed)
    adapter.reset_parameters()
    adapter.start_at(picks.embeddings.flatten(0, -2).pow(2).mean(0).sqrt())
    host, end = model.host(adapter), adapter.config.end_percent
    contexts = model.text([scene.caption for scene in scenes.SCENES])
    device = model.device

    def errors(rng: np.random.Generator, index: np.ndarray, u: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(chosen, rejected) errors of the reference, then of the policy under each of `u` [B, d]."""
        latents = picks.latents[np.concatenate([picks.chosen[index], picks.rejected[index]])].to(device)
        context = contexts[picks.caption[index]].repeat(2, 1, 1)
        noise = torch.randn(len(index), *latents.shape[1:]).to(device)
        t = model.draw_timesteps(rng, len(index), end).to(device)
        with torch.no_grad():
            results = [pair_errors(model, latents, noise, t, context)]
        for user in u:
            with host.personalized(user[:, None].repeat(2, 1, 1)):
                results.append(pair_errors(model, latents, noise, t, context))
        return results

    def loss(module: UserAdapter, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(len(picks.person), size=batch)
        support = rng.integers(len(picks.embeddings), size=batch)
        u = picks.embeddings[support, picks.person[index]]
        dropped = torch.ones(batch, dtype=torch.bool)
        if personal:
            dropped = torch.from_numpy(rng.random(batch) < USER_DROPOUT)
        u = torch.where(dropped[:, None], picks.population, u)
        reference, policy = errors(rng, index, [u])
        value, logits = diffusion_dpo_loss(*policy, *reference, beta)
        return value.mean(), {"loss": value.mean().item(), "accuracy": (logits > 0).float().mean().item()}

    watched = np.random.default_rng(5).integers(len(picks.person), size=WATCHED_PICKS)
    everybody = picks.embeddings.shape[1]
    other = (picks.person[watched] + np.random.default_rng(6).integers(1, everybody, WATCHED_PICKS)) % everybody

    def report(averaged: UserAdapter, step: int) -> None:
        """For the log: accuracy on fixed picks, noise and timesteps with one's own and with another's u.

        The gap is what is personal.
        """
        if not personal or step % 100:
            return
        host.adapter = averaged
        torch.manual_seed(5)
        own_u, other_u = (picks.embeddings[-1, person] for person in (picks.person[watched], other))
        with torch.no_grad(), autocast(device):
            reference, own, shuffled = errors(np.random.default_rng(7), watched, [own_u, other_u])
        right = [(diffusion_dpo_loss(*p, *reference, beta)[1] > 0).float().mean().item() for p in (own, shuffled)]
        tqdm.write(f"{name} step {step}: accuracy own {right[0]:.3f}, another's {right[1]:.3f}")
        host.adapter = adapter

    with model.plain_attention():
        trained = fit(
            name,
            adapter,
            loss,
            steps=steps,
            learning_rate=learning_rate,
            checkpoint=checkpoint,
            seed=seed,
            warmup=50,
            ema=0.99,
            on_step=report,
        )
    summary = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "beta": beta,
        "seed": seed,
        "personal": personal,
    }
    trained.config = replace(adapter.config, training=summary)
    return trained
