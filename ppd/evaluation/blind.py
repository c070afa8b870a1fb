"""What the answers of a blind test (blind_questions.py) say: who won how often, by prompt and by look, how steady the
person is, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import Any

import numpy as np

from ..blind_questions import Trial, error_of, outcomes, pair_of, pairs_of
from ..sequential import ALPHA, anytime_interval, anytime_p, binomial_interval, binomial_p, decided
from .figures import bootstrap

LEAST_APART = 0.5
"""Steps of a look by which two pictures must differ for an answer to say something of the look."""
LEAST_TOLD = 4
"""Answers below which nothing is said of a look."""


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
    asked = [one for one in trials if one.repeats is None and pair_of(one) == pair]
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
    theirs = [one for one in trials if pair_of(one) == pair]
    told = outcomes(theirs, pair)
    return {
        "arms": [arms[one] for one in pair],
        "wins": sum(told),
        "losses": len(told) - sum(told),
        "ties": sum(one.verdict == "tie" for one in theirs),
    }
