"""What strength 1 of a trained adapter is: the least that simulated people want of what it learned.

Training goes on beyond what wins: the pocket models' pictures then leave the range of the base's, and win no more
(docs/benchmarks.md, "Strength 1").
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import UserAdapter
from ..encoders.encoder import PosteriorEncoder
from ..encoders.simulated import SimulatedPeople
from ..files import write_file
from ..messages import reason_of
from ..pictures import Picture
from .base import Base
from .distributed import gathered, processes, shared
from .picks import QueryPicks
from .runs import STRENGTH, read_json
from .simulated_picks import SUPPORT_COUNTS

log = logging.getLogger(__name__)

GAINS = (0.15, 0.25, 0.4, 0.6, 0.9)
"""The smallest is a floor: less may win as often, and would hardly be seen."""
FOUR = SUPPORT_COUNTS.index(4)
"""Which of the supports u is made of."""


def smallest_as_good(wins: Mapping[float, float], count: int) -> float:
    """The smallest gain whose share of wins, of `count`, is within one standard error of the most."""
    most = max(wins.values())
    error = (most * (1 - most) / count) ** 0.5
    return min(gain for gain, share in wins.items() if share >= most - error)


def wins_by_gain(
    base: Base,
    adapter: UserAdapter,
    people: SimulatedPeople,
    picks: QueryPicks,
    encoder: PosteriorEncoder,
    count: int,
    folder: Path,
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> dict[float, float] | None:
    """For each of GAINS, which share of `count` pictures the `people`, as their encoder reads pictures, prefer to the
    plain one of the same prompt and seed; u is of four of the people's `picks`, and prompts are those of their queries.
    None where a process has no memory to paint in.

    Processes share the pictures. What a gain wins is kept in the run's `folder`, and found there by the next start.
    `on_picture(done, of)` is called before each picture of this process.
    """
    here = processes()
    mine = range(here.process_index, count, here.num_processes)
    file, known_by = folder / STRENGTH, [_hash(adapter), count]
    told = shared(read_json(file) if here.is_main_process else {})
    wins = {float(gain): won for gain, won in told["wins"].items()} if told.get("of") == known_by else {}
    missing = [gain for gain in GAINS if gain not in wins]
    of, done = len(mine) * (1 + len(missing)), 0

    def rewards(scaled: UserAdapter | None) -> Tensor:
        nonlocal done
        pictures: list[Picture] = []
        for number in mine:
            on_picture(done, of)
            person, query = number % len(people), number // len(people)
            queries = picks.caption[picks.person == person]
            prompt = picks.prompts[queries[query % len(queries)]]
            u = None if scaled is None else picks.embeddings[FOUR, person][None]
            painted = base.paint(prompt, number, scaled, u)
            pictures.append(Picture.from_image(painted))
            done += 1
        return _liked(pictures, people.tastes[[number % len(people) for number in mine]], encoder)

    plain: Tensor | None = None
    for gain in missing:
        won: list[bool] | None = None
        try:
            plain = rewards(None) if plain is None else plain
            won = (rewards(adapter.scaled(gain)) > plain).tolist()
        except torch.OutOfMemoryError as error:  # which is no reason to lose what was trained
            log.warning("Strength 1 is all that was learned: it was not measured (%s).", reason_of(error))
        everybodys = gathered([won])
        if any(one is None for one in everybodys):
            return None
        found = list(chain.from_iterable(one for one in everybodys if one is not None))
        wins[gain] = sum(found) / len(found)
        if here.is_main_process:
            write_file(file, json.dumps({"of": known_by, "wins": wins}).encode())
    return wins


def _liked(pictures: Sequence[Picture], tastes: Tensor, encoder: PosteriorEncoder) -> Tensor:
    """How much each picture is liked by whom it was painted for, of `tastes` [n, d]: [n]."""
    if not pictures:  # more processes than pictures
        return torch.empty(0)
    return (encoder.prior.whiten(encoder.features.picture_features(pictures)).double() * tastes).sum(1)


def _hash(adapter: UserAdapter) -> str:
    total = sha256()
    for tensor in adapter.state_dict().values():
        total.update(tensor.float().cpu().numpy().tobytes())
    return total.hexdigest()
