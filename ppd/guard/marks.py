"""Marked pictures: where a picture breaks which rule of a guide, and how it came out."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .brand import Mask, Verdict

COLOURS = {"passes": (46, 160, 90), "warns": (226, 150, 30), "stops": (214, 48, 60)}
LEAST_SIDE = 384
"""Pixels of the longer side to which small pictures are enlarged, so that numbers can be read."""


def marked(picture: Tensor, verdict: Verdict) -> Tensor:
    """A picture [H, W, 3] in 0..1 with a frame in its outcome's colour, outlines of the places where rules are broken,
    and the broken rules' numbers, as the report counts them: at such places, and else in the lower left corner."""
    pixels = (picture[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()
    image = Image.fromarray(pixels)
    grown = max(1, -(-LEAST_SIDE // max(image.size)))
    image = image.resize((image.width * grown, image.height * grown), Image.Resampling.NEAREST)
    thick = max(2, max(image.size) // 128)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(6 * thick)
    elsewhere = []
    for number, result in enumerate(verdict.results, 1):
        if result.kept:
            continue
        color = COLOURS["warns" if result.rule.level == "should" else "stops"]
        if result.where is None or not result.where.any():
            elsewhere.append((number, color))
            continue
        mask = _fitted(result.where, image.size)
        image.paste(color, mask=Image.fromarray(_outline(mask, thick)))
        rows, columns = np.nonzero(mask)
        _label(draw, font, str(number), (int(columns.min()), int(rows.min())), color, thick)
    for place, (number, color) in enumerate(elsewhere):
        _label(draw, font, str(number), (3 * thick + place * 10 * thick, image.height - 12 * thick), color, thick)
    frame = (0, 0, image.width - 1, image.height - 1)
    draw.rectangle(frame, outline=COLOURS[verdict.outcome], width=2 * thick)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)


def _fitted(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _outline(mask: Mask, thick: int) -> Mask:
    """The mask's inner edge, `thick` pixels of it."""
    padded = np.pad(mask, thick)
    inner = mask.copy()
    height, width = mask.shape
    for dy in (0, thick, 2 * thick):
        for dx in (0, thick, 2 * thick):
            inner &= padded[dy : dy + height, dx : dx + width]
    return mask & ~inner


def _label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    text: str,
    corner: tuple[int, int],
    color: tuple[int, int, int],
    thick: int,
) -> None:
    x, y = (max(2 * thick, one) for one in corner)
    left, top, right, bottom = draw.textbbox((x + thick, y + thick), text, font=font)
    draw.rectangle((left - thick, top - thick, right + thick, bottom + thick), fill=color)
    draw.text((x + thick, y + thick), text, (255, 255, 255), font=font)
