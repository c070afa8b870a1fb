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
from ..files import write_file
from ..pair_index import LEAST_PAIRS, Array, PairIndex, index_pairs, sentence, split
from ..pairs import PreferencePair, caption_of, counted, disjoint, read_pairs
from ..pictures import Picture, PreferenceError
from .distributed import own_share, processes
from .latent_files import encoded
from .picks import QueryPicks
from .rows import Stacked
from .simulated_picks import SUPPORT_COUNTS, SUPPORTS

log = logging.getLogger(__name__)

Filing = Callable[[PreferencePair], PreferencePair]


def real_picks(
    pairs: Sequence[PreferencePair],
    encoder: PosteriorEncoder,
    latents_of: Callable[[Sequence[Picture]], Tensor],
    folder: Path,
    *,
    queries_of: Sequence[PreferencePair] | None = None,
    apart: frozenset[str] = frozenset(),
    on_person: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> QueryPicks | None:
    """Picks of all users with LEAST_PAIRS pairs or more; None where there is nobody. `latents_of` gives pictures'
    latents [n, C, ...], which `folder` keeps; ties only make u.

    A user's pairs are halved into those that make u and queries, or all make u where `queries_of` has the queries.
    Prompts and pictures `apart` (materials.py) are in no query: what others are measured on, or were trained on.
    `on_person` is called before somebody's pictures are read.
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
    bad: list[PreferenceError] = []
    for user, own in known.items():
        support, query = _halves(own, rng) if queries_of is None else (own, asked.get(user, []))
        query = [pair for pair in query if not apart & {caption_of(pair), pair.chosen.digest, pair.rejected.digest}]
        if not query:  # all of its pictures are in the support, or apart
            continue
        on_person()
        told = encoder.read(support, on_bad="skip", skipped=bad)
        if not len(told.outcomes):
            continue
        person += [len(embeddings)] * len(query)
        embeddings.append(_embeddings(told, encoder, rng))
        queries += query
    latents, places, good = _latents(queries, latents_of, folder, bad)
    if bad:
        log.warning("Left out %s whose pictures cannot be read.", counted(len(bad), "pair"))
    if not good.any():
        if bad and queries_of is None:
            raise ValueError(f"No pair is left to train on, since pictures cannot be read. The first one: {bad[0]}")
        return None
    queries = [queries[number] for number in np.flatnonzero(good)]
    people, numbers = np.unique(np.array(person)[good], return_inverse=True)
    prompts = list(dict.fromkeys(pair.prompt for pair in queries))
    caption = {prompt: number for number, prompt in enumerate(prompts)}
    return QueryPicks(
        latents,
        person=numbers,
        chosen=places[good, 0],
        rejected=places[good, 1],
        caption=np.array([caption[pair.prompt] for pair in queries]),
        embeddings=torch.stack([embeddings[one] for one in people], 1),
        population=encoder.prior.mean,
        prompts=tuple(prompts),
        certainty=torch.tensor([pair.outcome for pair in queries]),
    )


def _latents(
    pairs: Sequence[PreferencePair],
    latents_of: Callable[[Sequence[Picture]], Tensor],
    folder: Path,
    bad: list[PreferenceError],
) -> tuple[Stacked, np.ndarray, np.ndarray]:
    """Latents of n pairs' pictures, the rows [n, 2] of chosen and rejected ones, and which pairs [n] have both; the
    others are logged and put in `bad`."""
    pictures = {side.digest: side for pair in pairs for side in (pair.chosen, pair.rejected)}
    broken: dict[str, PreferenceError] = {}
    latents, rows = encoded(list(pictures.values()), latents_of, folder, broken=broken)
    place = dict(zip(pictures, rows.tolist(), strict=True))
    places = np.array([[place[side.digest] for side in (pair.chosen, pair.rejected)] for pair in pairs])
    places = places.reshape(-1, 2).astype(np.int64)  # also of no pairs
    for pair in pairs:
        role = "chosen" if pair.chosen.digest in broken else "rejected"
        error = broken.get(getattr(pair, role).digest)
        if error is not None:
            bad.append(pair.error(role, error))
            log.warning("Skipped: %s", bad[-1])
    return latents, places, places.min(1, initial=0) >= 0


@dataclass(frozen=True)
class HeldOut:
    """Pairs of people whom training never sees: those that make their u, and `query` ones on prompts and pictures that
    training never sees either, to measure on."""

    support: list[PreferencePair]
    query: list[PreferencePair]


def pairs_in(
    paths: Sequence[Path],
    most: int,
    folder: Path,
    *,
    solo: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[PreferencePair], HeldOut]:
    """Pairs to train on, and held-out people's: of each set of many people at most `most` and a fifth of that, the
    first ones, and of one person's sets (`solo`) all. Pictures that are no files are kept as such in `folder`, since
    those of a large set fit into no memory. `progress(rows so far)` may raise to cancel.

    Who trains by one set is measured by none, and on nothing that trains.
    """
    taught: list[PreferencePair] = []
    measured = HeldOut([], [])
    as_files = _filing(folder)
    for path in paths:
        if solo:
            taught += map(as_files, read_pairs(path, skip_bad=True, progress=progress))
        else:
            own, others = _people_in(path, most, as_files, progress)
            taught += own
            measured.support.extend(others.support)
            measured.query.extend(others.query)
    processes().wait_for_everyone()  # each has written its share of the pictures
    trains = {pair.user for pair in taught}
    support, query = ([pair for pair in one if pair.user not in trains] for one in (measured.support, measured.query))
    return taught, HeldOut(support, disjoint(taught, query))


def _people_in(
    path: Path, most: int, as_files: Filing, progress: Callable[[int], None] | None
) -> tuple[list[PreferencePair], HeldOut]:
    """Of one set, in two passes over it. Where none says whose it is, all are of one person: two exports are two."""
    index = index_pairs(path, progress=progress)
    parts = split(index)
    if not _has_people(index, parts.train):  # such as one person's picks: who is there trains
        parts = split(index, users=0.0, prompts=0.0, pictures=0.0)

    def first(wanted: Array, limit: int) -> Array:
        return wanted & (wanted.cumsum() <= limit)

    measured = first((parts.support | parts.query) & parts.held_out, most // 5)
    parts = replace(
        parts, train=first(parts.train, most), support=measured & parts.support, query=measured & parts.query
    )
    log.info("%s: %s", path.name, sentence(index, parts))
    taught: list[PreferencePair] = []
    others = HeldOut([], [])
    for place, pair in index.read(parts.train | parts.support | parts.query, progress=progress):
        part = taught if parts.train[place] else others.support if parts.support[place] else others.query
        part.append(replace(as_files(pair), user=pair.user or str(path)))
    return taught, others


def _filing(folder: Path) -> Filing:
    """Gives a pair pictures that are files, of which each process writes its share."""
    is_own = own_share()

    def kept(picture: Picture) -> Picture:
        if picture.data is None:
            return picture
        path = folder / picture.digest
        if is_own(picture.digest) and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, picture.data)
        return Picture(path)

    return lambda pair: replace(pair, chosen=kept(pair.chosen), rejected=kept(pair.rejected))


def _has_people(index: PairIndex, wanted: Array) -> bool:
    """Whether anybody has pairs enough among the wanted ones."""
    return bool((np.unique(index.users[wanted], return_counts=True)[1] >= LEAST_PAIRS).any())


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
