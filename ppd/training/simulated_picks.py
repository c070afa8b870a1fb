"""Picks of simulated people among pictures that the checkpoint painted: what an adapter is trained on where nobody's
real picks are at hand, and beside them where some are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..encoders.population import PopulationPrior
from ..encoders.posterior import fit_posteriors
from ..encoders.simulated import SimulatedPeople
from .picks import QueryPicks

LEAST_PROMPTS = 4
QUERIES = 48
"""Picks of each person that the adapter is trained on."""
SUPPORT_COUNTS = (1, 2, 4, 8, 16)
SUPPORTS = 3
"""Supports of each count for each person."""


def simulated_picks(
    people: SimulatedPeople,
    features: Tensor,
    latents: Tensor,
    noise: Tensor | None,
    caption: np.ndarray,
    prompts: Sequence[str],
    prior: PopulationPrior,
    *,
    seed: int = 0,
) -> QueryPicks:
    """What `people` pick among pictures with tower `features` [n, f], `latents` [n, C, ...], the `noise` they were
    painted from, and `caption` [n], which one of `prompts` each shows.

    Both pictures of a pair show one prompt. Half of the prompts, drawn for each person, make the person's u, the other
    half are the queries, so that both are disjoint by picture and prompt.
    """
    rng = np.random.default_rng(seed)
    phi = prior.whiten(features)
    scores = (phi.double() @ people.tastes.T).T.float()
    shown = [np.flatnonzero(caption == number) for number in range(len(prompts))]
    usable = np.flatnonzero([len(pictures) >= 2 for pictures in shown])
    if len(usable) < LEAST_PROMPTS:
        raise ValueError(
            f"Expected at least {LEAST_PROMPTS} prompts with two pictures or more to train on, got {len(usable)}: "
            "paint more studies."
        )
    most, half = max(SUPPORT_COUNTS), len(usable) // 2
    support = np.empty((len(people), SUPPORTS, most, 2), np.int64)
    query, captions = np.empty((len(people), QUERIES, 2), np.int64), np.empty((len(people), QUERIES), np.int64)
    for one in range(len(people)):
        order = rng.permutation(usable)
        for number in range(SUPPORTS):
            support[one, number] = _pairs(shown, np.resize(rng.permutation(order[:half]), most), rng)
        captions[one] = rng.choice(order[half:], QUERIES)
        query[one] = _pairs(shown, captions[one], rng)
    person = np.arange(len(people)).repeat(QUERIES)
    pairs = _picked(scores, person, query.reshape(-1, 2), rng)
    return QueryPicks(
        latents,
        person=person,
        chosen=pairs[:, 0],
        rejected=pairs[:, 1],
        caption=captions.reshape(-1),
        embeddings=torch.cat([_embeddings(phi, scores, support[:, i], prior, rng) for i in range(SUPPORTS)]),
        population=prior.mean,
        prompts=tuple(prompts),
        noise=noise,
        scores=scores,
        shows=caption,
    )


def _pairs(shown: Sequence[np.ndarray], captions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each caption two different pictures of it [n, 2]."""
    return np.array([rng.choice(shown[caption], 2, replace=False) for caption in captions])


def _picked(scores: Tensor, person: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs [n, 2] with what each person picked first."""
    of, both = torch.from_numpy(person)[:, None], torch.from_numpy(pairs)
    logits = scores[of, both]
    first = rng.random(len(pairs)) < torch.sigmoid(logits[:, 0] - logits[:, 1]).numpy()
    return np.where(first[:, None], pairs, pairs[:, ::-1])


def _embeddings(
    phi: Tensor, scores: Tensor, pairs: np.ndarray, prior: PopulationPrior, rng: np.random.Generator
) -> Tensor:
    """u [counts, P, d] from the first so many of everybody's support pairs [P, most, 2]."""
    people, most, _ = pairs.shape
    picked = _picked(scores, np.arange(people).repeat(most), pairs.reshape(-1, 2), rng).reshape(people, most, 2)
    x = (phi[picked[..., 0]] - phi[picked[..., 1]]) / prior.noise
    ones = torch.ones(people, most)
    return torch.stack(
        [
            fit_posteriors(x[:, :count], ones[:, :count], ones[:, :count], prior.mean, prior.covariance)[0].float()
            for count in SUPPORT_COUNTS
        ]
    )
