"""A taste as words, and words on a model: for every model that reads prompts, without an adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.branch import Outcome, Scope, off_for_anybody
from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.hosts.comfyui_contrasts import text_taste
from ..ppd.hosts.comfyui_text import apply_text, text_family
from ..ppd.lexicon import read_lexicon
from ..ppd.text_taste import (
    LEAST_SURE,
    MOST,
    SURE,
    Leaning,
    disliked_words,
    instruction,
    leanings,
    liked_words,
    on_prompt,
    told,
)
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders, run_notes, whose
from .adapter import percent_input
from .encoders import encoder_folder
from .sockets import CATEGORY, UserEmbedding, one_person, people_of
from .whose import Taste


class PPD_TasteToText(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TasteToText",
            display_name="Taste to Text",
            category=CATEGORY,
            description="Somebody's taste as words, for a prompt, a negative prompt and a prompt enhancer. It works "
            "with every model.",
            search_aliases=[
                "taste",
                "words",
                "prompt",
                "style prompt",
                "prompt enhancer",
                "negative prompt",
                "describe",
            ],
            inputs=[
                whose.person_input("Whose taste, as answered in the tab Taste, or a taste file."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="A prompt to put the liked words on. Empty gives the words alone.",
                ),
                io.Int.Input(
                    "most",
                    default=MOST,
                    min=1,
                    max=32,
                    optional=True,
                    tooltip="At most so many phrases, the strongest.",
                ),
                io.Float.Input(
                    "least_sure",
                    default=LEAST_SURE,
                    min=0.5,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Certainty: only phrases that are right with at least this probability. 0.5 names all.",
                ),
                UserEmbedding.Input(
                    "user_embedding", optional=True, tooltip="Where connected, this taste instead of the person's."
                ),
            ],
            outputs=[
                io.String.Output(display_name="liked", tooltip="The prompt with what the person likes, or that alone."),
                io.String.Output(display_name="disliked", tooltip="The opposites, for a negative prompt."),
                io.String.Output(
                    display_name="instruction", tooltip="A sentence for a language model that rewrites prompts."
                ),
                io.String.Output(display_name="report", tooltip="Each phrase, and how sure it is."),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, person: str | None = whose.people.TAB) -> bool | str:
        return whose.check(person)

    @classmethod
    def fingerprint_inputs(cls, person: str | None = whose.people.TAB, **constants: Any) -> str:
        return whose.fingerprint(person)

    @classmethod
    def execute(
        cls,
        person: str = whose.people.TAB,
        prompt: str = "",
        most: int = MOST,
        least_sure: float = LEAST_SURE,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
    ) -> io.NodeOutput:
        taste = _taste(person, user_embedding, cls.hidden.prompt if cls.hidden else None, "put into words")
        found = told(leanings_of(taste), most, least_sure)
        report = "\n".join([_known(taste, found), *map(_line, found), *taste.notes])
        liked = on_prompt(prompt, found) if prompt.strip() else liked_words(found)
        return io.NodeOutput(liked, disliked_words(found), instruction(found), report, ui=ui.PreviewText(report))


class PPD_ApplyTasteToConditioning(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_ApplyTasteToConditioning",
            display_name="Apply Taste to Conditioning",
            category=CATEGORY,
            description="Steers every prompt towards what somebody likes: its tokens are shifted along the model's own "
            "words for it. Works in any sampler, needs no adapter, and no step takes longer.",
            search_aliases=["taste", "words", "prompt", "slider", "style", "conditioning", "steer", "personalize"],
            inputs=[
                io.Model.Input("model", tooltip="The model whose prompts are to lean. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP that the prompts are encoded with."),
                whose.person_input("Whose taste, as answered in the tab Taste, or a taste file."),
                words_strength_input("strength"),
                percent_input("start_percent", 0.0, "begins to act."),
                percent_input("end_percent", 1.0, "stops acting."),
                UserEmbedding.Input(
                    "user_embedding",
                    optional=True,
                    tooltip="Where connected, this taste instead of the person's; or a batch of them, number i for "
                    "latent i.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The personal model, for any sampler."),
                io.String.Output(display_name="report", tooltip="What the prompt leans to."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, person: str | None = whose.people.TAB) -> bool | str:
        return whose.check(person)

    @classmethod
    def fingerprint_inputs(cls, person: str | None = whose.people.TAB, **constants: Any) -> str:
        return whose.fingerprint(person)

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: comfy.sd.CLIP,
        person: str = whose.people.TAB,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
    ) -> io.NodeOutput:
        people = people_of(user_embedding)
        if people:
            tastes = [whose.of_embedding(one) for one in people]
        else:
            tastes = [whose.read(person, cls.hidden.prompt if cls.hidden else None)]
        scope = Scope(start_percent=start_percent, end_percent=end_percent)
        after = run_notes.follow(cls.hidden.unique_id if cls.hidden else None)
        personal, report = apply_words(model, clip, tastes, strength, scope, after)
        report = "\n".join([report, *(note for taste in tastes for note in taste.notes)])
        return io.NodeOutput(personal, report, ui=ui.PreviewText(report))


def words_strength_input(name: str) -> io.Float.Input:
    """How far prompts lean, the same in every node that has it."""
    return io.Float.Input(
        name,
        default=1.0,
        min=-3.0,
        max=3.0,
        step=0.05,
        optional=True,
        tooltip="Scale of the shift: how far the prompt leans to what the person likes. 0 is exactly the prompt "
        "itself, below 0 it leans to what they dislike; far above 1 the prompt is lost.",
    )


def apply_words(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    tastes: Sequence[Taste],
    strength: float,
    scope: Scope,
    on_outcome: Callable[[Outcome], None],
) -> tuple[ModelPatcher, str]:
    """A MODEL whose prompts lean to people's tastes, one for each latent, and what they lean to; after each run
    `on_outcome` is told what came of it."""
    if not math.isfinite(strength):
        raise ValueError(f"Expected a number as strength of the words, got {strength}.")
    if off := off_for_anybody(strength, scope):
        return model, f"The prompt is as it is: {off}."
    text_family(model)
    people = [leanings_of(taste)[:MOST] for taste in tastes]
    window = scope.start_percent, scope.end_percent
    progress = whose.progress(len({one.look.id for found in people for one in found}))
    taste = text_taste(model, clip, people, strength, window, progress=progress)
    if not any(one.effect for found in people for one in found):
        return model, "The prompt is as it is: nobody's taste is connected."
    if taste.is_off:
        names = ", ".join(one.liked.name for one in people[0])
        return model, f"The prompt is as it is: this model's CLIP does not know the words ({names})."
    return apply_text(model, taste, on_outcome), "\n".join(map(_leans, tastes, people, [strength] * len(people)))


def leanings_of(taste: Taste) -> list[Leaning]:
    """What a taste says of each look that its taste encoder names, the strongest first."""
    if taste.encoder is None:
        raise ValueError(
            f"The taste was read by the taste encoder {taste.embedding.encoder}, which is not here: put its folder "
            "into models/taste_encoders."
        )
    encoder = TasteEncoder.load(encoder_folder(taste.encoder))
    if encoder.looks is None:
        raise ValueError(
            f"The taste encoder {taste.encoder} names no looks, so there are no words: make one from studies with Make "
            "Taste Encoder."
        )
    own = (folders.lexicon_file(name) for name in folders.lexicons())
    return leanings(taste.embedding, encoder.looks, encoder.prior.noise, read_lexicon(*own).looks)


def _taste(person: str, embedding: Embedding | tuple[Embedding, ...] | None, prompt: Any, purpose: str) -> Taste:
    """The connected person, else the one chosen."""
    if embedding is None:
        return whose.read(person, prompt)
    return whose.of_embedding(one_person(embedding, purpose))


def _known(taste: Taste, found: Sequence[Leaning]) -> str:
    if not found:
        return f"Nothing is sure enough to be said of {taste.told} yet.{taste.advice}"
    return f"What {taste.told} likes, the strongest first:{taste.advice}"


def _line(one: Leaning) -> str:
    said = f"{one.liked.name}, not {one.disliked.name}"
    if one.certainty is None:
        return f"{said} (how sure is not known)"
    return f"{said} ({'sure' if one.certainty >= SURE else 'likely'}, {one.certainty:.0%})"


def _leans(taste: Taste, found: Sequence[Leaning], strength: float) -> str:
    sides = [(one.liked if strength > 0 else one.disliked).name for one in found if one.effect]
    away = "" if strength > 0 else ", away from what is liked,"
    return f"Leans{away} to {', '.join(sides)}, for {taste.told}, at strength {strength:g}.{taste.advice}"
