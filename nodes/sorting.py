"""Pictures of any model sorted by somebody's taste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..ppd.encoders.features import PictureFeatures
from ..ppd.pairs import counted
from ..ppd.pictures import Picture
from ..ppd.sorting import Ranking, rank
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import whose
from .encoders import load_encoder
from .sockets import CATEGORY, UserEmbedding, one_person
from .whose import Taste

NOTE = "ppd_taste"
"""What saved pictures call their scores."""


class PPD_SortByTaste(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_SortByTaste",
            display_name="Sort by Taste",
            category=CATEGORY,
            description="Puts pictures in the order in which somebody would like them, best first, whatever model "
            "painted them.",
            search_aliases=["taste", "best of", "rank", "rate", "filter", "score", "aesthetic", "choose"],
            is_input_list=True,  # a list of pictures is sorted as one, like a batch
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input("images", tooltip="A batch or a list of pictures."),
                whose.person_input("Whose taste, as answered in the tab Taste, or a taste file."),
                io.Int.Input(
                    "keep", default=0, min=0, max=4096, optional=True, tooltip="How many of the best go on; 0 is all."
                ),
                io.Boolean.Input(
                    "save_scores",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=f"Write the scores of the pictures that go on, best first, into all that nodes behind this "
                    f"one save, beside the workflow, as {NOTE}. No name is written.",
                ),
                UserEmbedding.Input(
                    "user_embedding", optional=True, tooltip="Where connected, this taste instead of the person's."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="Best first: one batch where all are of one size, else a list.",
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Log-odds of each picture that goes on: above 0 it pleases more than the average picture.",
                ),
                io.String.Output(display_name="report", tooltip="The order, and how sure it is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, person: Sequence[str | None] = (whose.people.TAB,)) -> bool | str:
        return whose.check(person[0])

    @classmethod
    def fingerprint_inputs(cls, person: Sequence[str | None] = (whose.people.TAB,), **constants: Any) -> str:
        return whose.fingerprint(person[0])

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        person: Sequence[str] = (whose.people.TAB,),
        keep: Sequence[int] = (0,),
        save_scores: Sequence[bool] = (False,),
        user_embedding: Sequence[Embedding | tuple[Embedding, ...] | None] = (),
    ) -> io.NodeOutput:
        pictures = [image for batch in images for image in batch]
        connected = next((one for one in user_embedding if one is not None), None)
        if connected is None:
            taste = whose.read(person[0], cls.hidden.prompt if cls.hidden else None)
        else:
            taste = whose.of_embedding(one_person(connected, "sort by"))
        ranking = sort(pictures, taste)
        kept = ranking.order[: keep[0] or None]
        scores = ranking.scores[: len(kept)].tolist()
        report = report_of(ranking, taste, len(kept))
        if save_scores[0]:
            if cls.hidden and cls.hidden.extra_pnginfo is not None:
                rounded = [round(score, 4) for score in scores]
                cls.hidden.extra_pnginfo[NOTE] = {"scores": rounded, "taste_encoder": taste.embedding.encoder}
            else:
                report += "\nThe scores are not saved: this run has no workflow to write them beside."
        best = [pictures[index] for index in kept]
        same = all(picture.shape == best[0].shape for picture in best)
        batches = [torch.stack(best)] if same else [picture[None] for picture in best]
        return io.NodeOutput(batches, scores, report, ui=ui.PreviewText(report))


def sort(pictures: Sequence[torch.Tensor], taste: Taste) -> Ranking:
    """Rank pictures [H, W, C] in 0..1. What is seen in them is kept nowhere: most of them are thrown away."""
    if taste.encoder is None:
        raise ValueError(
            f"The taste was read by the taste encoder {taste.embedding.encoder} ({taste.embedding.encoder_hash[:12]}), "
            "which is not here: put its folder into models/taste_encoders."
        )
    encoder = load_encoder(taste.encoder)
    seen = PictureFeatures(encoder.features.tower)
    told = whose.progress(len(pictures))
    features = seen.picture_features([Picture.from_tensor(one) for one in pictures], progress=told)
    return rank(features, taste.embedding, encoder.prior)


def report_of(ranking: Ranking, taste: Taste, kept: int) -> str:
    """The order for people to read: where each picture stood before, its score, and how sure the first place is."""
    count = len(ranking.order)
    lines = [f"{counted(count, 'picture')} sorted for {taste.told}, best first{_of(kept, count)}.{taste.advice}"]
    if ranking.preferred is not None and len(ranking.preferred):
        assert ranking.spread is not None
        gap = float(ranking.scores[0] - ranking.scores[1])
        lines.append(
            f"The first would be picked over the second {round(100 * float(ranking.preferred[0]))} times in 100 "
            f"(they are {gap:.2f} apart, give or take {float(ranking.spread[0]):.2f})."
        )
    for place, (index, score) in enumerate(zip(ranking.order, ranking.scores.tolist(), strict=True), 1):
        lines.append(f"{place}. number {index + 1}: {score:+.2f}")
    return "\n".join([*lines, *taste.notes])


def _of(kept: int, count: int) -> str:
    return "" if kept == count else f", {kept} kept"
