"""What a guard rejects, as questions for a person: "not like this" is theirs to say, and never taken for granted.

Which picture is left and which right goes by their hashes, so that the place tells nothing. `origin` says what was
rejected and why. None is filed of who is painted (stereotype.py): a taste is to learn nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pictures import Picture
from ..store.candidates import Question
from .brand import Verdict
from .content import ContentCheck
from .probes import names

MOST = 30
"""Questions of one check of content."""


def offers(
    guide: str, verdicts: Sequence[Verdict], pictures: Sequence[Picture], prompts: Sequence[str]
) -> list[Question]:
    """Each stopped picture against a passing one of the same prompt, the passing ones in turn; none where nothing of
    the prompt passes."""
    passing: dict[str, list[Picture]] = {}
    for verdict, picture, prompt in zip(verdicts, pictures, prompts, strict=True):
        if verdict.outcome == "passes":
            passing.setdefault(prompt, []).append(picture)
    questions: list[Question] = []
    for verdict, picture, prompt in zip(verdicts, pictures, prompts, strict=True):
        others = [one for one in passing.get(prompt, []) if one.digest != picture.digest]
        if verdict.outcome != "stops" or not others:
            continue
        broken = [str(result.rule) for result in verdict.results if not result.kept]
        other = others[len(questions) % len(others)]
        questions.append(_question(prompt, picture, other, {"guide": guide, "broken": broken}))
    return questions


def content_offers(
    check: ContentCheck,
    words: Sequence[str],
    found: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    pictures: tuple[Sequence[Picture], Sequence[Picture]],
    prompts: Sequence[str],
) -> list[Question]:
    """Personal pictures against the plain ones of the same prompt and seed, where a flagged thing is there unasked and
    not in the plain one, or is lost that the plain one has: MOST of them at most.

    `found` says which of `words` [k] are in plain and in personal `pictures` [n], both [n, k].
    """
    flagged = [(row.word, False) for row in check.leaks if row.flagged]
    flagged += [(row.word, True) for row in check.losses if row.flagged]
    rejected: dict[int, list[str]] = {}
    for word, wanted in flagged:
        base, personal = (side[:, words.index(word)] for side in found)
        asked = np.array([names(prompt, word) for prompt in prompts])
        for place in np.flatnonzero((asked == wanted) & (base == wanted) & (personal != wanted)):
            rejected.setdefault(int(place), []).append(f"{'lost' if wanted else 'unasked'}: {word}")
    return [
        _question(prompts[place], pictures[1][place], pictures[0][place], {"check": "content", "broken": broken})
        for place, broken in sorted(rejected.items())[:MOST]
    ]


def _question(prompt: str, rejected: Picture, other: Picture, why: dict[str, Any]) -> Question:
    first, second = sorted((rejected, other), key=lambda one: one.digest)
    side = "first" if first is rejected else "second"
    return Question(prompt, first, second, {"guard": {**why, "rejected": side}})
