"""Contact sheets: pictures in labelled rows and columns, with a person's picks on the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, CHOSEN = (250, 248, 244), (40, 38, 42), (140, 134, 130), (64, 132, 92)
GAP = 8


@dataclass(frozen=True)
class Margin:
    """One person's picks, (chosen, rejected) each, under a title."""

    title: str
    picks: Sequence[tuple[Image.Image, Image.Image]]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    margins: Sequence[Margin] = (),
    cell: int = 192,
) -> Image.Image:
    """Pictures `rows` scaled to `cell` px, a title over each column and under each row, picks to the left."""
    thumb = cell // 2 - GAP // 2
    caption = 22
    left = GAP if not margins else GAP + len(margins) * (2 * thumb + 3 * GAP)
    width = left + len(column_titles) * (cell + GAP)
    top = 40
    picks_height = max((len(margin.picks) for margin in margins), default=0) * (thumb + GAP)
    height = top + max(len(rows) * (cell + caption + GAP), picks_height) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)

    for i, margin in enumerate(margins):
        x0 = GAP + i * (2 * thumb + 3 * GAP)
        draw.text((x0, 10), margin.title, INK, _font(14))
        for j, (chosen, rejected) in enumerate(margin.picks):
            y = top + j * (thumb + GAP)
            sheet.paste(chosen.resize((thumb, thumb), Image.Resampling.LANCZOS), (x0, y))
            sheet.paste(rejected.resize((thumb, thumb), Image.Resampling.LANCZOS), (x0 + thumb + GAP // 2, y))
            draw.rectangle((x0 - 2, y - 2, x0 + thumb + 1, y + thumb + 1), outline=CHOSEN, width=3)

    for j, title in enumerate(column_titles):
        draw.text((left + j * (cell + GAP), 8), title, INK, _font(18))
    for i, (row, title) in enumerate(zip(rows, row_titles, strict=True)):
        y = top + i * (cell + caption + GAP)
        for j, picture in enumerate(row):
            sheet.paste(picture.resize((cell, cell), Image.Resampling.LANCZOS), (left + j * (cell + GAP), y))
        draw.text((left, y + cell + 2), title, FAINT, _font(14))
    return sheet
