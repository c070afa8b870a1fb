"""What an adapter is trained on and measured by, out of an artist's studies and their taste encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..encoders.encoder import PosteriorEncoder
from ..encoders.looks import Looks
from ..encoders.simulated import SIMULATED, SimulatedPeople, people_of
from ..pair_index import held_out, key_of
from ..pairs import folded
from ..studies import StudyPicture, StudySet
from .distillation import Sides
from .picks import QueryPicks
from .simulated_picks import LEAST_PROMPTS, simulated_picks

HELD_OUT = 0.2
"""Share of the prompts that training never sees, by their hashes, so that the next run holds out the same."""
WORDED_PROMPTS = 12
"""Prompts that distillation uses: with 85 looks they have 2,052 texts, which are all read before it begins."""
WATCHED_PEOPLE = 40
MEASURED_PEOPLE = 100
"""Simulated people whom training never sees."""


@dataclass(frozen=True)
class Materials:
    """`picks` of simulated `people` to train on, with the first prompts' wordings for each look (`sides`);
    `everybody`'s, of real people too; and picks of other simulated people on other prompts, None where these are too
    few: `watched` ones, of the people `watching`, to choose weights and strength by, and `held_out` ones to measure
    them, each on half of the prompts where these suffice. `apart` are the prompts of these two (`caption_of`'s words)
    and their pictures' digests, which real people may have picked among as well, and `taught` those of the others.
    """

    people: SimulatedPeople
    picks: QueryPicks
    sides: Sides
    everybody: QueryPicks
    watching: SimulatedPeople
    watched: QueryPicks | None
    held_out: QueryPicks | None
    apart: frozenset[str] = frozenset()
    taught: frozenset[str] = frozenset()


def gather(
    studies: StudySet,
    encoder: PosteriorEncoder,
    *,
    count: int = SIMULATED,
    measured: int = MEASURED_PEOPLE,
    seed: int = 0,
) -> Materials:
    """Studies as the encoder sees them, for `count` people to train on and `measured` others.

    ValueError where the studies have no latents, or the encoder none of their looks.
    """
    pictures = [picture for picture in studies.pictures if picture.latent_file is not None]
    if not pictures:
        raise ValueError(f"The studies {studies.name!r} hold no latents to train on: paint them with Paint Studies.")
    looks = _looks(studies, encoder)
    features = encoder.features.picture_features([picture.picture for picture in pictures])
    prompts = list(dict.fromkeys(picture.prompt for picture in pictures))
    is_apart = held_out(np.array([key_of(folded(prompt)) for prompt in prompts], np.uint64), HELD_OUT)
    taught, apart = ([prompts[n] for n in np.flatnonzero(which)] for which in (~is_apart, is_apart))
    sizes = (count, WATCHED_PEOPLE, measured)
    people, watched, others = (
        people_of(encoder.prior, looks.readings, size, seed=3 * seed + n) for n, size in enumerate(sizes)
    )

    def picks(of: SimulatedPeople, wanted: list[str]) -> QueryPicks:
        chosen = [number for number, picture in enumerate(pictures) if picture.prompt in set(wanted)]
        shown = [pictures[number] for number in chosen]
        caption = np.array([wanted.index(picture.prompt) for picture in shown])
        return simulated_picks(of, features[chosen], *_latents(shown), caption, wanted, encoder.prior, seed=seed)

    known = [studies.looks[name] for name in looks.names]
    sides = [[(look.low.on(prompt), look.high.on(prompt)) for look in known] for prompt in taught[:WORDED_PROMPTS]]
    own = picks(people, taught)
    if len(apart) >= 2 * LEAST_PROMPTS:  # weights are not chosen by the prompts that they are measured on
        chosen_by, measured_by = apart[::2], apart[1::2]
    else:
        chosen_by = measured_by = apart if len(apart) >= LEAST_PROMPTS else []
    by_watched, by_others = (
        picks(of, wanted) if wanted else None for of, wanted in ((watched, chosen_by), (others, measured_by))
    )
    seen, unseen = (_marks(pictures, of) for of in (taught, apart))
    return Materials(people, own, sides, own, watched, by_watched, by_others, unseen, seen)


def _marks(pictures: list[StudyPicture], prompts: list[str]) -> frozenset[str]:
    """By which prompts, in `caption_of`'s words, and their pictures' digests are known again."""
    digests = {picture.picture.digest for picture in pictures if picture.prompt in set(prompts)}
    return frozenset(digests.union(map(folded, prompts)))


def _looks(studies: StudySet, encoder: PosteriorEncoder) -> Looks:
    looks = encoder.looks
    if looks is None or not set(looks.names) <= set(studies.looks):
        raise ValueError(
            f"The taste encoder was not made of the studies {studies.name!r}, whose looks simulated people are to "
            "like: make it of them with Make Taste Encoder."
        )
    return looks


def _latents(pictures: list[StudyPicture]) -> tuple[Tensor, Tensor | None]:
    """Latents [n, C, ...] in half precision, and the noise they were painted from, where it is known of all."""
    latents = torch.cat([picture.latent().half() for picture in pictures])
    noise = [picture.noise() for picture in pictures]
    known = [one for one in noise if one is not None]
    return latents, torch.cat(known).half() if len(known) == len(pictures) else None
