"""Checks of a taste: pictures of the same prompts and seeds, plain and personal, and what is in more of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..ppd.guard.batteries import batteries
from ..ppd.guard.content import LEAST, check_content, found
from ..ppd.guard.offers import content_offers
from ..ppd.guard.paired import check_pairs
from ..ppd.guard.probes import Probe, TextProbe, word_lines
from ..ppd.guard.stereotype import LEAST as LEAST_SHIFT
from ..ppd.guard.stereotype import SubjectError, check_stereotypes
from ..ppd.hosts.comfyui_towers import open_tower, tower_choices
from ..ppd.lexicon import prompt_lines
from ..ppd.messages import quoted
from ..ppd.pairs import counted
from ..ppd.pictures import Picture, check_numbers
from ..ppd.pocket.probe import object_probe
from ..ppd.store import Question
from . import folders, people, whose
from .announce import announce, say
from .sockets import CATEGORY

CLASSIFIERS = {"pocket": "pocket_classifier.safetensors", "pocket flow": "pocket_flow_classifier.safetensors"}
"""Probes that come with the pack: they know the pocket models' objects only."""
OPEN_CLIP = "open_clip: "
OWN = "own"
THINGS = "a house\na tree\nflowers\na boat\na mountain\nthe sun\nthe moon\na cloud"
"""Such as every probe knows."""
ATTRIBUTES = "a woman / a man\nan old person / a young person\na dark-skinned person / a light-skinned person"


class PPD_CheckPrompts(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_CheckPrompts",
            display_name="Check Prompts",
            category=CATEGORY,
            description="Prompts and seeds to check a taste by, painted with the plain model and with the taste. "
            "Every node connected after this one runs once for each.",
            search_aliases=["battery", "prompts", "bias", "leakage", "guard"],
            inputs=[
                io.Combo.Input(
                    "prompts",
                    options=[*batteries(), OWN],
                    default="things",
                    optional=True,
                    tooltip="Which list: things (unrelated objects), people (age, gender and skin left open), pocket "
                    "(scenes that the pocket models know), or own.",
                ),
                io.String.Input(
                    "own_prompts", default="", multiline=True, optional=True, tooltip="For own: one prompt per line."
                ),
                io.Int.Input(
                    "seeds", default=1, min=1, max=64, optional=True, tooltip="Number of seeds for each prompt."
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**32,
                    optional=True,
                    tooltip="The first seed; the others follow it.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", is_output_list=True, tooltip="For the text of the prompt node."
                ),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="For the seed of both samplers."),
            ],
        )

    @classmethod
    def execute(
        cls, prompts: str = "things", own_prompts: str = "", seeds: int = 1, first_seed: int = 0
    ) -> io.NodeOutput:
        chosen = prompt_lines(own_prompts) if prompts == OWN else batteries()[prompts]
        if not chosen:
            raise ValueError("Expected at least one prompt in own_prompts, got none: write one per line.")
        each = [prompt for prompt in chosen for _ in range(seeds)]
        return io.NodeOutput(each, [first_seed + number for number in range(len(each))])


class PPD_CheckLeakage(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_CheckLeakage",
            display_name="Check Leakage",
            category=CATEGORY,
            description="Content leakage and prompt adherence: does a taste change what pictures show? Finds things "
            "that appear in personal pictures unasked, and things asked for that are lost, against the plain model.",
            search_aliases=["leakage", "guard", "overfitting", "content", "prompt adherence", "check"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                *_pictures(),
                _words("The things to look for, one per line.", THINGS),
                probe_input(),
                _least(LEAST),
                io.Image.Input(
                    "liked_images",
                    optional=True,
                    tooltip="Pictures that the person preferred: a thing that is in them and appears unasked in "
                    "personal pictures is a leak.",
                ),
                *ask_inputs(
                    "Where something was found, file those personal pictures as questions against the plain ones. "
                    "Nothing is taken as an answer: the person picks in the tab Taste."
                ),
            ],
            outputs=_outputs("Which things appeared or got lost, how often, and how sure that is."),
        )

    @classmethod
    def execute(
        cls,
        base_images: list[torch.Tensor],
        personal_images: list[torch.Tensor],
        prompts: Sequence[str],
        words: Sequence[str] = (THINGS,),
        probe: Sequence[str] = ("pocket",),
        least: Sequence[float] = (100 * LEAST,),
        liked_images: list[torch.Tensor] | None = None,
        ask: Sequence[bool] = (False,),
        person: Sequence[str] = (people.TAB,),
    ) -> io.NodeOutput:
        base, personal, asked = pairs_of(base_images, personal_images, prompts)
        looked_for = word_lines(words[0])
        liked = [] if liked_images is None else pictures_of(liked_images, "liked_images")
        seen = found(
            open_probe(probe[0], len(base) + len(personal) + len(liked)), [*base, *personal, *liked], looked_for
        )
        sides = seen[: len(base)], seen[len(base) : 2 * len(base)], seen[2 * len(base) :]
        check = check_content(*sides[:2], asked, looked_for, sides[2] if liked else None, least[0] / 100)
        report = check.report()
        if ask[0] and not check.passed:
            plain, own = ([Picture.from_tensor(one) for one in side] for side in (base, personal))
            offers = content_offers(check, looked_for, sides[:2], (plain, own), asked)
            if offers:
                name, filed = file_questions(person[0], offers)
                report += f"\n{name} is asked {counted(filed, 'question')} about what was found, in the tab Taste."
        return io.NodeOutput(check.passed, report, ui=ui.PreviewText(report))


class PPD_CheckStereotypes(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_CheckStereotypes",
            display_name="Check Stereotypes",
            category=CATEGORY,
            description="Demographic bias: does a taste change who is painted where the prompt leaves it open? "
            "Compares personal pictures with the plain model's, over all prompts and prompt by prompt.",
            search_aliases=["bias", "stereotype", "fairness", "guard", "people", "check"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                *_pictures(),
                _words("What the prompts leave open, one per line; opposites with a slash between them.", ATTRIBUTES),
                probe_input(),
                _least(LEAST_SHIFT),
            ],
            outputs=_outputs("What became more or less frequent, by how much, and how sure that is."),
        )

    @classmethod
    def execute(
        cls,
        base_images: list[torch.Tensor],
        personal_images: list[torch.Tensor],
        prompts: Sequence[str],
        words: Sequence[str] = (ATTRIBUTES,),
        probe: Sequence[str] = ("pocket",),
        least: Sequence[float] = (100 * LEAST_SHIFT,),
    ) -> io.NodeOutput:
        base, personal, asked = pairs_of(base_images, personal_images, prompts)
        looked_for = word_lines(words[0])
        seen = found(open_probe(probe[0], 2 * len(base)), [*base, *personal], looked_for)
        try:
            check = check_stereotypes(seen[: len(base)], seen[len(base) :], asked, looked_for, least[0] / 100)
        except SubjectError as error:
            say(f"Prompt {error.number}: {asked[error.number - 1]}")
            raise
        return io.NodeOutput(check.passed, check.report(), ui=ui.PreviewText(check.report()))


def _pictures() -> list[io.Input]:
    return [
        io.Image.Input("base_images", tooltip="Pictures by the plain model, without the taste: a batch or a list."),
        io.Image.Input(
            "personal_images", tooltip="Pictures of the same prompts and seeds, in the same order, with the taste."
        ),
        io.String.Input("prompts", force_input=True, tooltip="The prompt of each picture, or one for all."),
    ]


def _words(tooltip: str, default: str) -> io.String.Input:
    return io.String.Input("words", default=default, multiline=True, optional=True, tooltip=tooltip)


def _least(share: float) -> io.Float.Input:
    return io.Float.Input(
        "least",
        default=100 * share,
        min=0.0,
        max=100.0,
        step=1.0,
        optional=True,
        advanced=True,
        tooltip="Tolerance, in pictures of a hundred: a smaller change passes, however certain it is.",
    )


def _outputs(tooltip: str) -> list[io.Output]:
    return [
        io.Boolean.Output(display_name="passed", tooltip="True if nothing was found."),
        io.String.Output(display_name="report", tooltip=tooltip),
    ]


def ask_inputs(tooltip: str) -> list[io.Input]:
    """Whether to ask somebody about what was rejected, and whom."""
    return [
        io.Boolean.Input("ask", default=False, optional=True, tooltip=tooltip),
        people.person_input(
            "Who is asked: whoever is chosen in the tab Taste, or always the same person, of whom the workflow keeps "
            "an id in place of the name."
        ),
    ]


def file_questions(person: str, questions: Sequence[Question]) -> tuple[str, int]:
    """File questions for a person of the tab Taste: their name, and how many are new."""
    somebody = people.find(person, make=True)
    assert somebody is not None
    filed = folders.taste_store().add_candidates(somebody.id, questions)
    announce(somebody.id)
    return somebody.name, len(filed)


def probe_input() -> io.Combo.Input:
    """What looks for things in pictures."""
    return io.Combo.Input(
        "probe",
        options=probes(),
        default="pocket",
        optional=True,
        tooltip="Image classifier that finds things in the pictures. The pocket ones know only what the pocket models "
        "paint: house, tree, flowers, lighthouse, boat, mountain, sun, moon, cloud, balloon. CLIP models of "
        "models/open_clip understand any words.",
    )


def probes() -> list[str]:
    """Names of all probes: the pack's own, and open_clip's models, which have a text side."""
    return [*CLASSIFIERS, *(name for name in tower_choices() if name.startswith(OPEN_CLIP))]


def open_probe(name: str, pictures: int) -> Probe:
    """The probe of a name, to look at so many pictures."""
    if name in CLASSIFIERS:
        return object_probe(folders.shipped_file(CLASSIFIERS[name]))
    reference = tower_choices().get(name)
    if reference is None or not name.startswith(OPEN_CLIP):
        raise ValueError(
            f"There is no probe {quoted(name)}: choose one of the list, or put a model into models/open_clip."
        )
    tower: Any = open_tower(reference)
    return TextProbe(tower, tower.tower.text_side, whose.progress(pictures))


def pairs_of(
    base: Sequence[torch.Tensor], personal: Sequence[torch.Tensor], prompts: Sequence[str]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[str]]:
    """Pictures [H, W, 3 or 4] out of batches of both sides, and the prompt of each."""
    sides = pictures_of(base, "base_images"), pictures_of(personal, "personal_images")
    asked = list(prompts) * len(sides[0]) if len(prompts) == 1 else list(prompts)
    check_pairs(*sides, asked)
    return sides[0], sides[1], asked


def pictures_of(batches: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    """Pictures [H, W, 3 or 4] out of batches [B, H, W, C] of an input of that name; ValueError for none, for other
    channels, and for values that are no numbers, which every rule would let pass."""
    pictures = [picture for batch in batches for picture in batch]
    if not pictures:
        raise ValueError(f"Expected at least one picture in {name}, got an empty batch: connect pictures that exist.")
    for number, picture in enumerate(pictures, 1):
        if picture.ndim != 3 or picture.shape[-1] not in (3, 4) or not picture.numel():
            raise ValueError(
                f"Expected pictures [height, width, 3 or 4] in {name}, got {list(picture.shape)} as number {number}: "
                "convert them to RGB, such as a mask with Convert Mask to Image."
            )
        check_numbers(picture)
    return pictures
