"""What strength 1 of a trained adapter is: the least that simulated people see in its pictures.

How far pictures go at what was learned depends on steps, learning rate and model: on one of the pocket models they left
the range of the base's, on the other they could hardly be told from these, and won as often as at any strength, since
wins tell no distance (docs/benchmarks.md, "Strength 1"). How surely somebody would pick the personal picture does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
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
from .settings import PICKED
from .simulated_picks import SUPPORT_COUNTS

log = logging.getLogger(__name__)

GAINS = (0.15, 0.25, 0.4, 0.6, 1.0, 1.6, 2.5, 4.0)
FOUR = SUPPORT_COUNTS.index(4)
"""Which of the supports u is made of."""


def share_picked(logits: Tensor) -> tuple[float, float]:
    """In which share of pairs people pick the personal picture, and its standard error, where they like it by logits
    [n] more than the plain one."""
    sure = torch.sigmoid(logits.double())
    return sure.mean().item(), sure.std(correction=0).item() / len(sure) ** 0.5


def strength_of(picked: Mapping[float, tuple[float, float]]) -> float:
    """The smallest gain at which the personal picture is PICKED, of shares with their standard errors; where none is,
    the smallest within one error of the most."""
    most, error = max(picked.values())
    least = PICKED if most >= PICKED else most - error
    return min(gain for gain, (share, _) in picked.items() if share >= least)


def picked_by_gain(
    base: Base,
    adapter: UserAdapter,
    people: SimulatedPeople,
    picks: QueryPicks,
    encoder: PosteriorEncoder,
    count: int,
    folder: Path,
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> dict[float, tuple[float, float]] | None:
    """For GAINS, up to the first that is PICKED, in which share of `count` pairs the `people`, as their encoder reads
    pictures, would pick the personal picture rather than the plain one of the same prompt and seed, with its standard
    error; u is of four of the people's `picks`, and prompts are those of their queries. None where a process has no
    memory to paint in.

    Processes share the pictures. What is found of a gain is kept in the run's `folder`, for the next start.
    `on_picture(done, of at most)` is called before each picture of this process.
    """
    here = processes()
    mine = range(here.process_index, count, here.num_processes)
    file, known_by = folder / STRENGTH, [_hash(adapter), count]
    told = shared(read_json(file) if here.is_main_process else {})
    kept = told["picked"] if told.get("of") == known_by else {}
    picked = {float(gain): (share, error) for gain, (share, error) in kept.items()}
    of, done = len(mine) * (1 + len(GAINS) - len(picked)), 0

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
    for gain in GAINS[len(picked) :]:
        if picked and max(picked.values())[0] >= PICKED:
            break
        liked: list[float] | None = None
        try:
            plain = rewards(None) if plain is None else plain
            liked = (rewards(adapter.scaled(gain)) - plain).tolist()
        except torch.OutOfMemoryError as error:  # which is no reason to lose what was trained
            log.warning("Strength 1 is all that was learned: it was not measured (%s).", reason_of(error))
        everybodys = gathered([liked])
        if any(one is None for one in everybodys):
            return None
        picked[gain] = share_picked(torch.tensor([logit for one in everybodys if one is not None for logit in one]))
        if here.is_main_process:
            write_file(file, json.dumps({"of": known_by, "picked": picked}).encode())
    return picked


def _liked(pictures: Sequence[Picture], tastes: Tensor, encoder: PosteriorEncoder) -> Tensor:
    """How much each picture is liked by whom it was painted for, of `tastes` [n, d], in logits: [n]."""
    if not pictures:  # more processes than pictures
        return torch.empty(0)
    return (encoder.prior.whiten(encoder.features.picture_features(pictures)).double() * tastes).sum(1)


def _hash(adapter: UserAdapter) -> str:
    total = sha256()
    for tensor in adapter.state_dict().values():
        total.update(tensor.float().cpu().numpy().tobytes())
    return total.hexdigest()
