"""How often a blind test is decided, how many answers that takes, and how often it is wrong: simulated people answer
real tests of `ppd.blind_questions`, question by question.

    python -m benchmarks.blind_test [--tests 1000] [--questions 40] [--json FILE]

Each answer is the better arm's with the true win rate; one in ten is "neither", whatever the arms. "left" takes the
left picture nine times in ten, without looking. Of "by prompt" the ways are as good as each other, but the person's
liking goes by the prompt, more than by chance (quality ~ N(0, 4^2) of each prompt and way, in logits); they are asked
with one seed a prompt, and with four, as many prompts fewer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from ppd.blind_questions import Matchup, Trial, Verdict, design, left_to_ask
from ppd.evaluation.blind import score
from ppd.pictures import Picture

NEITHER = 0.1
RATES = (0.5, 0.6, 0.7, 0.8, 0.9)
SPREAD = 4.0
Person = Callable[[Trial, random.Random], Verdict]
"""Of one test."""
People = Callable[[], Person]


def prefers(rate: float) -> Person:
    """Who prefers arm 1 with a probability, against any other arm; others are equal to them."""

    def answer(trial: Trial, draw: random.Random) -> Verdict:
        if draw.random() < NEITHER:
            return "tie"
        best = 1 if 1 in trial.arms else trial.arms[0]
        wins = draw.random() < (rate if 1 in trial.arms else 0.5)
        return "first" if (trial.arms[0] == best) == wins else "second"

    return answer


def left(trial: Trial, draw: random.Random) -> Verdict:
    """Who looks at nothing."""
    return "first" if draw.random() < 0.9 else "second"


def by_prompt() -> Person:
    """Somebody anew, whose liking goes by the prompt; no arm is the better one over prompts."""
    qualities: dict[tuple[str, int], float] = {}

    def answer(trial: Trial, draw: random.Random) -> Verdict:
        first, second = (qualities.setdefault((trial.prompt, arm), draw.gauss(0, SPREAD)) for arm in trial.arms)
        return "first" if draw.random() < 1 / (1 + exp(second - first)) else "second"

    return answer


def answered(matchups: Sequence[Matchup], questions: int, person: Person, seed: int) -> list[Trial]:
    """A test from its first question to its end."""
    draw = random.Random(seed)
    trials = [
        Trial(str(place), place, one.prompt, ("", ""), one.arms, one.repeats)
        for place, one in enumerate(design(matchups, questions, draw))
    ]
    for number in range(1, len(trials) + 1):
        waiting = left_to_ask(trials)
        if not waiting:
            break
        trials[waiting[0].place] = replace(waiting[0], verdict=person(waiting[0], draw), pick=number)
    return trials


def measure(arms: int, questions: int, tests: int, people: People, seeds: int = 1) -> dict[str, Any]:
    """Of many tests, by pair of arms: the share decided for the first, for the second, and the median of answers."""
    colours = [[(number, arm, 0) for arm in range(arms)] for number in range(questions)]
    matchups = [
        Matchup(f"prompt {number // seeds}", tuple(Picture.from_image(Image.new("RGB", (1, 1), one)) for one in row))
        for number, row in enumerate(colours)
    ]
    found: dict[str, list[tuple[bool, bool]]] = {}
    counts = []
    for seed in range(tests):
        trials = answered(matchups, questions, people(), seed)
        counts.append(sum(one.verdict is not None for one in trials))
        for pair in score([str(arm) for arm in range(arms)], trials, 0.0)["pairs"]:
            ahead = pair["wins"] > pair["losses"]
            found.setdefault(":".join(pair["arms"]), []).append(
                (pair["decided"] and ahead, pair["decided"] and not ahead)
            )
    return {
        "answers": median(counts),
        "pairs": {
            pair: {"first": sum(one for one, _ in rows) / tests, "second": sum(other for _, other in rows) / tests}
            for pair, rows in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {}
    for arms, questions in ((2, arguments.questions), (3, 3 * arguments.questions // 2)):
        people: dict[str, tuple[People, int]] = {f"{rate:.1f}": (partial(prefers, rate), 1) for rate in RATES}
        people |= {"left": (lambda: left, 1), "by prompt": (by_prompt, 1), "by prompt, 4 seeds": (by_prompt, 4)}
        for name, (made, seeds) in people.items():
            rows[f"{arms} arms, {questions} questions, {name}"] = found = measure(
                arms, questions, arguments.tests, made, seeds
            )
            told = ", ".join(f"{pair} {one['first']:.3f}/{one['second']:.3f}" for pair, one in found["pairs"].items())
            print(
                f"{arms} arms, at most {questions}, {name}: {told}; {found['answers']:g} answers (median)", flush=True
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
