"""Where pairs come from: pictures of the artist's own workflow, filed as questions for a person."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import comfy.model_management
import torch
from comfy_api.latest import io

from ..ppd.pairs import counted
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import MissingError, Person, TasteStore
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders, people, run_notes
from .announce import announce, ask_now
from .interviews import adopt, look_in_queue
from .sockets import CATEGORY, UserEmbedding, one_person, people_of

Value = TypeVar("Value")

LONGEST_WAIT = 3600
"""Seconds."""
BETWEEN_LOOKS = 0.1
"""Seconds from one look at the store to the next, and so until an interrupt is heard."""


class PPD_PreferenceCollector(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_PreferenceCollector",
            display_name="Collect Preferences",
            category=CATEGORY,
            description="Asks which of two pictures is better: files pairs as questions for a person and shows the "
            "newest. The queue goes on.",
            search_aliases=["preference", "taste", "pick", "compare", "duel", "choose", "rate"],
            is_output_node=True,
            is_input_list=True,  # a list of pictures is asked about like a batch, not picture by picture
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="Pictures of one prompt: a batch or a list, asked about two by two, and on the rating page "
                    "as the best of four or nine. One without a partner is compared with the last run's, of the same "
                    "prompt if there is one.",
                ),
                people.person_input(
                    "Whose taste is asked for: whoever is chosen in the tab Taste, or always the same person, of whom "
                    "the workflow keeps an id in place of the name. New people are made in the tab Taste."
                ),
                io.String.Input(
                    "prompt", default="", optional=True, tooltip="The prompt that the pictures were painted from."
                ),
                io.Int.Input(
                    "wait_seconds",
                    default=0,
                    min=0,
                    max=LONGEST_WAIT,
                    optional=True,
                    advanced=True,
                    tooltip="Above 0 the queue waits here until the questions are answered, at most that long. "
                    "Interrupting ends the wait.",
                ),
                io.Image.Input(
                    "other_images",
                    optional=True,
                    tooltip="Where connected: picture i of images against picture i of these.",
                ),
                UserEmbedding.Input(
                    "user_embedding",
                    optional=True,
                    tooltip="User embedding that images were painted for. Stored with the question; not used for "
                    "learning.",
                ),
                UserEmbedding.Input(
                    "other_embedding",
                    optional=True,
                    tooltip="User embedding that the others were painted for. Stored with the question; not used for "
                    "learning.",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="How many questions wait for an answer.")],
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        person: Sequence[str] = (people.TAB,),
        prompt: Sequence[str] = ("",),
        wait_seconds: Sequence[int] = (0,),
        other_images: list[torch.Tensor] | None = None,
        user_embedding: Sequence[Embedding | tuple[Embedding, ...] | None] = (),
        other_embedding: Sequence[Embedding | tuple[Embedding, ...] | None] = (),
    ) -> io.NodeOutput:
        pairs, odd = pairs_of(images, other_images)
        store = folders.taste_store()
        named = {name: people.find(name, make=True) for name in dict.fromkeys(person)}
        asked: dict[Person, list[int]] = {somebody: [] for somebody in named.values() if somebody is not None}
        left_out: Counter[str] = Counter()
        for index, first, second in pairs:
            somebody = named[at(person, index)]
            assert somebody is not None
            origin = {"prompt": cls.hidden.prompt, **painted_for(index, first=user_embedding, second=other_embedding)}
            try:
                number = store.add_candidate(somebody.id, at(prompt, index), *two_pictures(first, second), origin)
            except PreferenceError as error:
                left_out[str(error)] += 1
            else:
                asked[somebody].append(number)
        kept = []
        if odd is not None:
            index, image = odd
            somebody = named[at(person, index)]
            assert somebody is not None
            origin = {"prompt": cls.hidden.prompt, **painted_for(index, first=user_embedding)}
            try:
                with_last, said = compare_with_last(store, somebody, at(prompt, index), image, origin)
            except PreferenceError as error:
                left_out[str(error)] += 1
            else:
                asked[somebody] += [] if with_last is None else [with_last]
                kept.append(said)
        everything = [number for numbers in asked.values() for number in numbers]
        questions = [question(store, number) for number in dict.fromkeys(everything)]  # two pairs may be the same
        embeddings = [one for value in (*user_embedding, *other_embedding) for one in people_of(value)]
        hints = [adopt(somebody, embeddings) for somebody in asked]
        for somebody in asked:
            look_in_queue(somebody.id)
            announce(somebody.id)
        if wait_seconds[0]:
            ask_now(cls.hidden.unique_id, questions)
            wait_for_answers(store, wait_seconds[0], everything)
        reports = [report_of(store, somebody, asked[somebody] if wait_seconds[0] else []) for somebody in asked]
        reports += kept
        reports += [f"Not asked: {counted(number, 'pair')}, since {reason}" for reason, number in left_out.items()]
        notes = run_notes.of_this_run()
        report = "\n".join([*notes, *reports, *filter(None, hints)])
        return io.NodeOutput(report, ui={"ppd_question": questions, "ppd_notes": notes, "text": (report,)})


def at(values: Sequence[Value], index: int) -> Value:
    """The value that belongs to entry `index` of a list of pictures; the last goes on, as in ComfyUI."""
    return values[min(index, len(values) - 1)]


def painted_for(index: int, **embeddings: Sequence[Embedding | tuple[Embedding, ...] | None]) -> dict[str, Any]:
    """Whom the pictures of a list's entry were painted for, as candidates note it."""
    notes = {}
    for name, values in embeddings.items():
        if values and at(values, index) is not None:
            embedding = one_person(at(values, index), "note whom a picture was painted for")
            notes[name] = {"encoder_hash": embedding.encoder_hash, "u": embedding.u.tolist()}
    return notes


def report_of(store: TasteStore, person: Person, waited_for: list[int]) -> str:
    """How many questions wait and are answered, also of those that a run has waited for."""
    try:
        now, verdicts = store.person(person.id), store.verdicts(person.id)
    except MissingError:
        return f"{person.name} was deleted while the questions waited."
    report = f"{now.name}: questions open {now.open}, answered {now.picks}."
    if waited_for:
        numbers = set(waited_for)
        report += f" Of this run's {len(numbers)}, answered {len(numbers & verdicts.keys())}."
    return report


def question(store: TasteStore, number: int) -> dict[str, Any]:
    """What a browser needs to show a filed question: id, person, prompt, and the pictures' digests."""
    candidate = store.candidate(number)
    return {name: getattr(candidate, name) for name in ("id", "person", "prompt", "first", "second")}


def wait_for_answers(store: TasteStore, seconds: float, asked: list[int]) -> None:
    """Return once all of them have a verdict, or the time is over; interrupting the run ends it as anywhere else."""
    end = time.monotonic() + seconds
    with suppress(MissingError):  # the person was deleted meanwhile
        while time.monotonic() < end and any(store.candidate(number).verdict is None for number in asked):
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(BETWEEN_LOOKS)


Image = tuple[int, torch.Tensor]
"""A picture [H, W, C], and in which batch [n, H, W, C] of the list it lay."""


def pairs_of(
    batches: Sequence[torch.Tensor], others: Sequence[torch.Tensor] | None
) -> tuple[list[tuple[int, torch.Tensor, torch.Tensor]], Image | None]:
    """Two pictures [H, W, C] for each question, and in which batch [n, H, W, C] of the list the first of them lay; and
    the one that is left over."""
    images = [(index, image) for index, batch in enumerate(batches) for image in batch]
    if others is None:
        odd = images.pop() if len(images) % 2 else None
        return [(*first, second) for first, (_, second) in zip(images[::2], images[1::2], strict=True)], odd
    seconds = [image for batch in others for image in batch]
    if len(images) != len(seconds):
        raise ValueError(
            f"There are {len(images)} images and {len(seconds)} other images: give as many of the one as of the other."
        )
    return [(*first, second) for first, second in zip(images, seconds, strict=True)], None


def compare_with_last(
    store: TasteStore, person: Person, prompt: str, image: torch.Tensor, origin: dict[str, Any]
) -> tuple[int | None, str]:
    """Keep a picture [H, W, C] that has no partner, and ask about it and the one kept before, of the same prompt if
    there is one: the question, None where there was none, and what to report."""
    picture = Picture.from_tensor(image)
    last = store.latest_picture(person.id, prompt=prompt) or store.latest_picture(person.id)
    if last is not None and last.digest == picture.digest:
        raise PreferenceError("it is the last run's picture again: is the seed fixed?")
    store.add_picture(person.id, prompt, picture, origin)
    if last is None:
        return None, "One picture is kept: the next run's is compared with it."
    number = store.add_candidate(person.id, prompt, Picture(store.picture(last.digest)), picture, origin)
    return number, "One picture is compared with the last run's."


def two_pictures(first: torch.Tensor, second: torch.Tensor) -> tuple[Picture, Picture]:
    """The pictures of two images [H, W, C] in 0..1, losslessly; PreferenceError where nothing can be asked of them."""
    pictures = Picture.from_tensor(first), Picture.from_tensor(second)
    if pictures[0].digest == pictures[1].digest:
        raise PreferenceError("its two pictures are the same: is a sampler bypassed, or the seed one for both?")
    return pictures
