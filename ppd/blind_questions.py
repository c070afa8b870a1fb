"""The questions of a blind test by the person: what is asked, of what, and when it is decided.

Two or three arms (ways to paint, such as the base and the person's own taste) have painted the same prompts by the same
seeds. Each question shows one prompt by two of them. Which stands on the left is an independent fair coin, so that a
person who cannot tell the arms apart, or always takes the left one, answers like a fair coin question by question,
which is what the sequential test assumes. It assumes as well that answers do not go together, which those to one prompt
do: a prompt asks one question of each two arms, whatever the number of its seeds. Some questions come again, sides
exchanged: how often a person agrees with themselves bounds what any model can win.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from .pairs import folded
from .pictures import Picture
from .sequential import ALPHA, decided

Verdict = Literal["first", "second", "tie", "skip"]
REPEATED = 10
"""One of so many questions comes again."""
LATER = (4, 6)
"""How many questions after the first time it does: late enough to be forgotten, early enough for a test that stops."""


@dataclass(frozen=True)
class Matchup:
    """One prompt and seed, painted by every arm."""

    prompt: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class BlindQuestion:
    """Two arms' pictures of one prompt, the first on the left; `repeats` is the place of the question that it asks
    again, sides exchanged."""

    prompt: str
    pictures: tuple[Picture, Picture]
    arms: tuple[int, int]
    repeats: int | None = None


@dataclass(frozen=True)
class Trial:
    """A question of a filed test: pictures by their sha256, and the standing answer with its number, which grows with
    time; `repeats` is the place of the one that it asks again."""

    id: str
    place: int
    prompt: str
    pictures: tuple[str, str]
    arms: tuple[int, int]
    repeats: int | None = None
    verdict: Verdict | None = None
    seconds: float = 0.0
    pick: int = 0

    def winner(self) -> int | None:
        """The arm that was preferred, None for a tie or a skip, or without an answer."""
        return {"first": self.arms[0], "second": self.arms[1]}.get(self.verdict or "")


def design(matchups: Sequence[Matchup], most: int, draw: random.Random) -> list[BlindQuestion]:
    """At most `most` different questions, each two arms equally often, in random order, and one in ten of them again.

    Of a prompt's seeds one is drawn, since answers to one prompt go together. A matchup where two arms have painted the
    same picture asks nothing of those two, and neither do two pictures that stand for another prompt already.
    """
    arms = len(matchups[0].pictures) if matchups else 0
    if arms < 2 or any(len(matchup.pictures) != arms for matchup in matchups):
        raise ValueError(
            "A blind test needs prompts painted by the same two or three arms: paint each of them in every way."
        )
    drawn = draw.sample(matchups, len(matchups))
    by_pair = []
    for pair in combinations(range(arms), 2):
        asking = _one_of_each_prompt(drawn, pair)
        by_pair.append([(matchup, pair) for matchup in draw.sample(asking, len(asking))])
    chosen = [
        row for turn in zip(*(_padded(rows, len(matchups)) for rows in by_pair), strict=True) for row in turn if row
    ]
    asked = chosen[:most]
    draw.shuffle(asked)
    questions = []
    for matchup, pair in asked:
        one, other = pair if draw.random() < 0.5 else pair[::-1]
        pictures = matchup.pictures[one], matchup.pictures[other]
        questions.append(BlindQuestion(matchup.prompt, pictures, (one, other)))
    return _with_repeats(questions, draw)


def pairs_of(trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """The pairs of arms that are compared, the lower arm first."""
    return sorted({pair_of(trial) for trial in trials})


def outcomes(trials: Sequence[Trial], pair: tuple[int, int]) -> list[bool]:
    """Whether the pair's first arm won, in the order of the answers: repeats, ties and skips aside."""
    asked = [one for one in trials if one.repeats is None and pair_of(one) == pair and one.winner() is not None]
    return [one.winner() == pair[0] for one in sorted(asked, key=lambda one: one.pick)]


def error_of(trials: Sequence[Trial]) -> float:
    """The error of one pair's test, so that all together err in at most ALPHA (Bonferroni)."""
    return ALPHA / max(1, len(pairs_of(trials)))


def left_to_ask(trials: Sequence[Trial]) -> list[Trial]:
    """What is to be asked still, in order: nothing more of two arms that are decided, but for what was answered once
    and is to come again."""
    alpha = error_of(trials)
    done = {pair for pair in pairs_of(trials) if decided(outcomes(trials, pair), alpha)}
    answered = {one.place for one in trials if one.verdict not in (None, "skip")}
    return [
        one
        for one in trials
        if one.verdict is None and (one.repeats in answered if one.repeats is not None else pair_of(one) not in done)
    ]


def _with_repeats(questions: list[BlindQuestion], draw: random.Random) -> list[BlindQuestion]:
    """Of each ten one of the first half again, some questions later, with its sides exchanged."""
    order: list[tuple[float, int, bool]] = [(float(place), place, False) for place in range(len(questions))]
    for start in range(0, len(questions), REPEATED):
        place = draw.randrange(start, min(start + REPEATED // 2, len(questions)))
        order.append((place + draw.randint(*LATER) + 0.5, place, True))
    order.sort()
    places = {place: index for index, (_, place, is_repeat) in enumerate(order) if not is_repeat}
    made = []
    for _, place, is_repeat in order:
        one = questions[place]
        again = BlindQuestion(one.prompt, one.pictures[::-1], one.arms[::-1], places[place])
        made.append(again if is_repeat else one)
    return made


def _one_of_each_prompt(matchups: Sequence[Matchup], pair: tuple[int, int]) -> list[Matchup]:
    """The first matchup of each prompt that has two pictures to compare which no other has."""
    found: dict[str, Matchup] = {}
    compared: set[frozenset[str]] = set()
    for matchup in matchups:
        prompt, two = folded(matchup.prompt), frozenset(matchup.pictures[arm].digest for arm in pair)
        if len(two) == 2 and prompt not in found and two not in compared:
            found[prompt] = matchup
            compared.add(two)
    return list(found.values())


def _padded(rows: list[Any], length: int) -> list[Any]:
    return rows + [None] * (length - len(rows))


def pair_of(trial: Trial) -> tuple[int, int]:
    """The two arms of a question, the lower one first."""
    return min(trial.arms), max(trial.arms)
