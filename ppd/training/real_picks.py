"""Real people's picks as an adapter is trained on them: half of each person's prompts make their u, the others are the
queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..encoders.encoder import PosteriorEncoder
from ..pair_index import LEAST_PAIRS, Array, index_pairs, split
from ..pairs import PreferencePair
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
    seed: int = 0,
) -> QueryPicks | None:
    """Picks of all users with LEAST_PAIRS pairs or more; None where there is nobody. `latents_of` gives pictures'
    latents [n, C, ...], which `folder` keeps; ties only make u."""
    rng = np.random.default_rng(seed)
    by_user: dict[str | None, list[PreferencePair]] = {}
    for pair in pairs:
        by_user.setdefault(pair.user, []).append(pair)
    known = {user: own for user, own in by_user.items() if len(own) >= LEAST_PAIRS}
    if len(known) < len(by_user):
        log.info("Left out %d people with fewer than %d picks.", len(by_user) - len(known), LEAST_PAIRS)
    if not known:
        return None
    queries: list[PreferencePair] = []
    person: list[int] = []
    embeddings: list[Tensor] = []
    for own in known.values():
        support, query = _halves(own, rng)
        if not query:  # all of its pictures are in the support
            continue
        person += [len(embeddings)] * len(query)
        embeddings.append(_embeddings(support, encoder, rng))
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


def people_in(path: Path, most: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Pairs of a set of many people, in two passes over it: those to train on, and those of held-out people, to measure
    on; at most `most` and a fifth of that, the first ones."""
    index = index_pairs(path)
    parts = split(index)
    measuring = (parts.support | parts.query) & parts.held_out

    def pairs(wanted: Array, limit: int) -> list[PreferencePair]:
        return [pair for _, pair in index.read(wanted & (wanted.cumsum() <= limit))]

    return pairs(parts.train, most), pairs(measuring, most // 5)


def _halves(
    pairs: Sequence[PreferencePair], rng: np.random.Generator
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Support and query, disjoint by prompt and picture; pairs of one prompt stay together, if there is another."""
    groups: dict[str, list[PreferencePair]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.prompt or str(number), []).append(pair)
    if len(groups) == 1:
        groups = {str(number): [pair] for number, pair in enumerate(pairs)}
    support: list[PreferencePair] = []
    query: list[PreferencePair] = []
    every = list(groups.values())
    for number in rng.permutation(len(every)):
        group = every[number]
        (support if len(support) < len(pairs) / 2 else query).extend(group)
    seen = {side.digest for pair in support for side in (pair.chosen, pair.rejected)}
    return support, [p for p in query if not p.tie and not seen & {p.chosen.digest, p.rejected.digest}]


def _embeddings(support: Sequence[PreferencePair], encoder: PosteriorEncoder, rng: np.random.Generator) -> Tensor:
    """u [S, d] from SUPPORTS draws of SUPPORT_COUNTS pairs, or of all where there are fewer."""
    told = encoder.read(support)
    rows = []
    for _ in range(SUPPORTS):
        order = rng.permutation(len(told.differences))
        for count in SUPPORT_COUNTS:
            some = torch.from_numpy(order[:count])
            rows.append(
                encoder.encode_differences(told.differences[some], told.outcomes[some], told.weights[some]).u[0]
            )
    return torch.stack(rows)
