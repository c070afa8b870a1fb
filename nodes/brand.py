"""A studio's brand guide: pictures against it, and tastes bound to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..ppd.encoders.encoder import PosteriorEncoder, TasteEncoder
from ..ppd.encoders.features import PictureFeatures
from ..ppd.files import file_digest
from ..ppd.guard.bound import bound, told
from ..ppd.guard.brand import Verdict, check_brand, report_of
from ..ppd.guard.guide import Guide, read_guide
from ..ppd.guard.marks import marked
from ..ppd.guard.offers import offers
from ..ppd.pairs import counted
from ..ppd.pictures import Picture
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders, people, whose
from .announce import say
from .collect import at
from .encoders import encoder_folder, load_encoder, reader_of, taste_encoders
from .guard import ask_inputs, file_questions, open_probe, pictures_of, probe_input
from .sockets import CATEGORY, UserEmbedding, one_person

LEAVE_OUT, STOP = "leave it out", "stop the run"


def guide_input() -> io.Combo.Input:
    """The choice of a guide."""
    return io.Combo.Input(
        "guide",
        options=folders.brand_guides(),
        tooltip=f"A file of rules that ends in {folders.GUIDE_ENDING}, in ComfyUI's input or datasets folder. How to "
        "write one: docs/guard.md.",
    )


class PPD_BrandCheck(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_BrandCheck",
            display_name="Brand Check",
            category=CATEGORY,
            description="Checks pictures against a brand guide: colours, contrast, looks, things that must or never "
            "be there, and places left free. Those that break a rule do not go on, and are marked where they do.",
            search_aliases=["brand", "guide", "guard", "check", "style guide", "filter", "quality"],
            is_output_node=True,
            is_input_list=True,  # a list of pictures is checked as one, like a batch
            inputs=[
                io.Image.Input("images", tooltip="A batch or a list of pictures."),
                guide_input(),
                probe_input(),
                io.Combo.Input(
                    "taste_encoder",
                    options=taste_encoders(),
                    default=folders.POCKET,
                    optional=True,
                    tooltip="What tells looks; used where the guide has rules for them.",
                ),
                io.Combo.Input(
                    "broken",
                    options=[LEAVE_OUT, STOP],
                    default=LEAVE_OUT,
                    optional=True,
                    tooltip="What to do with a picture that breaks a must or a never.",
                ),
                *ask_inputs(
                    "File each picture that breaks a rule as a question, against one of the same prompt that passes. "
                    "Nothing is taken as an answer: the person picks in the tab Taste."
                ),
                io.String.Input(
                    "prompt", default="", optional=True, tooltip="What the pictures show, as it was asked for."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="Those that go on, one by one. Where there are none, nothing behind this runs.",
                ),
                io.Image.Output(
                    display_name="marked",
                    is_output_list=True,
                    tooltip="All of them in a frame: green passes, amber warns, red is stopped. Where a rule is broken "
                    "stands its number, as the report counts them.",
                ),
                io.Int.Output(
                    display_name="numbers",
                    is_output_list=True,
                    tooltip="Which of the pictures go on, counted from 0.",
                ),
                io.String.Output(display_name="report", tooltip="Each rule and who keeps it, and who does not."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, guide: Sequence[str | None] = (None,), **constants: Any) -> str:
        return "" if guide[0] is None else file_digest(folders.brand_guide_file(guide[0]))

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        guide: Sequence[str],
        probe: Sequence[str] = ("pocket",),
        taste_encoder: Sequence[str] = (folders.POCKET,),
        broken: Sequence[str] = (LEAVE_OUT,),
        ask: Sequence[bool] = (False,),
        person: Sequence[str] = (people.TAB,),
        prompt: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        rules = read_guide(folders.brand_guide_file(guide[0]))
        pictures = pictures_of(images, "images")
        by_batch = [at(prompt, index) for index, batch in enumerate(images) for _ in batch]
        prompts = prompt if len(prompt) == len(pictures) else by_batch
        verdicts = _verdicts(rules, pictures, probe[0], taste_encoder[0])
        report = report_of(rules, verdicts)
        asked = [_ask(rules, verdicts, pictures, prompts, person[0])] if ask[0] else []
        numbers = [number for number, verdict in enumerate(verdicts) if verdict.outcome != "stops"]
        if broken[0] == STOP and len(numbers) < len(pictures):
            for line in asked:
                say(line)  # an error goes into ComfyUI's log, which names nobody
            raise ValueError(f"The run stops, since pictures break the brand guide. {' '.join(report.splitlines())}")
        report = "\n".join([report, *asked])
        shown = [marked(picture, verdict)[None] for picture, verdict in zip(pictures, verdicts, strict=True)]
        onward: list[Any] = [pictures[number][None] for number in numbers]
        nothing = [ExecutionBlocker(None)]
        return io.NodeOutput(onward or nothing, shown, numbers or nothing, report, ui=ui.PreviewText(report))


class PPD_BindToGuide(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_BindToGuide",
            display_name="Bind Taste to Guide",
            category=CATEGORY,
            description="Takes out of a taste what leans against the looks of a brand guide, and changes nothing else "
            "more than it must. Put it before painting.",
            search_aliases=["brand", "guide", "bind", "constrain", "project", "guard"],
            inputs=[
                UserEmbedding.Input("user_embedding", tooltip="The taste of one person."),
                guide_input(),
            ],
            outputs=[
                UserEmbedding.Output(
                    display_name="user_embedding", tooltip="The same taste where it leaned against no rule."
                ),
                io.String.Output(display_name="report", tooltip="Which rules held it back."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, guide: str | None = None, **constants: Any) -> str:
        return "" if guide is None else file_digest(folders.brand_guide_file(guide))

    @classmethod
    def execute(cls, user_embedding: Embedding | tuple[Embedding, ...], guide: str) -> io.NodeOutput:
        one = one_person(user_embedding, "bind to a guide")
        rules = read_guide(folders.brand_guide_file(guide))
        name = reader_of(one)
        encoder = None if name is None else TasteEncoder.load(encoder_folder(name))
        if encoder is None or encoder.looks is None:
            raise ValueError(
                f"The taste was read by the taste encoder {one.encoder} ({one.encoder_hash[:12]}), which is not here "
                "or tells no looks: put its folder into models/taste_encoders, or choose another."
            )
        found = bound(one, rules, encoder.looks, encoder.prior)
        report = told(found, rules)
        return io.NodeOutput(found.embedding, report, ui=ui.PreviewText(report))


def _verdicts(rules: Guide, pictures: Sequence[torch.Tensor], probe: str, taste_encoder: str) -> list[Verdict]:
    """Verdicts of pictures [H, W, C], with what the rules need opened and nothing else."""
    looker = open_probe(probe, len(pictures)) if rules.objects else None
    if not rules.looks:
        return check_brand(rules, pictures, looker)
    encoder: PosteriorEncoder = load_encoder(taste_encoder)
    looks = encoder.looks
    if looks is None:
        return check_brand(rules, pictures, looker)  # which says that they are needed

    def amounts(seen: Sequence[torch.Tensor]) -> torch.Tensor:
        features = PictureFeatures(encoder.features.tower)  # kept nowhere: most of them are thrown away
        told = whose.progress(len(seen))
        found = features.picture_features([Picture.from_tensor(one) for one in seen], progress=told)
        return looks.amounts(encoder.prior.whiten(found))

    return check_brand(rules, pictures, looker, looks, amounts)


def _ask(
    rules: Guide, verdicts: Sequence[Verdict], pictures: Sequence[torch.Tensor], prompts: Sequence[str], person: str
) -> str:
    """File what was stopped as questions for a person; what to report."""
    questions = offers(rules.name, verdicts, [Picture.from_tensor(one) for one in pictures], prompts)
    name, filed = file_questions(person, questions)
    if not questions:
        return f"Nothing to ask {name}: no stopped picture has a passing one of the same prompt."
    return f"{name} is asked {counted(filed, 'question')} about what was stopped, in the tab Taste."
