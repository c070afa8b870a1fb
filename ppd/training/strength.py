"""What strength 1 of a trained adapter is: the least that simulated people want of what it learned.

Training goes on beyond what wins: on pocket flow .9 of what 480 steps learned wins no more than .15 of it, and takes
half of the pictures out of the range of the base's (docs/benchmarks.md). The shipped adapters' strength is set by the
same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from ..adapters import UserAdapter
from ..encoders.encoder import PosteriorEncoder
from ..encoders.simulated import SimulatedPeople
from ..pictures import Picture
from .base import Base
from .picks import QueryPicks
from .simulated_picks import SUPPORT_COUNTS

GAINS = (0.15, 0.25, 0.4, 0.6, 0.9)
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
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> dict[float, float]:
    """For each of GAINS, which share of `count` pictures the `people`, as their encoder reads pictures, prefer to the
    plain one of the same prompt and seed; u is of four of the people's `picks`. `on_picture(done, of)` is called before
    each picture."""
    of, done = count * (1 + len(GAINS)), 0

    def rewards(scaled: UserAdapter | None) -> Tensor:
        nonlocal done
        pictures: list[Image.Image] = []
        for number in range(count):
            on_picture(done, of)
            prompt, u = picks.prompts[number % len(picks.prompts)], picks.embeddings[FOUR, number % len(people)][None]
            pictures.append(base.paint(prompt, number, scaled, None if scaled is None else u))
            done += 1
        return _liked(pictures, people, encoder)

    plain = rewards(None)
    return {gain: (rewards(adapter.scaled(gain)) > plain).double().mean().item() for gain in GAINS}


def _liked(pictures: Sequence[Image.Image], people: SimulatedPeople, encoder: PosteriorEncoder) -> Tensor:
    """How much each picture is liked by the one of the people, in turn, whom it was painted for: [n]."""
    features = encoder.features.picture_features([Picture.from_image(picture) for picture in pictures])
    tastes = people.tastes[torch.arange(len(pictures)) % len(people)]
    return (encoder.prior.whiten(features).double() * tastes).sum(1)
