"""Whether a personal picture still shows what its prompt asks for, as a tower with a text side sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch.nn import functional as F

from ..encoders.features import PictureFeatures
from ..encoders.towers.open_clip import TextSide
from ..evaluation import bootstrap
from ..pictures import Picture

PROMPTS = 12
"""So many prompts that training never saw are painted, plain and for one person each."""


def prompt_loss(
    plain: Sequence[Image.Image],
    personal: Sequence[Image.Image],
    prompts: Sequence[str],
    features: PictureFeatures,
    text_side: TextSide,
) -> dict[str, Any]:
    """By how much the cosine between picture and prompt (CLIPScore: Hessel et al. 2021) is lower for personal pictures
    than for plain ones of the same prompt and seed, with an interval over prompts; and that of the plain ones."""
    texts = F.normalize(text_side(list(prompts)).float(), dim=-1)

    def scores(pictures: Sequence[Image.Image]) -> Any:
        seen = features.picture_features([Picture.from_image(picture) for picture in pictures])
        return (F.normalize(seen.float(), dim=-1) * texts).sum(-1).numpy()

    before = scores(plain)
    return {"plain": float(before.mean()), "lost": bootstrap(before - scores(personal))}
