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
            "be there, and areas to keep free. Pictures that break a must or a never are left out, or stop the run.",
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
                    tooltip="Taste encoder that measures looks; used only if the guide has rules for looks.",
                ),
                io.Combo.Input(
                    "broken",
                    options=[LEAVE_OUT, STOP],
                    default=LEAVE_OUT,
                    optional=True,
                    tooltip="What happens to a picture that breaks a must or a never.",
                ),
                *ask_inputs(
                    "Ask in the tab Taste about each picture that breaks a rule, beside one of the same prompt that "
                    "passes. It counts only when the person picks."
                ),
                io.String.Input("prompt", default="", optional=True, tooltip="The prompt of the pictures."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The pictures that pass or warn, one by one. If there are none, nodes connected here do "
                    "not run.",
                ),
                io.Image.Output(
                    display_name="marked",
                    is_output_list=True,
                    tooltip="All pictures, framed: green passes, amber warns, red is stopped. Where a rule is broken, "
                    "its number in the report is shown.",
                ),
                io.Int.Output(
                    display_name="numbers",
                    is_output_list=True,
                    tooltip="Indices of the pictures that pass or warn, from 0.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Each rule, how many pictures keep it, and which break it."
                ),
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
            description="Projects a taste onto a brand guide: takes out what pulls against the looks that must or "
            "never be, and changes the rest as little as possible. Put it before Personalized Denoiser.",
            search_aliases=["brand", "guide", "bind", "constrain", "project", "guard"],
            inputs=[
                UserEmbedding.Input("user_embedding", tooltip="User embedding of one person."),
                guide_input(),
            ],
            outputs=[
                UserEmbedding.Output(
                    display_name="user_embedding",
                    tooltip="The user embedding, changed only where it pulled against a rule.",
                ),
                io.String.Output(display_name="report", tooltip="Which rules changed it, and by how much."),
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
