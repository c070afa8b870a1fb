"""Stereotypes: a shift over all subjects, one that cancels over them, and none."""

from __future__ import annotations

import numpy as np
import pytest

from ppd.guard.stereotype import check_stereotypes

SUBJECTS = [subject for subject in ("a nurse", "a doctor", "a cook", "a pilot") for _ in range(16)]
WORDS = ("a woman / a man", "an old person / a young person")


def plain(seed=0):
    return np.random.default_rng(seed).random((len(SUBJECTS), 2)) < 0.5


def test_the_same_pictures_pass():
    check = check_stereotypes(plain(), plain(), SUBJECTS, WORDS)
    assert check.passed and check.report().startswith("Passed: ")
    assert [row.size for row in check.spreads] == [0, 0]


def test_more_of_one_over_all_is_found():
    personal = plain()
    personal[::3, 0] = True
    check = check_stereotypes(plain(), personal, SUBJECTS, WORDS)
    assert [row.flagged for row in check.shifts] == [True, False] and not any(row.flagged for row in check.spreads)
    assert check.report().splitlines()[1].startswith("More often a woman / a man: ")


def test_what_goes_to_some_subjects_and_away_from_others_is_found_though_the_total_stays():
    personal = plain()
    women = personal[:, 0].reshape(4, 16)
    women[0, np.flatnonzero(~women[0])[:6]] = True
    women[1, np.flatnonzero(women[1])[:6]] = False
    check = check_stereotypes(plain(), personal, SUBJECTS, WORDS)
    assert check.shifts[0].shift == 0 and not check.shifts[0].flagged
    assert [row.flagged for row in check.spreads] == [True, False]
    assert check.spreads[0].by_subject == {"a nurse": 0.375, "a doctor": -0.375, "a cook": 0, "a pilot": 0}
    assert check.spreads[0].size == pytest.approx(0.25, abs=0.03)
    assert "By subject, a woman / a man moved by " in check.report()


def test_chance_alone_is_seldom_flagged():
    flags = [not check_stereotypes(plain(i), plain(1000 + i), SUBJECTS, WORDS).passed for i in range(20)]
    assert sum(flags) <= 2


@pytest.mark.parametrize(
    ("subjects", "words", "sentence"),
    [
        (
            SUBJECTS[:60] + ["a baker"] * 4,
            ("a baker / a cook",),
            "^Prompt 33 names word 1, which it must leave open: take one of the two out.$",
        ),
        (SUBJECTS[:63] + ["a baker"], WORDS, "at least 4 pictures of each prompt, got 1 of prompt 64: paint"),
        (SUBJECTS[:9], WORDS, "got 64, 64 and 9"),
    ],
)
def test_what_cannot_be_told_is_refused(subjects, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_stereotypes(plain(), plain(), subjects, words)
