"""Stage 1: preference pairs."""

from __future__ import annotations

from itertools import islice
from typing import Any
from uuid import uuid4

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageOps

from ..ppd.messages import listed, quoted
from ..ppd.pair_digest import preference_set_digest
from ..ppd.pairs import PreferencePair, counted, read_pairs
from ..ppd.pictures import PreferenceError
from . import folders, people, whose
from .people import PERSON
from .sockets import CATEGORY, PairsOf, PreferencePairs
from .taste_pairs import ALL, pairs_of

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
                    options=[*folders.preference_sets(), *(PERSON + one for one in people.choices())],
                    default=PERSON + people.TAB,
                    optional=True,
                    tooltip="Whose picks: those of whoever is chosen in the tab Taste, or of one person, of whom the "
                    "workflow keeps an id and no name; or a set: a folder with pairs.jsonl and its pictures, or a "
                    ".jsonl or .parquet file, in ComfyUI's input or datasets folder. The examples come with the pack.",
                    extra_dict={people.MARK: PERSON},
                ),
                io.String.Input(
                    "user",
                    default="",
                    optional=True,
                    tooltip="Where a set holds the picks of several people: the one to read. Empty reads all. With a "
                    "person leave it empty.",
                ),
                io.Int.Input(
                    "limit",
                    default=1000,
                    optional=True,
                    min=1,
                    max=100_000,
                    tooltip="The most pairs to read: the first ones of a set, the newest answers of a person.",
                ),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Leave out pairs whose picture is lost or broken and name them in the report, "
                    "instead of stopping at the first.",
                ),
                whose.first_answers_input(),
            ],
            outputs=[
                PreferencePairs.Output(display_name="pairs", tooltip="The pairs, for Encode User Embedding."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip=f"{SHOWN} of these pairs to look at, the preferred picture on the left: the first ones of "
                    "a set, the newest ones of a person.",
                ),
                io.String.Output(display_name="report", tooltip="What was read, and what was left out."),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, preference_set: str | None = None) -> bool | str:
        """ComfyUI's own check would refuse whoever is called by name. Who is not there yet is told when the node runs:
        another node of the workflow may make them, or say who it is, which is None here."""
        try:
            if preference_set is not None and preference_set.startswith(PERSON):
                people.find(preference_set.removeprefix(PERSON))
            elif preference_set is not None:
                folders.preference_set(preference_set)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, preference_set: str | None = PERSON + people.TAB, **constants: Any) -> str:
        if preference_set is None:  # it comes from another node, and is never known to be the same
            return uuid4().hex
        if preference_set.startswith(PERSON):
            person = people.find(preference_set.removeprefix(PERSON))
            return people.fingerprint(person) if person else ""
        return preference_set_digest(folders.preference_set(preference_set))

    @classmethod
    def execute(
        cls,
        preference_set: str = PERSON + people.TAB,
        user: str = "",
        limit: int = 1000,
        skip_bad: bool = False,
        first_answers: int = ALL,
    ) -> io.NodeOutput:
        skipped: list[PreferenceError] = []
        if preference_set.startswith(PERSON):
            choice = preference_set.removeprefix(PERSON)
            name, pairs = read_person(choice, user, limit, skip_bad, skipped, cls.hidden, first_answers)
            some = "" if first_answers == ALL else f", the first {counted(first_answers, 'answer')} only"
            report = report_of(f"{PERSON}{name}{some}", pairs, skipped)
            return io.NodeOutput(pairs, contact_sheet(pairs[-SHOWN:]), report, ui=ui.PreviewText(report))
        whose.refuse_first_answers(preference_set, first_answers)
        path = folders.preference_set(preference_set)
        rows = read_pairs(
            path, skip_bad=skip_bad, user=user.strip() or None, skipped=skipped, progress=stop_if_cancelled
        )
        pairs = list(islice(rows, limit))
        if not pairs:
            of_user = f" of the user {quoted(user.strip())}" if user.strip() else ""
            why = f" The first that was left out: {skipped[0]}" if skipped else ""
            raise ValueError(
                f"The preference set {quoted(preference_set)} has no usable pairs{of_user}: choose another.{why}"
            )
        report = report_of(preference_set, pairs, skipped)
        return io.NodeOutput(pairs, contact_sheet(pairs[:SHOWN]), report, ui=ui.PreviewText(report))


def read_person(
    choice: str,
    user: str,
    limit: int,
    skip_bad: bool,
    skipped: list[PreferenceError],
    hidden: io.HiddenHolder | None,
    first_answers: int = ALL,
) -> tuple[str, list[PreferencePair]]:
    """The name and the newest pairs of the person of a choice, or of their first answers; none where nobody has been
    asked yet."""
    choice = people.called(choice)
    person = people.find(choice)
    if user.strip() and user.strip().casefold() not in (choice.casefold(), (person.name if person else "").casefold()):
        raise ValueError(
            f"The input user is {user.strip()!r}, but the pairs are of one person of the taste store: empty it, or "
            "choose a preference set."
        )
    if person is None:
        people.make_sure(choice, hidden.prompt if hidden else None)
        return choice, []
    found = pairs_of(person.id, skipped if skip_bad else None, first_answers)
    pairs: list[PreferencePair] = []
    taken: set[str] = set()
    for pair in reversed(found):
        answer = pair.choice or pair.id  # a choice is one answer, and never cut
        if len(taken) == limit and answer not in taken:
            break
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            if skip_bad:  # else whoever looks at the pictures says so: all of them were whole when they were filed
                pair.check()
            pairs.append(pair)
            taken.add(answer)
        except PreferenceError as error:
            skipped.append(error)
    if not pairs and skipped:
        # Without the name: what a node fails with is logged
        raise ValueError(f"Of the person's pairs none can be used. {skipped[0]}")
    return person.name, PairsOf(person, reversed(pairs))


def stop_if_cancelled(rows: int) -> None:
    """A progress of `read_pairs`: sets may hold a million rows of others."""
    comfy.model_management.throw_exception_if_processing_interrupted()


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
        for left, role, picture in ((0, "chosen", pair.chosen), (SIDE + GAP, "rejected", pair.rejected)):
            try:
                image = picture.open(longest_side=4 * SIDE)
            except PreferenceError as error:
                raise pair.error(role, error) from error
            fitted = ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.LANCZOS, color=(31, 31, 31))
            sheet[:, left : left + SIDE] = np.asarray(fitted, dtype=np.float32) / 255
    return torch.from_numpy(sheets)
