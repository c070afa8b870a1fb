"""Stage 1: preference pairs."""

from __future__ import annotations

from itertools import islice
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageOps

from ..ppd.messages import listed, quoted
from ..ppd.pairs import PreferencePair, counted, preference_set_digest, read_pairs
from ..ppd.pictures import PreferenceError
from ..ppd.store import Person
from . import folders
from .sockets import CATEGORY, PreferencePairs

PERSON = "person: "
"""What a choice begins with that is no preference set but somebody in the taste store."""
SHOWN = 64
SIDE = 256
GAP = 8


class PreferencePairLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreferencePairLoader",
            display_name="Load Preference Pairs",
            category=CATEGORY,
            description="Reads a person's picks: pairs of pictures of one prompt, of which one was preferred.",
            search_aliases=["preference", "taste", "picks", "likes", "dpo", "pick-a-pic"],
            inputs=[
                io.Combo.Input(
                    "preference_set",
                    options=[*folders.preference_sets(), *(PERSON + name for name in folders.people())],
                    tooltip="A folder with pairs.jsonl and its pictures, or a .jsonl or .parquet file, in ComfyUI's "
                    "input or datasets folder; or a person whose picks Collect Preferences keeps. The examples come "
                    "with the pack.",
                ),
                io.String.Input(
                    "user",
                    default="",
                    tooltip="Where a set holds the picks of several people: the one to read. Empty reads all.",
                ),
                io.Int.Input(
                    "limit",
                    default=1000,
                    min=1,
                    max=100_000,
                    tooltip="The most pairs to read, from the start of the set.",
                ),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    advanced=True,
                    tooltip="Leave out pairs whose picture is missing or broken and name them in the report, "
                    "instead of stopping at the first.",
                ),
            ],
            outputs=[
                PreferencePairs.Output(display_name="pairs", tooltip="The pairs, for Encode User Embedding."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip=f"The first {SHOWN} pairs to look at, the preferred picture on the left.",
                ),
                io.String.Output(display_name="report", tooltip="What was read, and what was left out."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, preference_set: str, **constants: Any) -> str:
        if preference_set.startswith(PERSON):
            person = person_of(preference_set)
            return folders.taste_store().fingerprint(person.id) if person else ""
        return preference_set_digest(folders.preference_set(preference_set))

    @classmethod
    def execute(cls, preference_set: str, user: str, limit: int, skip_bad: bool) -> io.NodeOutput:
        skipped: list[PreferenceError] = []
        if preference_set.startswith(PERSON):
            person = person_of(preference_set)
            pairs = folders.taste_store().pairs(person.id)[-limit:] if person else []
            report = report_of(preference_set, pairs, skipped)
            return io.NodeOutput(pairs, contact_sheet(pairs[-SHOWN:]), report, ui=ui.PreviewText(report))
        path = folders.preference_set(preference_set)
        pairs = []
        for pair in islice(read_pairs(path, skip_bad=skip_bad, user=user.strip() or None, skipped=skipped), limit):
            comfy.model_management.throw_exception_if_processing_interrupted()
            pairs.append(pair)
        if not pairs:
            people = f" of the user {quoted(user.strip())}" if user.strip() else ""
            raise ValueError(
                f"The preference set {quoted(preference_set)} has no usable pairs{people}: choose another."
            )
        report = report_of(preference_set, pairs, skipped)
        return io.NodeOutput(pairs, contact_sheet(pairs[:SHOWN]), report, ui=ui.PreviewText(report))


def person_of(choice: str) -> Person | None:
    """The person of a choice; None where nobody has been asked anything under that name."""
    return folders.taste_store().person_called(choice.removeprefix(PERSON))


def report_of(name: str, pairs: list[PreferencePair], skipped: list[PreferenceError]) -> str:
    """What was read from a set, in lines for people."""
    ties = sum(pair.tie for pair in pairs)
    prompts = len({pair.prompt for pair in pairs})
    lines = [f"{name}: {counted(len(pairs), 'pair')} on {counted(prompts, 'prompt')}, {counted(ties, 'tie')}."]
    if skipped:
        lines += [f"Left out {len(skipped)}:", *listed(skipped)]
    return "\n".join(lines)


def contact_sheet(pairs: list[PreferencePair]) -> torch.Tensor:
    """Pairs as IMAGE [n, 256, 520, 3] in 0..1, the chosen picture on the left; an empty one where there are none."""
    sheets = np.full((max(1, len(pairs)), SIDE, 2 * SIDE + GAP, 3), 0.12, dtype=np.float32)
    for sheet, pair in zip(sheets, pairs, strict=False):
        comfy.model_management.throw_exception_if_processing_interrupted()
        for left, picture in ((0, pair.chosen), (SIDE + GAP, pair.rejected)):
            fitted = ImageOps.pad(
                picture.open(longest_side=4 * SIDE), (SIDE, SIDE), Image.Resampling.LANCZOS, color=(31, 31, 31)
            )
            sheet[:, left : left + SIDE] = np.asarray(fitted, dtype=np.float32) / 255
    return torch.from_numpy(sheets)
