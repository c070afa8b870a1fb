"""Where pairs come from: pictures of the artist's own workflow, filed as questions for a person."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..ppd.pairs import Picture
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders
from .sockets import CATEGORY, UserEmbedding, one_person


class PreferenceCollector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreferenceCollector",
            display_name="Collect Preferences",
            category=CATEGORY,
            description="Files pairs of pictures as questions for a person. Nothing waits for an answer.",
            search_aliases=["preference", "taste", "pick", "compare", "duel", "choose", "rate"],
            is_output_node=True,
            hidden=[io.Hidden.prompt],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of one prompt: a batch, asked about two by two."),
                io.String.Input("person", default=folders.ME, tooltip="Whose taste is asked for; made if new."),
                io.String.Input(
                    "prompt", default="", multiline=True, tooltip="What the pictures show, as it was asked for."
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
        other_images: torch.Tensor | None = None,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        other_embedding: Embedding | tuple[Embedding, ...] | None = None,
    ) -> io.NodeOutput:
        firsts, seconds = pairs_of(images, other_images)
        origin: dict[str, Any] = {"prompt": cls.hidden.prompt}
        for name, value in (("first", user_embedding), ("second", other_embedding)):
            if value is not None:
                embedding = one_person(value, "note whom a picture was painted for")
                origin[name] = {"encoder_hash": embedding.encoder_hash, "u": embedding.u.tolist()}
        store = folders.taste_store()
        somebody = store.person_called(person, make=True)
        assert somebody is not None
        for first, second in zip(firsts, seconds, strict=True):
            store.add_candidate(somebody.id, prompt, picture(first), picture(second), origin)
        somebody = store.person(somebody.id)
        report = f"{somebody.name}: {somebody.open} questions wait, {somebody.picks} are answered."
        newest = torch.stack([firsts[-1], seconds[-1]])
        return io.NodeOutput(report, ui={**ui.PreviewImage(newest, cls=cls).as_dict(), "text": (report,)})


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
