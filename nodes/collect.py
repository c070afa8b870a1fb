"""Where pairs come from: pictures of the artist's own workflow, filed as questions for a person."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from PIL import Image

from ..ppd.pictures import Picture
from ..ppd.store import MissingError, Person, TasteStore
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders
from .announce import announce, ask_now
from .interviews import adopt
from .sockets import CATEGORY, UserEmbedding, one_person

LONGEST_WAIT = 3600
"""Seconds."""
BETWEEN_LOOKS = 0.1
"""Seconds from one look at the store to the next, and so until an interrupt is heard."""


class PreferenceCollector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreferenceCollector",
            display_name="Collect Preferences",
            category=CATEGORY,
            description="Files pairs of pictures as questions for a person and shows the newest. The queue goes on.",
            search_aliases=["preference", "taste", "pick", "compare", "duel", "choose", "rate"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of one prompt: a batch, asked about two by two."),
                io.String.Input("person", default=folders.ME, tooltip="Whose taste is asked for; made if new."),
                io.String.Input("prompt", default="", tooltip="What the pictures show, as it was asked for."),
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
                    "user_embedding", optional=True, tooltip="Whom the first pictures were painted for, to be noted."
                ),
                UserEmbedding.Input(
                    "other_embedding", optional=True, tooltip="Whom the others were painted for, to be noted."
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="How many questions wait for an answer.")],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        person: str,
        prompt: str,
        wait_seconds: int = 0,
        other_images: torch.Tensor | None = None,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        other_embedding: Embedding | tuple[Embedding, ...] | None = None,
    ) -> io.NodeOutput:
        firsts, seconds = pairs_of(images, other_images)
        origin: dict[str, Any] = {"prompt": cls.hidden.prompt}
        painted_for: list[Embedding] = []
        for name, value in (("first", user_embedding), ("second", other_embedding)):
            if value is not None:
                embedding = one_person(value, "note whom a picture was painted for")
                origin[name] = {"encoder_hash": embedding.encoder_hash, "u": embedding.u.tolist()}
                painted_for.append(embedding)
        store = folders.taste_store()
        somebody = store.person_called(person, make=True)
        assert somebody is not None
        hint = adopt(somebody, painted_for)
        asked = [
            store.add_candidate(somebody.id, prompt, picture(first), picture(second), origin)
            for first, second in zip(firsts, seconds, strict=True)
        ]
        questions = [question(store, number) for number in dict.fromkeys(asked)]  # two pairs of a batch may be the same
        announce(somebody.id)
        if wait_seconds:
            ask_now(cls.hidden.unique_id, questions)
            wait_for_answers(store, wait_seconds, asked)
        report = report_of(store, somebody, asked if wait_seconds else [])
        report = "\n".join(filter(None, [report, hint]))
        return io.NodeOutput(report, ui={"ppd_question": questions, "text": (report,)})


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


def pairs_of(images: torch.Tensor, others: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second pictures [n, H, W, 3] of n questions."""
    if others is None:
        if len(images) % 2:
            raise ValueError(
                f"There are {len(images)} images, but questions take two each: make an even batch, or connect "
                "other_images."
            )
        return images[::2], images[1::2]
    if len(images) != len(others):
        raise ValueError(
            f"There are {len(images)} images and {len(others)} other images: give as many of the one as of the other."
        )
    return images, others


def picture(image: torch.Tensor) -> Picture:
    """An IMAGE's picture [H, W, 3] in 0..1, losslessly."""
    pixels = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Picture.from_image(Image.fromarray(pixels))
