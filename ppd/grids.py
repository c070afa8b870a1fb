"""Asking which of several pictures is best: a choice among n tells more than a pick of two (Plackett-Luce, position 1).

A person of taste theta takes picture k with probability softmax(x theta)_k, x [n, d] the pictures' features over the
noise. What the choice is expected to tell is its mutual information with theta (BALD, Houlsby et al. 2011, arXiv
1112.5745), by draws of theta; sets are grown greedily, as in BatchBALD (Kirsch et al. 2019, arXiv 1906.08158), whose
information is submodular. A picture like another one, and one that is surely the worst, adds nothing and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from .encoders.posterior import root_of
from .questions import Interview
from .store import TasteStore
from .user_embedding import UserEmbedding

SIZES = (4, 9)
"""How many pictures a grid may have."""
LEAST = 3
"""Fewer are an ordinary question."""
DRAWS = 256
"""Of theta, always the same ones, so that the same picks make the same grid."""
MOST_PICTURES = 40
"""Of one prompt, the newest, that a grid is chosen from."""
LOOKED_THROUGH = 200
"""Open and decided candidates, the newest of each."""
MOST_PROMPTS = 6
"""With enough pictures, those with the newest, that are weighed against each other."""


def choice_information(values: Tensor) -> Tensor:
    """Mutual information in bits [...] of a choice among n and theta, by the log-odds `values` [..., n, draws] of each
    picture in each draw."""
    p = torch.softmax(values, -2)
    return _bits(p.mean(-1), -1) - _bits(p, -2).mean(-1)


def most_telling_choice(x: Tensor, mean: Tensor, covariance: Tensor, size: int) -> tuple[list[int], float]:
    """The rows of at most `size` pictures x [n, d] to choose the best from, and the bits expected of that; theta is
    N(mean [d], covariance [d, d])."""
    draws = torch.randn(DRAWS, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = x.double() @ (mean.double() + draws @ root_of(covariance).T).T
    n = len(values)
    if n < 2:
        return list(range(n)), 0.0
    pairs = torch.combinations(torch.arange(n))
    found = choice_information(values[pairs])
    chosen, best = pairs[int(found.argmax())].tolist(), float(found.max())
    while len(chosen) < min(size, n):
        rest = [row for row in range(n) if row not in chosen]
        grown = torch.tensor([[*chosen, row] for row in rest])
        gained = choice_information(values[grown])
        if float(gained.max()) <= best:
            break
        chosen, best = grown[int(gained.argmax())].tolist(), float(gained.max())
    return chosen, best


def grid(
    interview: Interview, person: str, embedding: UserEmbedding, size: int, passed: Collection[frozenset[str]] = ()
) -> tuple[str, list[str]] | None:
    """A prompt and the hashes of the pictures of it that tell most when the best of `size` is chosen; None where no
    prompt has LEAST that could still be the best.

    A picture that lost to another, or was as good, is not asked again, nor a grid that was `passed` over.
    """
    assert embedding.covariance is not None
    found: list[tuple[float, str, list[str]]] = []
    for prompt, digests in _by_prompt(interview.store, person):
        seen = interview.look(set(digests)) if len(digests) >= LEAST else {}
        if len(seen) < LEAST:
            continue
        left = [digest for digest in digests if digest in seen]
        x = torch.stack([seen[digest] for digest in left]) / embedding.noise
        rows, bits = most_telling_choice(x, embedding.u[0], embedding.covariance, size)
        chosen = sorted(left[row] for row in rows)  # by hash, so that no place says anything
        if len(chosen) >= LEAST and frozenset(chosen) not in passed:
            found.append((bits, prompt, chosen))
        if len(found) == MOST_PROMPTS:
            break
    return max(found)[1:] if found else None


def _by_prompt(store: TasteStore, person: str) -> list[tuple[str, list[str]]]:
    """The pictures of each prompt that may be the best of it, at most MOST_PICTURES; newest prompts and pictures
    first."""
    pictures: dict[str, dict[str, None]] = {}
    beaten: set[tuple[str, str]] = set()
    for one in (*store.inbox(person, limit=LOOKED_THROUGH), *store.history(person, limit=LOOKED_THROUGH)):
        both = (one.second, one.first)
        if one.verdict is not None:
            losers = {"first": both[:1], "second": both[1:]}.get(one.verdict, both)
            beaten.update((one.prompt, digest) for digest in losers)
        pictures.setdefault(one.prompt, {}).update(dict.fromkeys(both))
    kept = store.latest_picture(person)  # the odd one of a batch, which no pair has
    if kept is not None:
        pictures[kept.prompt] = {kept.digest: None} | pictures.get(kept.prompt, {})
    return [
        (prompt, [digest for digest in digests if (prompt, digest) not in beaten][:MOST_PICTURES])
        for prompt, digests in pictures.items()
    ]


def _bits(p: Tensor, dim: int) -> Tensor:
    return -torch.special.xlogy(p, p).sum(dim) / math.log(2)
