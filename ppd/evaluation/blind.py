"""A blind test by the person: what is asked, when it is decided, and what the answers say.

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
from math import sqrt
from statistics import median
from typing import Any, Literal

import numpy as np

from ..pictures import Picture
from .figures import bootstrap
from .sequential import ALPHA, anytime_interval, anytime_p, binomial_interval, binomial_p, decided

Verdict = Literal["first", "second", "tie", "skip"]

REPEATED = 10
"""One of so many questions comes again."""
LATER = (4, 6)
"""How many questions after the first time it does: late enough to be forgotten, early enough for a test that stops."""
LEAST_APART = 0.5
"""Steps of a look by which two pictures must differ for an answer to say something of the look."""
LEAST_TOLD = 4
"""Answers below which nothing is said of a look."""


@dataclass(frozen=True)
class Scene:
    """One prompt and seed, painted by every arm."""

    prompt: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Question:
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


def design(scenes: Sequence[Scene], most: int, draw: random.Random) -> list[Question]:
    """At most `most` different questions of the scenes, each two arms equally often, in random order, and one in ten of
    them again.

    Of a prompt's seeds one is drawn, since answers to one prompt go together. A scene where two arms have painted the
    same picture asks nothing of those two, and neither do two pictures that stand for another prompt already.
    """
    arms = len(scenes[0].pictures) if scenes else 0
    if arms < 2 or any(len(scene.pictures) != arms for scene in scenes):
        raise ValueError("A blind test needs prompts that were painted by the same two or three arms.")
    drawn = draw.sample(scenes, len(scenes))
    by_pair = []
    for pair in combinations(range(arms), 2):
        asking = _one_of_each_prompt(drawn, pair)
        by_pair.append([(scene, pair) for scene in draw.sample(asking, len(asking))])
    chosen = [
        row for turn in zip(*(_padded(rows, len(scenes)) for rows in by_pair), strict=True) for row in turn if row
    ]
    asked = chosen[:most]
    draw.shuffle(asked)
    questions = []
    for scene, pair in asked:
        one, other = pair if draw.random() < 0.5 else pair[::-1]
        pictures = scene.pictures[one], scene.pictures[other]
        questions.append(Question(scene.prompt, pictures, (one, other)))
    return _with_repeats(questions, draw)


def folded(text: str) -> str:
    """What tells prompts and names apart: neither case nor spaces."""
    return " ".join(text.split()).casefold()


def pairs_of(trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """The pairs of arms that are compared, the lower arm first."""
    return sorted({_pair(trial) for trial in trials})


def outcomes(trials: Sequence[Trial], pair: tuple[int, int]) -> list[bool]:
    """Whether the pair's first arm won, in the order of the answers: repeats, ties and skips aside."""
    asked = [one for one in trials if one.repeats is None and _pair(one) == pair and one.winner() is not None]
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
        if one.verdict is None and (one.repeats in answered if one.repeats is not None else _pair(one) not in done)
    ]


def score(arms: Sequence[str], trials: Sequence[Trial], spent: float) -> dict[str, Any]:
    """All that a test says, as JSON: `pairs` (who won how often), `prompts`, `consistency`, and the time it took.

    `spent` is in seconds, answers that were taken back included. A pair's `interval` and `p` hold whenever one stops;
    `fixed` is what a test of a number fixed beforehand would say.
    """
    alpha = error_of(trials)
    answered = [one for one in trials if one.verdict not in (None, "skip")]
    first_times = [one for one in answered if one.repeats is None]
    return {
        "pairs": [_compared(arms, first_times, pair, alpha) for pair in pairs_of(trials)],
        "prompts": [
            {"prompt": prompt, "pairs": [_counts(arms, theirs, pair) for pair in pairs_of(theirs)]}
            for prompt in dict.fromkeys(one.prompt for one in first_times)
            for theirs in [[one for one in first_times if one.prompt == prompt]]
        ],
        "consistency": consistency(trials),
        "answers": len(answered),
        "asked": len(trials),
        "seconds_per_pick": round(median(one.seconds for one in answered), 1) if answered else None,
        "minutes": round(spent / 60, 2),
        "alpha": ALPHA,
    }


def over_prompts(trials: Sequence[Trial], pair: tuple[int, int]) -> dict[str, float] | None:
    """The bootstrap over prompts of the first arm's rate, a tie as half a win; None without an answer."""
    told = {pair[0]: 1.0, pair[1]: 0.0, None: 0.5}
    asked = [one for one in trials if one.repeats is None and _pair(one) == pair]
    rates = [told[one.winner()] for one in asked if one.verdict not in (None, "skip")]
    return bootstrap(np.array(rates)) if rates else None


def consistency(trials: Sequence[Trial]) -> dict[str, Any]:
    """How often the person preferred the same of a question that came again, as `steadiness` tells it.

    Win rates leave ties out, so a bound on them does as well: `ties` counts repeats where "neither" was said at least
    once.
    """
    by_place = {one.place: one for one in trials}
    again = [(by_place[one.repeats], one) for one in trials if one.repeats is not None]
    again = [(one, two) for one, two in again if not {one.verdict, two.verdict} & {None, "skip"}]
    winners = [(one.winner(), two.winner()) for one, two in again if "tie" not in (one.verdict, two.verdict)]
    return steadiness(sum(one == two for one, two in winners), len(winners), len(again) - len(winners))


def steadiness(same: int, of: int, ties: int) -> dict[str, Any]:
    """The share of preferences that were the same again, its exact interval, and the ceiling that it puts on any win
    rate: who agrees with themselves in a share c of them follows one preference in q, c = q^2 + (1 - q)^2.

    `ceiling` is q at the share itself, `most` at the interval's upper end, which is what few repeats can tell. `ties`
    are repeats that name no winner and count in neither.
    """
    counts = {"same": same, "of": of, "ties": ties}
    if not of:
        return counts | {"share": None, "interval": None, "ceiling": None, "most": None}
    share, interval = same / of, binomial_interval(same, of)
    ceiling, most = ((1 + sqrt(max(0.0, 2 * c - 1))) / 2 for c in (share, interval[1]))
    return counts | {"share": share, "interval": list(interval), "ceiling": ceiling, "most": most}


def by_look(
    looks: Sequence[tuple[str, str, str]], amounts: np.ndarray, trials: Sequence[Trial]
) -> list[dict[str, Any]]:
    """Of each look (name, low word, high word), how often the picture with more of the high side was preferred.

    `amounts` [n, looks] says by how many steps the first picture of each trial is above the second. An answer counts
    where its pictures are at least LEAST_APART apart in the look.
    """
    found = []
    for column, (name, low, high) in zip(amounts.T, looks, strict=True):
        told = [
            (amount > 0) == (trial.winner() == trial.arms[0])
            for amount, trial in zip(column, trials, strict=True)
            if abs(amount) >= LEAST_APART and trial.winner() is not None
        ]
        if len(told) >= LEAST_TOLD:
            wins = sum(map(bool, told))
            found.append({"look": name, "low": low, "high": high, "high_won": wins, "of": len(told)})
            found[-1] |= {"interval": list(binomial_interval(wins, len(told))), "p": binomial_p(wins, len(told))}
    return sorted(found, key=lambda one: one["p"])


def _compared(arms: Sequence[str], trials: Sequence[Trial], pair: tuple[int, int], alpha: float) -> dict[str, Any]:
    told = outcomes(trials, pair)
    wins, losses = sum(told), len(told) - sum(told)
    return _counts(arms, trials, pair) | {
        "rate": wins / len(told) if told else None,
        "interval": list(anytime_interval(wins, losses, alpha)),
        "p": min(1.0, anytime_p(told) * ALPHA / alpha),
        "decided": decided(told, alpha),
        "fixed": {
            "interval": list(binomial_interval(wins, len(told))) if told else None,
            "p": binomial_p(wins, len(told)),
        },
    }


def _counts(arms: Sequence[str], trials: Sequence[Trial], pair: tuple[int, int]) -> dict[str, Any]:
    theirs = [one for one in trials if _pair(one) == pair]
    told = outcomes(theirs, pair)
    return {
        "arms": [arms[one] for one in pair],
        "wins": sum(told),
        "losses": len(told) - sum(told),
        "ties": sum(one.verdict == "tie" for one in theirs),
    }


def _with_repeats(questions: list[Question], draw: random.Random) -> list[Question]:
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
        again = Question(one.prompt, one.pictures[::-1], one.arms[::-1], places[place])
        made.append(again if is_repeat else one)
    return made


def _one_of_each_prompt(scenes: Sequence[Scene], pair: tuple[int, int]) -> list[Scene]:
    """The first scene of each prompt that has two pictures to compare which no other has."""
    found: dict[str, Scene] = {}
    compared: set[frozenset[str]] = set()
    for scene in scenes:
        prompt, two = folded(scene.prompt), frozenset(scene.pictures[arm].digest for arm in pair)
        if len(two) == 2 and prompt not in found and two not in compared:
            found[prompt] = scene
            compared.add(two)
    return list(found.values())


def _padded(rows: list[Any], length: int) -> list[Any]:
    return rows + [None] * (length - len(rows))


def _pair(trial: Trial) -> tuple[int, int]:
    return min(trial.arms), max(trial.arms)
