"""Contact sheets: sizes, and what lies where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppd.sheet import CHOSEN, INK, PAPER, Margin, contact_sheet

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)


def plain(color: tuple[int, int, int], size: int = 16) -> Image.Image:
    return Image.new("RGB", (size, size), color)


def test_pictures_lie_in_rows_and_columns():
    rows = [[plain(RED), plain(GREEN)], [plain(BLUE), plain(GREY)]]
    sheet = contact_sheet(rows, ["first", "second"], ["base", "person"], cell=64)
    assert sheet.size == (152, 236)  # 8 + 2 (64 + 8), 40 + 2 (64 + 22 + 8) + 8
    centers = [[sheet.getpixel((x, y)) for x in (40, 112)] for y in (72, 166)]
    assert centers == [[RED, GREEN], [BLUE, GREY]]
    assert sheet.getpixel((2, 2)) == PAPER


def test_titles_are_written():
    rows = [[plain(RED)]]
    without = np.asarray(contact_sheet(rows, [""], [""], cell=64))
    written = np.asarray(contact_sheet(rows, ["a boat"], ["base"], cell=64))
    changed = (without != written).any(-1)
    assert changed[:40].any() and changed[104:].any()
    assert not changed[40:104].any()
    assert (written[:40] == INK).all(-1).any()


def test_picks_stand_on_the_margin_with_the_chosen_one_framed():
    picks = [(plain(GREEN), plain(RED)), (plain(BLUE), plain(RED))]
    sheet = contact_sheet([[plain(GREY)]], ["row"], ["column"], [Margin("A", picks), Margin("B", picks)], cell=64)
    assert sheet.size == (8 + 2 * 80 + 72, 142)
    assert sheet.getpixel((8 + 160 + 32, 72)) == GREY
    for x in (8, 88):
        for y, color in ((40, GREEN), (76, BLUE)):
            assert sheet.getpixel((x + 14, y + 14)) == color
            assert sheet.getpixel((x - 1, y + 14)) == CHOSEN
            assert sheet.getpixel((x + 32 + 14, y + 14)) == RED  # as it is: faded it would say another taste


def test_the_sheet_is_tall_enough_for_the_picks():
    picks = [(plain(GREEN), plain(RED))] * 4
    assert contact_sheet([[plain(GREY)]], ["row"], ["column"], [Margin("A", picks)], cell=64).height == 40 + 4 * 36 + 8


def test_a_missing_row_title_is_refused():
    with pytest.raises(ValueError):
        contact_sheet([[plain(RED)], [plain(RED)]], ["only one"], ["base"])
