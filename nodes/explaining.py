"""Explain Taste and Turn One Look: why something is said of somebody, and what the look does to a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..ppd.encoders.encoder import PosteriorEncoder, TasteEncoder, Told
from ..ppd.encoders.looks import Looks
from ..ppd.explain.influence import answers_of
from ..ppd.explain.report import Explanation, WhatIf, explain, in_words, share, what_if, what_if_in_words
from ..ppd.explain.turning import strip, turned
from ..ppd.messages import listed, quoted
from ..ppd.moodboard import LOVED
from ..ppd.pairs import PreferencePair
from ..ppd.pictures import PreferenceError
from ..ppd.sheet import contact_sheet
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import whose
from .encoders import encoder_digest, encoder_folder, load_encoder, reader_of, taste_encoders
from .sockets import CATEGORY, PreferencePairs, UserEmbedding, one_person

CELL = 192
"""Pixels of a picture on the sheet."""


class PPD_ExplainTaste(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_ExplainTaste",
            display_name="Explain Taste",
            category=CATEGORY,
            description="Influence of each pick on a taste: for each look which picks say so and which speak against "
            "it, what another answer would have changed, and whether the taste has drifted over time.",
            search_aliases=["explain", "why", "influence", "what if", "drift", "taste", "report"],
            inputs=[
                PreferencePairs.Input("pairs", optional=True, tooltip="The person's picks."),
                io.Combo.Input(
                    "encoder",
                    options=taste_encoders(),
                    tooltip="Taste encoder that reads the pictures and names the looks.",
                ),
                io.Int.Input(
                    "what_if",
                    default=0,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip="Counterfactual: the number of a pick in the report, to see what would change if the other "
                    "picture had been picked. 0 for none.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Each look, how sure it is, and the picks behind it."),
                io.String.Output(display_name="json", tooltip="The same with all numbers, for other programs."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="A row for each look: the picks that say so most, the preferred picture on the left.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, encoder: str, **constants: Any) -> str:
        return encoder_digest(encoder)

    @classmethod
    def execute(cls, encoder: str, what_if: int = 0, pairs: list[PreferencePair] | None = None) -> io.NodeOutput:
        reader, skipped = load_encoder(encoder), list[PreferenceError]()
        looks = looks_of(encoder, reader.looks)
        kept, told = readable(reader, pairs or [], skipped, whose.progress(2 * len(pairs or [])))
        found = explanation(reader, looks, kept, told)
        lines, values = in_words(found), asdict(found)
        if what_if:
            row, other = what_if_of(reader, looks, told, what_if - 1)
            lines += what_if_in_words(other, what_if - 1)
            values["what_if"] = {"pick": what_if, "id": kept[row].id, **asdict(other)}
        if skipped:
            lines += [f"Left out {len(skipped)}:", *listed(skipped)]
        report = "\n".join(lines)
        return io.NodeOutput(report, json.dumps(values, indent=1), sheet(kept, found), ui=ui.PreviewText(report))


class PPD_TurnLook(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TurnLook",
            display_name="Turn One Look",
            category=CATEGORY,
            description="Counterfactual strip: the same person several times, with one look turned from less to more "
            "and the rest of their taste as it is. Every node connected after this one runs once for each.",
            search_aliases=["counterfactual", "slider", "strip", "look", "what if", "sweep", "taste"],
            inputs=[
                UserEmbedding.Input("user_embedding", optional=True, tooltip="User embedding of one person."),
                io.Combo.Input(
                    "look", options=looks_here(), tooltip="The look to turn, one that the person's taste encoder names."
                ),
                io.Float.Input(
                    "reach",
                    default=2.0,
                    min=0.1,
                    max=6.0,
                    step=0.1,
                    optional=True,
                    tooltip="How far to either side, in standard deviations over people. Far beyond 2 pictures break.",
                ),
                io.Int.Input(
                    "pictures",
                    default=5,
                    min=2,
                    max=25,
                    optional=True,
                    tooltip="Number of steps from less to more. With an odd number the middle one is the person "
                    "unchanged.",
                ),
            ],
            outputs=[
                UserEmbedding.Output(
                    display_name="user_embedding", is_output_list=True, tooltip="The person once for each step, a list."
                ),
                io.String.Output(display_name="report", tooltip="Which look was turned, and how far."),
            ],
        )

    @classmethod
    def validate_inputs(cls, look: str | None = None) -> bool | str:
        """The person's encoder decides which looks there are, when the node runs."""
        return True

    @classmethod
    def execute(
        cls,
        look: str,
        reach: float = 2.0,
        pictures: int = 5,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
    ) -> io.NodeOutput:
        amounts = strip(reach, pictures)
        if user_embedding is None:  # a node before is bypassed: nobody's taste, and pictures stay plain
            report = "Nobody's taste is connected, so there is nothing to turn."
            return io.NodeOutput([None], report, ui=ui.PreviewText(report))
        person = one_person(user_embedding, "turn a look of")
        name = reader_of(person)
        if name is None:
            raise ValueError(
                f"The person was read by the taste encoder {person.encoder}, which is not here: put its folder into "
                "models/taste_encoders."
            )
        encoder = TasteEncoder.load(encoder_folder(name))
        looks = looks_of(name, encoder.looks)
        people = turned(person, encoder.prior, looks, look, amounts)
        index = looks.names.index(look)
        steps = ", ".join(f"{amount:+.1f}" if amount else "as they are" for amount in amounts)
        report = f"{look}, from {looks.low[index]} to {looks.high[index]}: {steps}. What they like otherwise stays."
        return io.NodeOutput(people, report, ui=ui.PreviewText(report))


def looks_here() -> list[str]:
    """The looks of all taste encoders that are here, by name; damaged ones have none."""
    found: dict[str, None] = {}
    for name in taste_encoders():
        with suppress(ValueError):
            found |= dict.fromkeys(_looks(name, encoder_digest(name)))
    return [*found]


@lru_cache(maxsize=64)
def _looks(name: str, _digest: str) -> tuple[str, ...]:
    looks = TasteEncoder.load(encoder_folder(name)).looks
    return () if looks is None else looks.names


def looks_of(encoder: str, looks: Looks | None) -> Looks:
    """The looks of a taste encoder; ValueError where it names none."""
    if looks is None:
        raise ValueError(
            f"The taste encoder {quoted(encoder)} names no looks, so nothing can be explained by it: make one from "
            "studies with Make Taste Encoder."
        )
    return looks


def readable(
    reader: PosteriorEncoder,
    pairs: Sequence[PreferencePair],
    skipped: list[PreferenceError],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[PreferencePair], Told]:
    """The pairs whose pictures can be read, and what they say, row by row; the others are put in `skipped`."""
    seen = reader.features.pair_features(pairs, on_bad="skip", skipped=skipped, progress=progress)
    return [pairs[row] for row in seen.kept], reader.told(seen)


def explanation(reader: PosteriorEncoder, looks: Looks, pairs: Sequence[PreferencePair], told: Told) -> Explanation:
    """Why what is said is said."""
    is_dated = torch.tensor([not belongs_to_no_moment(pair) for pair in pairs], dtype=torch.bool)
    return explain(reader.prior, looks, told, is_dated)


def belongs_to_no_moment(pair: PreferencePair) -> bool:
    """Whether a pair is of a moodboard, which has no place in the course of a taste."""
    return (pair.choice or "").startswith(LOVED)


def what_if_of(reader: PosteriorEncoder, looks: Looks, told: Told, answer: int) -> tuple[int, WhatIf]:
    """The first row of an answer, counted from 0, and what would be had it been the other way round."""
    rows = (answers_of(told) == answer).nonzero().flatten().tolist()
    if not rows:
        count = len(told.choices.unique())
        choose = f"choose one of 1 to {count}, or 0 for none" if count else "none is known yet, so set what_if to 0"
        raise ValueError(f"There is no pick {answer + 1}: {choose}.")
    return rows[0], what_if(reader.prior, looks, told, rows[0])


def sheet(pairs: Sequence[PreferencePair], found: Explanation) -> torch.Tensor:
    """The picks that say so, as IMAGE [1, H, W, 3]; a row for each look, empty where there are none."""
    rows, titles = [], []
    for one in found.looks:
        saying = [cause for cause in one.causes if cause.adds * one.lean > 0]
        if saying:
            causes = [picture for cause in saying for picture in (pairs[cause.row].chosen, pairs[cause.row].rejected)]
            rows.append([picture.open(2 * CELL).convert("RGB") for picture in causes])
            titles.append(f"{one.leans_to}, {share(abs(one.lean))} of 100")
    if not rows:
        return torch.zeros(1, CELL, CELL, 3)
    columns = ["preferred", "not"] * (max(map(len, rows)) // 2)
    image = contact_sheet([[_square(one) for one in row] for row in rows], titles, columns, cell=CELL)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
