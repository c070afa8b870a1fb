"""A moodboard: pictures somebody loves, without anything that they were preferred to.

Each loved picture is a choice of it among the pictures of a background, which stand for what there is: the studies, or
the folder's rest. So the likelihood is that of exponential tilting p(x | u) = p(x) exp(u . phi(x)) / Z(u), with the
background as a sample of p for Z (noise-contrastive estimation: Gutmann and Hyvarinen 2010; as a choice, in its ranking
form: Ma and Collins 2018, arXiv 1809.01812). The background is unlabelled, not disliked: it may hold pictures that
would be loved (positive-unlabelled learning: Elkan and Noto 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

from .pairs import PreferencePair
from .pictures import Picture

MOST_BACKGROUND = 64
"""Pictures of the background; benchmarks/choices.py says what more of them bring."""
LOVED = "love-"
"""What the ids and choices of a moodboard's pairs begin with: they belong to no moment."""
KEPT = "keep-"
"""What the choices of rated pictures begin with: one that was kept, among those of its prompt that were not."""
MOST_PAIRS = 256
"""Of several loved pictures, about as many comparisons in all: each counts against a part of the background then, in
turn. That costs a question no time however many are loved, and tells more than all against all, where one odd picture
of the background would count in every choice (benchmarks/choices.py)."""


def is_rated(pair: PreferencePair) -> bool:
    """Whether a pair is of pictures that were rated or loved, each of which counts in several comparisons."""
    return any(mark in (pair.choice or "") for mark in (KEPT, LOVED))


def turns(loved: int, others: int) -> list[list[int]]:
    """Which of so many others each loved picture counts against: MOST_PAIRS in all or one each, all others in turn."""
    each = min(others, max(1, MOST_PAIRS // max(1, loved)))
    return [[(each * number + one) % others for one in range(each)] for number in range(loved)]


def moodboard_pairs(
    loved: Sequence[Picture], background: Sequence[Picture], prompt: str = "", most: int = MOST_BACKGROUND
) -> list[PreferencePair]:
    """One choice per loved picture, each against its `turns` of at most `most` pictures of the background, never loved
    ones.

    Those with the smallest hashes count, which is an even draw, the same every time, and mostly the same after a few
    more pictures came in. What is there twice counts once. ValueError where nothing is left of the background.
    """
    chosen = {picture.digest: picture for picture in loved}
    others = {picture.digest: picture for picture in background if picture.digest not in chosen}
    if chosen and not others:
        raise ValueError(
            f"A moodboard needs other pictures to count against, got {len(loved)} loved and none beside them: add some "
            "of what there is, such as studies or the rest of the folder."
        )
    against = sorted(others)[:most]
    return [
        PreferencePair(
            prompt, picture, others[against[other]], f"{LOVED}{digest[:16]}-{number}", choice=f"{LOVED}{digest}"
        )
        for (digest, picture), turn in zip(chosen.items(), turns(len(chosen), len(against)), strict=True)
        for number, other in enumerate(turn, 1)
    ]
