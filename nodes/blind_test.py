"""Is it really mine? Pictures of two or three ways to paint, filed as a test that the person answers blind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy_api.latest import io

from ..ppd.blind_questions import Matchup
from ..ppd.pairs import folded
from ..ppd.pictures import Picture
from ..ppd.store import BlindTest, LearnedError, Person
from . import folders, people
from .announce import announce, say
from .collect import at
from .sockets import CATEGORY

NAMES = ("plain model", "my taste", "another's taste")
MOST = 200
"""Questions of a test: half an hour."""


def compared_inputs() -> list[io.Input]:
    """Two ways to paint, and what was painted."""
    return [
        io.Image.Input(
            "images_a", tooltip="Pictures painted in the first way: a batch or a list, in the order of the prompts."
        ),
        io.Image.Input("images_b", tooltip="Pictures of the same prompts and seeds, painted in the second way."),
        io.String.Input(
            "prompts",
            force_input=True,
            tooltip="The prompts of the pictures: the list of Test Prompts, or one prompt.",
        ),
    ]


class PPD_TestPrompts(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TestPrompts",
            display_name="Test Prompts",
            category=CATEGORY,
            description="Held-out prompts for a blind test: every node connected after this one runs once for each. A "
            "prompt that the person's taste was learned from is refused before anything is painted.",
            search_aliases=["blind test", "prompts", "list", "lines", "batch"],
            inputs=[
                io.String.Input("prompts", multiline=True, default="", optional=True, tooltip="One prompt per line."),
                people.person_input("Whose taste is tested."),
            ],
            outputs=[io.String.Output(display_name="prompts", is_output_list=True, tooltip="The prompts, one by one.")],
        )

    @classmethod
    def fingerprint_inputs(cls, person: str | None = people.TAB, **constants: Any) -> str:
        return _fingerprint(person)

    @classmethod
    def execute(cls, prompts: str = "", person: str = people.TAB) -> io.NodeOutput:
        found = list(dict.fromkeys(" ".join(line.split()) for line in prompts.splitlines() if line.strip()))
        if not found:
            raise ValueError("There is no prompt to test by: write some, one per line.")
        somebody = people.find(person)
        if somebody is not None:
            with _learned_shown():
                folders.taste_store().check_apart(somebody.id, [(prompt, ()) for prompt in found])
        return io.NodeOutput(found)


class PPD_BlindTest(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_BlindTest",
            display_name="Blind Test",
            category=CATEGORY,
            description="Blind A/B test: is it really mine? The person picks between pictures painted in two or three "
            "ways, without knowing which is which. Nothing is learned from these answers.",
            search_aliases=["blind test", "evaluate", "compare", "A/B", "win rate", "preference", "is it mine"],
            is_output_node=True,
            is_input_list=True,  # a list has a batch for each prompt
            inputs=[
                *compared_inputs(),
                people.person_input("Who answers, and whose taste is tested."),
                io.String.Input("name_a", default=NAMES[0], optional=True, tooltip="What the report calls the first."),
                io.String.Input("name_b", default=NAMES[1], optional=True, tooltip="What the report calls the second."),
                io.String.Input("name_c", default=NAMES[2], optional=True, tooltip="What the report calls the third."),
                io.Int.Input(
                    "questions",
                    default=40,
                    min=4,
                    max=MOST,
                    optional=True,
                    tooltip="Maximum number of questions; a tenth of them are asked twice. The test ends earlier once "
                    "it is decided.",
                ),
                io.Image.Input(
                    "images_c", optional=True, tooltip="Pictures of the same prompts and seeds, painted in a third way."
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Which test waits for answers, and where to answer it.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, person: Sequence[str | None] = (people.TAB,), **constants: Any) -> str:
        return _fingerprint(person[0])

    @classmethod
    def execute(
        cls,
        images_a: list[torch.Tensor],
        images_b: list[torch.Tensor],
        prompts: Sequence[str],
        person: Sequence[str] = (people.TAB,),
        name_a: Sequence[str] = NAMES[:1],
        name_b: Sequence[str] = NAMES[1:2],
        name_c: Sequence[str] = NAMES[2:],
        questions: Sequence[int] = (40,),
        images_c: list[torch.Tensor] | None = None,
    ) -> io.NodeOutput:
        arms = [(name_a[0].strip(), images_a), (name_b[0].strip(), images_b)]
        arms += [] if images_c is None else [(name_c[0].strip(), images_c)]
        matchups = matchups_of(arms, prompts)
        somebody = people.find(person[0], make=True)
        assert somebody is not None
        store, notes = folders.taste_store(), {"picks": somebody.picks, "taste_encoder": somebody.encoder}
        with _learned_shown():
            test, is_new = store.add_test(somebody.id, [name for name, _ in arms], matchups, questions[0], notes)
        announce(somebody.id)
        report = report_of(store.test(test), somebody, is_new) + _on_seeds(matchups)
        return io.NodeOutput(report, ui={"ppd_blind_test": [{"id": test, "person": somebody.id}], "text": (report,)})


def matchups_of(arms: Sequence[tuple[str, Sequence[torch.Tensor]]], prompts: Sequence[str]) -> list[Matchup]:
    """The matchups of named lists of batches [n, H, W, C]; prompts come one a batch, one a picture, or one in all."""
    flat = [[(index, image) for index, batch in enumerate(batches) for image in batch] for _, batches in arms]
    counts = [len(images) for images in flat]
    if len(set(counts)) > 1:
        told = ", ".join(f"{count} in images_{letter}" for letter, count in zip("abc", counts, strict=False))
        raise ValueError(f"There are {told}: paint the same prompts and seeds in every way.")
    batches = len(arms[0][1])
    if len(prompts) not in (1, batches, counts[0]) or not all(prompt.strip() for prompt in prompts):
        raise ValueError(
            f"Expected one prompt, or one for each of {batches} batches or {counts[0]} pictures, got {len(prompts)}, "
            "none of them empty: connect the list of Test Prompts that was painted."
        )
    by_batch = len(prompts) in (1, batches)
    return [
        Matchup(at(prompts, rows[0][0] if by_batch else number), tuple(Picture.from_tensor(image) for _, image in rows))
        for number, rows in enumerate(zip(*flat, strict=True))
    ]


def report_of(test: BlindTest, person: Person, is_new: bool) -> str:
    """What waits to be answered; nothing of which picture is whose."""
    if test.finished:
        return (
            f"{person.name} has answered this test, and seen the result: it is in the tab Taste, under “Is it really "
            "mine?”. Other prompts or another seed make another."
        )
    again = sum(one.repeats is not None for one in test.trials)
    waits = "waits" if is_new else "has been there before, and waits"
    return (
        f"A blind test of {', '.join(f'“{arm}”' for arm in test.arms)} {waits} for {person.name}: at most "
        f"{len(test.trials)} questions, {again} of them asked twice. Press Answer the test, or answer it in the tab "
        "Taste, under “Is it really mine?”."
        + ("" if person.picks else f" {person.name} has not picked yet, so what is tested is the average taste.")
    )


def _on_seeds(matchups: Sequence[Matchup]) -> str:
    """How many questions count where prompts come by several seeds; nothing where none does."""
    prompts = len({folded(matchup.prompt) for matchup in matchups})
    if prompts == len(matchups):
        return ""
    return (
        f" There are {len(matchups)} pictures of each way for {_count(prompts, 'prompt')}: answers to one prompt go "
        f"together, so each asks by one of its seeds, and at most {_count(prompts, 'question')} of each two ways can "
        "count."
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


@contextmanager
def _learned_shown() -> Iterator[None]:
    """Shows the words of a prompt that is refused at the node: ComfyUI logs the exception, which has its place only."""
    try:
        yield
    except LearnedError as error:
        say(f"Answered when this taste was learned: {error.prompt}")
        raise


def _fingerprint(choice: str | None) -> str:
    """Changes when the person's picks do: what was apart from them may be so no more."""
    person = None if choice is None else people.find(choice)
    return "" if person is None else people.fingerprint(person)
