"""Real people's picks as an adapter is trained on them, and measured by: half of each person's prompts make their u,
the others are the queries; who is held out is measured on prompts that nobody trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders.encoder import PosteriorEncoder, Told
from ..encoders.posterior import fit_all_with_noise
from ..pair_index import LEAST_PAIRS, Array, index_pairs, split
from ..pairs import PreferencePair, caption_of
from ..pictures import Picture
from .latent_files import encoded
from .picks import QueryPicks
from .simulated_picks import SUPPORT_COUNTS, SUPPORTS

log = logging.getLogger(__name__)


def real_picks(
    pairs: Sequence[PreferencePair],
    encoder: PosteriorEncoder,
    latents_of: Callable[[Sequence[Picture]], Tensor],
    folder: Path,
    *,
    queries_of: Sequence[PreferencePair] | None = None,
    apart: frozenset[str] = frozenset(),
    seed: int = 0,
) -> QueryPicks | None:
    """Picks of all users with LEAST_PAIRS pairs or more; None where there is nobody. `latents_of` gives pictures'
    latents [n, C, ...], which `folder` keeps; ties only make u.

    A user's pairs are halved into those that make u and queries, or all make u where `queries_of` has the queries.
    What others are measured on, prompts and pictures `apart` (materials.py), is in no query.
    """
    rng = np.random.default_rng(seed)
    by_user, asked = _by_user(pairs), _by_user(queries_of or ())
    known = {user: own for user, own in by_user.items() if len(own) >= LEAST_PAIRS}
    if len(known) < len(by_user):
        log.info("Left out %d people with fewer than %d picks.", len(by_user) - len(known), LEAST_PAIRS)
    if not known:
        return None
    queries: list[PreferencePair] = []
    person: list[int] = []
    embeddings: list[Tensor] = []
    for user, own in known.items():
        support, query = _halves(own, rng) if queries_of is None else (own, asked.get(user, []))
        query = [pair for pair in query if not apart & {caption_of(pair), pair.chosen.digest, pair.rejected.digest}]
        if not query:  # all of its pictures are in the support, or apart
            continue
        person += [len(embeddings)] * len(query)
        embeddings.append(_embeddings(encoder.read(support), encoder, rng))
        queries += query
    if not queries:
        return None
    pictures = {side.digest: side for pair in queries for side in (pair.chosen, pair.rejected)}
    latents, rows = encoded(list(pictures.values()), latents_of, folder)
    place = dict(zip(pictures, rows.tolist(), strict=True))
    prompts = list(dict.fromkeys(pair.prompt for pair in queries))
    caption = {prompt: number for number, prompt in enumerate(prompts)}
    return QueryPicks(
        latents,
        person=np.array(person),
        chosen=np.array([place[pair.chosen.digest] for pair in queries]),
        rejected=np.array([place[pair.rejected.digest] for pair in queries]),
        caption=np.array([caption[pair.prompt] for pair in queries]),
        embeddings=torch.stack(embeddings, 1),
        population=encoder.prior.mean,
        prompts=tuple(prompts),
        certainty=torch.tensor([pair.outcome for pair in queries]),
    )


@dataclass(frozen=True)
class HeldOut:
    """Pairs of people whom training never sees: those that make their u, and `query` ones on prompts and pictures that
    training never sees either, to measure on."""

    support: list[PreferencePair]
    query: list[PreferencePair]


def people_in(path: Path, most: int) -> tuple[list[PreferencePair], HeldOut]:
    """Pairs of a set of many people, in two passes over it: those to train on, and held-out people's; at most `most`
    and a fifth of that, the first ones. Where none says whose it is, all are of one person: two exports are two."""
    index = index_pairs(path)
    parts = split(index)

    def first(wanted: Array, limit: int) -> Array:
        return wanted & (wanted.cumsum() <= limit)

    def pairs(wanted: Array) -> list[PreferencePair]:
        return [replace(pair, user=pair.user or str(path)) for _, pair in index.read(wanted)]

    measured = first((parts.support | parts.query) & parts.held_out, most // 5)
    return pairs(first(parts.train, most)), HeldOut(pairs(measured & parts.support), pairs(measured & parts.query))


def _by_user(pairs: Sequence[PreferencePair]) -> dict[str | None, list[PreferencePair]]:
    found: dict[str | None, list[PreferencePair]] = {}
    for pair in pairs:
        found.setdefault(pair.user, []).append(pair)
    return found


def _halves(
    pairs: Sequence[PreferencePair], rng: np.random.Generator
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Support and query, disjoint by prompt and picture; pairs of one prompt stay together, if there is another, and
    those of one choice in any case."""
    own = [pair.choice or str(number) for number, pair in enumerate(pairs)]
    names = [pair.prompt or name for pair, name in zip(pairs, own, strict=True)]
    groups: dict[str, list[PreferencePair]] = {}
    for name, pair in zip(names if len(set(names)) > 1 else own, pairs, strict=True):
        groups.setdefault(name, []).append(pair)
    support: list[PreferencePair] = []
    query: list[PreferencePair] = []
    every = list(groups.values())
    for number in rng.permutation(len(every)):
        group = every[number]
        (support if len(support) < len(pairs) / 2 else query).extend(group)
    seen = {side.digest for pair in support for side in (pair.chosen, pair.rejected)}
    return support, [p for p in query if not p.tie and not seen & {p.chosen.digest, p.rejected.digest}]


def _embeddings(told: Told, encoder: PosteriorEncoder, rng: np.random.Generator) -> Tensor:
    """u [S, d] from SUPPORTS draws of SUPPORT_COUNTS picks, or of all where there are fewer. A choice among several is
    one pick, with all that was not chosen."""
    _, choice = np.unique(told.choices.numpy(), return_inverse=True)
    draws: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(SUPPORTS):
        order = rng.permutation(choice.max() + 1)
        place = order.argsort()[choice]  # of each row's pick in the draw
        rows = place.argsort(kind="stable")
        draws += [(rows[: (place < count).sum()], place) for count in SUPPORT_COUNTS]
    longest = max(len(rows) for rows, _ in draws)
    used, weights = torch.zeros(len(draws), longest, dtype=torch.long), torch.zeros(len(draws), longest)
    choices = torch.arange(longest).repeat(len(draws), 1)
    for number, (rows, place) in enumerate(draws):
        used[number, : len(rows)] = torch.from_numpy(rows)
        weights[number, : len(rows)] = told.weights[rows]
        choices[number, : len(rows)] = torch.from_numpy(place[rows])
    prior = encoder.prior
    means, _, _ = fit_all_with_noise(
        told.differences[used], told.outcomes[used], weights, prior.mean.double(), prior.covariance.double(), choices
    )
    return means.float()
