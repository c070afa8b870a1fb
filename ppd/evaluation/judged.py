"""What judges say of arms: who would be preferred how often, by whom, how sure that is, and a page that tells it."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..blind_questions import BlindQuestion
from ..files import write_file
from ..pairs import counted, folded
from ..sequential import ALPHA, binomial_interval, binomial_p
from .figures import Array, bootstrap_both, least_p, permutation_p
from .judges import Asked, Judge, Judged
from .report import SHOWN, STYLE, bar, by_chance, by_prompt

FORMAT = "ppd-judged"
VERSION = 1
JSON_FILE, PAGE_FILE = "judged.json", "judged.html"
MOST_SHOWN = 24
"""Pictures' pairs in the page."""
NOT_THE_PERSON = "A judge is not the person: how far it is like them, only their own blind test tells."


@dataclass(frozen=True)
class Bench:
    """One kind of judge: what it goes by, in words, and by person a judge and the questions for it. `answers` are the
    person's own to the same questions, the arm that they preferred or None, where they took a blind test."""

    told: str
    judges: Mapping[str, Judge]
    questions: Mapping[str, Sequence[BlindQuestion]]
    answers: Mapping[str, Sequence[int | None]] | None = None


def judged(arms: Sequence[str], bench: Bench) -> dict[str, Any]:
    """All that a kind of judge says of arms, as JSON.

    Of each two arms: `wins`, `losses` and `ties` over all questions, `inconsistent` ones among the ties; `rate`, where
    a tie is half a win and a prompt of several seeds is their mean, with its 95 % `interval` by bootstrap over people
    and prompts; `p` by permutation. `people` has each one's. For one person also `exact`, the sign test over prompts,
    whose interval stays honest where all prompts say the same.
    """
    if not all(bench.questions[person] for person in bench.judges):
        raise ValueError(
            "All ways have painted the same pictures, so there is nothing to judge: is the strength 0, or is one "
            "folder given twice?"
        )
    said = {
        person: judge.judge([Asked(one.prompt, *one.pictures) for one in bench.questions[person]])
        for person, judge in bench.judges.items()
    }
    told = [(who, one, answer) for who in said for one, answer in zip(bench.questions[who], said[who], strict=True)]
    pairs = sorted({one.arms for _, one, _ in told})
    return {
        "judge": bench.told,
        "arms": list(arms),
        "people": len(said),
        "pairs": [_compared(arms, pair, [row for row in told if row[1].arms == pair]) for pair in pairs],
        "prompts": _prompts(arms, [row[1:] for row in told]),
        "agreement": None if bench.answers is None else _agreement(bench, said),
    }


def sentences(figures: dict[str, Any]) -> list[str]:
    """What a kind of judge says, for people."""
    lines = [_of_pair(pair, figures["people"]) for pair in figures["pairs"]]
    agreement = figures["agreement"]
    if agreement and agreement["of"]:
        low, high = (f"{100 * end:.0f}" for end in agreement["interval"])
        lines.append(
            f"The person, asked the same in a blind test, preferred the same {agreement['same']} of {agreement['of']} "
            f"times (95 % between {low} and {high} %)."
        )
    return [*lines, NOT_THE_PERSON]


def write_judged(folder: Path, benches: Sequence[tuple[Bench, dict[str, Any]]]) -> None:
    """Write the page and the figures of all kinds of judges."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"format": FORMAT, "version": VERSION, "judged": [figures for _, figures in benches]}
    write_file(folder / JSON_FILE, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
    write_file(folder / PAGE_FILE, page(benches).encode())


def page(benches: Sequence[tuple[Bench, dict[str, Any]]]) -> str:
    """The report as one HTML page, some of the pictures in it."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Judged</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><h1>Judged</h1>",
    ]
    for bench, figures in benches:
        parts.append(f"<h2>{html.escape(bench.told)}</h2>")
        for pair in figures["pairs"]:
            parts.append(f"<div class='pair'><p>{html.escape(_of_pair(pair, figures['people']))}</p>{bar(pair)}</div>")
        parts += [f"<p>{html.escape(line)}</p>" for line in sentences(figures)[len(figures["pairs"]) :]]
        parts += [_people(pair) for pair in figures["pairs"] if figures["people"] > 1]
        parts.append(by_prompt(figures["prompts"]))
    bench, figures = benches[0]
    parts.append("<h2>The pictures</h2><div class='asked'>")
    parts += [_shown(figures["arms"], one) for one in next(iter(bench.questions.values()))[:MOST_SHOWN]]
    return "\n".join([*parts, "</div></body></html>\n"])


def _compared(
    arms: Sequence[str], pair: tuple[int, int], told: Sequence[tuple[str, BlindQuestion, Judged]]
) -> dict[str, Any]:
    people = list(dict.fromkeys(who for who, *_ in told))
    rows = _rates(told, people)
    found = _counts(arms, pair, [row[1:] for row in told]) | {
        "inconsistent": sum(not answer.is_consistent for *_, answer in told),
        "rate": float(np.nanmean(rows)),
        "interval": bootstrap_both(rows),
        "p": permutation_p(rows - 0.5),
        "people": [
            {"person": who, "rate": float(np.nanmean(row))}
            | _counts(arms, pair, [(one, answer) for name, one, answer in told if name == who])
            for who, row in zip(people, rows, strict=True)
        ],
    }
    if len(people) == 1:
        wins, losses = int((rows > 0.5).sum()), int((rows < 0.5).sum())
        found["exact"] = {
            "prompts_won": wins,
            "prompts_lost": losses,
            "p": binomial_p(wins, wins + losses),
            "interval": list(binomial_interval(wins, wins + losses)) if wins + losses else None,
        }
    return found


def _rates(told: Sequence[tuple[str, BlindQuestion, Judged]], people: Sequence[str]) -> Array:
    """[people, prompts]: how often the first arm won, a tie as half; NaN where somebody was not asked."""
    prompts = list(dict.fromkeys(folded(one.prompt) for _, one, _ in told))
    values: dict[tuple[int, int], list[float]] = {}
    for who, one, answer in told:
        place = people.index(who), prompts.index(folded(one.prompt))
        values.setdefault(place, []).append({"first": 1.0, "second": 0.0}.get(answer.verdict, 0.5))
    rows = np.full((len(people), len(prompts)), np.nan)
    for place, rates in values.items():
        rows[place] = np.mean(rates)
    return rows


def _counts(arms: Sequence[str], pair: tuple[int, int], told: Sequence[tuple[BlindQuestion, Judged]]) -> dict[str, Any]:
    verdicts = Counter(answer.verdict for _, answer in told)
    counts = {"wins": verdicts["first"], "losses": verdicts["second"], "ties": verdicts["tie"]}
    return {"arms": [arms[one] for one in pair], **counts}


def _prompts(arms: Sequence[str], told: Sequence[tuple[BlindQuestion, Judged]]) -> list[dict[str, Any]]:
    """As `blind.score` tells them, over all people."""
    found: dict[str, list[tuple[BlindQuestion, Judged]]] = {}
    for row in told:
        found.setdefault(row[0].prompt, []).append(row)
    return [
        {
            "prompt": prompt,
            "pairs": [
                _counts(arms, pair, [row for row in rows if row[0].arms == pair])
                for pair in sorted({one.arms for one, _ in rows})
            ],
        }
        for prompt, rows in found.items()
    ]


def _agreement(bench: Bench, said: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """How often judge and person prefer the same where both prefer one."""
    same = of = 0
    for who, answers in (bench.answers or {}).items():
        for one, answer, preferred in zip(bench.questions[who], said[who], answers, strict=True):
            winner = {"first": one.arms[0], "second": one.arms[1]}.get(answer.verdict)
            of += None not in (winner, preferred)
            same += winner is not None and winner == preferred
    return {"same": same, "of": of, "interval": list(binomial_interval(same, of)) if of else None}


def _of_pair(pair: dict[str, Any], people: int) -> str:
    (first, second), interval = pair["arms"], pair["interval"]
    asked = counted(interval["prompts"], "prompt") + (f", {people} people" if people > 1 else "")
    odd = f", {pair['inconsistent']} of them since the order decided" if pair["inconsistent"] else ""
    tied = f"; neither: {pair['ties']}{odd}" if pair["ties"] else ""
    p, (rate, low, high) = pair["p"], (interval[name] for name in ("mean", "low", "high"))
    least = least_p(people, interval["prompts"])
    if people == 1:
        exact = pair["exact"]
        if exact["interval"] is None:
            return f"“{first}” or “{second}”: no preference ({asked}{tied})."
        p, (low, high) = exact["p"], exact["interval"]
        rate = exact["prompts_won"] / (exact["prompts_won"] + exact["prompts_lost"])
    if rate < 0.5:
        first, second, rate, low, high = second, first, 1 - rate, 1 - high, 1 - low
    return (
        f"“{first}” preferred to “{second}” {100 * rate:.0f} times in 100, with 95 % confidence between "
        f"{100 * low:.0f} and {100 * high:.0f} ({asked}{tied}). {by_chance(p)}"
        + (f" No answers to so few could make it fewer than {100 * least:.0f}: ask more." if least > ALPHA else "")
    )


def _people(pair: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(row['person'])}</td><td>{row['wins']} : {row['losses']}, neither {row['ties']}</td>"
        f"<td>{100 * row['rate']:.0f} in 100</td></tr>"
        for row in pair["people"]
    )
    first, second = map(html.escape, pair["arms"])
    return f"<h2>{first} : {second}, by person</h2><table>{rows}</table>"


def _shown(arms: Sequence[str], one: BlindQuestion) -> str:
    frames = []
    for arm, picture in zip(one.arms, one.pictures, strict=True):
        data = base64.b64encode(picture.small_jpeg(SHOWN)).decode()
        frames.append(f"<figure><img alt='' src='data:image/jpeg;base64,{data}'>{html.escape(arms[arm])}</figure>")
    return f"<div><div>{''.join(frames)}</div><p class='faint'>{html.escape(one.prompt)}</p></div>"
