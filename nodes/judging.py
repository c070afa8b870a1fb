"""Pictures judged without asking: by the posterior of somebody's picks, or by a text encoder that sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import comfy.sd
import torch
from comfy_api.latest import io, ui

from ..ppd.evaluation.arms import questions_of
from ..ppd.evaluation.judged import Bench, judged, sentences
from ..ppd.evaluation.judges import Judge, PosteriorJudge, VLMJudge
from ..ppd.hosts.comfyui_verdicts import TextEncoderReader
from ..ppd.pairs import PreferencePair, counted
from . import whose
from .blind_test import NAMES, compared_inputs, matchups_of
from .encoders import encoder_digest, load_encoder, taste_encoders
from .sockets import CATEGORY, PreferencePairs

SHOWN = 4


class PPD_JudgePictures(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_JudgePictures",
            display_name="Judge Pictures",
            category=CATEGORY,
            description="Which of two ways to paint would somebody prefer? Judged from their picks, or by a text "
            "encoder that sees, without asking them. Only their own blind test tells how far that is like them.",
            search_aliases=["judge", "evaluate", "compare", "win rate", "VLM", "score", "preference"],
            is_input_list=True,  # a list has a batch for each prompt
            inputs=[
                *compared_inputs(),
                PreferencePairs.Input(
                    "pairs",
                    tooltip="Whose taste: picks that made none of these pictures, such as the newest of Load "
                    "Preference Pairs (limit) where My Taste counts the first answers only.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=taste_encoders(),
                    tooltip="Taste encoder that reads the picks. With a text encoder it is not used.",
                ),
                io.String.Input("name_a", default=NAMES[0], optional=True, tooltip="What the report calls the first."),
                io.String.Input("name_b", default=NAMES[1], optional=True, tooltip="What the report calls the second."),
                io.Int.Input(
                    "shown",
                    default=SHOWN,
                    min=0,
                    max=16,
                    optional=True,
                    advanced=True,
                    tooltip="Pairs of the person that a text encoder is shown before each question.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="A text encoder that sees, such as Qwen3-VL or Gemma 4: it is shown some of the picks and "
                    "asked in both orders. Answers that the order decides count as neither.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Who would be preferred, and how sure that is."),
                io.Float.Output(
                    display_name="share",
                    tooltip="How often the first way would be preferred, 0 to 1; neither counts half.",
                ),
                io.String.Output(display_name="figures", tooltip="All counts, as JSON."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder: Sequence[str | None] = (None,), **constants: Any) -> str:
        return "" if encoder[0] is None else encoder_digest(encoder[0])

    @classmethod
    def execute(
        cls,
        images_a: list[torch.Tensor],
        images_b: list[torch.Tensor],
        prompts: Sequence[str],
        pairs: list[list[PreferencePair]],
        encoder: Sequence[str],
        name_a: Sequence[str] = NAMES[:1],
        name_b: Sequence[str] = NAMES[1:2],
        shown: Sequence[int] = (SHOWN,),
        clip: list[comfy.sd.CLIP] | None = None,
    ) -> io.NodeOutput:
        picks = [pair for pair in pairs[0] if not pair.tie]
        if not picks:
            raise ValueError("There are no picks to judge by: connect somebody's who has picked.")
        questions = questions_of(matchups_of([("a", images_a), ("b", images_b)], prompts))
        judge: Judge
        if clip is None:
            told, judge = f"By {counted(len(picks), 'pick')}", PosteriorJudge(load_encoder(encoder[0]), picks)
        else:
            some = picks[-shown[0] :] if shown[0] else []
            told = f"By a text encoder that was shown {counted(len(some), 'pair')}"
            judge = VLMJudge(TextEncoderReader(clip[0]), some, progress=whose.progress(len(questions)))
        figures = judged([name_a[0], name_b[0]], Bench(told, {"person": judge}, {"person": questions}))
        report = "\n".join([f"{told}:", *sentences(figures)])
        share = figures["pairs"][0]["rate"]
        return io.NodeOutput(report, share, json.dumps(figures, ensure_ascii=False), ui=ui.PreviewText(report))
