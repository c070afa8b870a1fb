"""A pilot: several people's blind tests as one report for a studio, with what it gave and what it cost."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_file
from ..limits import line, number, parsed, whole
from ..messages import quoted
from ..pairs import counted
from ..sequential import anytime_interval
from .blind import steadiness
from .figures import bootstrap, permutation_p
from .report import FORMAT, JSON_FILE, STYLE, VERSION, by_chance, tied_again

PILOT_JSON, PILOT_PAGE = "pilot.json", "pilot.html"
MOST = 100_000
"""Answers, minutes or picks of one test."""


@dataclass(frozen=True)
class Report:
    """What a pilot reads of one blind test: by two arms' names wins, losses and ties; questions that came again with a
    winner both times, how many with the same one, and those where a tie was said; minutes in all, seconds per answer,
    and how many picks had made the taste."""

    test: str
    person: str
    pairs: dict[tuple[str, str], tuple[int, int, int]]
    same: int
    again: int
    ties_again: int
    minutes: float
    seconds: float
    picks: int

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report.json; what is no whole report raises ValueError saying so."""
        values = parsed(path.name, path.read_bytes())
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path} is no blind test: expected format {FORMAT!r}, got {quoted(found)}.")
        if values.get("version") != VERSION:
            raise ValueError(
                f"{path} is of version {quoted(values.get('version'))}, expected {VERSION}: update this software."
            )
        try:
            again, notes = values["consistency"], values["notes"]
            of = whole("questions asked again", again["of"], 0, MOST)
            return cls(
                line("test", values["test"]),
                line("person", values["person"]),
                dict(_pair(one) for one in values["pairs"]),
                whole("the same answers", again["same"], 0, of),
                of,
                whole("ties of questions asked again", again.get("ties", 0), 0, MOST),
                number("minutes", values["minutes"], 0, MOST),
                number("seconds per pick", values["seconds_per_pick"], 0, MOST),
                whole("picks", notes.get("picks", 0), 0, MOST),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({quoted(str(error))}): take it anew from ComfyUI's output."
            ) from error


def read_reports(folders: Sequence[Path]) -> list[Report]:
    """The blind tests in some folders and below them, each test once."""
    found: dict[str, Report] = {}
    for folder in folders:
        paths = sorted(folder.rglob(JSON_FILE))
        if not paths:
            raise ValueError(
                f"There is no {JSON_FILE} in {folder}: expected a folder of “blind tests” in ComfyUI's output folder, "
                "or several."
            )
        for path in paths:
            one = Report.load(path)
            found[one.test] = one
    return list(found.values())


def pilot(reports: Sequence[Report]) -> dict[str, Any]:
    """People x arms, as JSON.

    A person's `rate` is their share of wins, ties aside, over all their tests of these two arms, `interval` holds
    whenever they stopped; `over_people` its mean over people, 95 % interval by bootstrap over people, and `p` of no
    difference by exchanging the two arms of each (None for one person). `minutes_taught` is what making the taste took
    each of them, their picks at the pace of their own test; `points_per_minute` is by how many wins in 100 above 50
    each of these minutes was repaid (None below one minute).
    """
    people = {person: f"person {place}" for place, person in enumerate(sorted({one.person for one in reports}), 1)}
    pairs = []
    for arms in sorted({arms for one in reports for arms in one.pairs}):
        rows = [_of_person(name, arms, [one for one in reports if one.person == who]) for who, name in people.items()]
        rows = [row for row in rows if row["wins"] + row["losses"]]
        if rows:
            pairs.append(_pooled(arms, rows))
    return {
        "format": "ppd-pilot",
        "version": 1,
        "people": len(people),
        "tests": len(reports),
        "pairs": pairs,
        "consistency": steadiness(
            *(sum(getattr(one, count) for one in reports) for count in ("same", "again", "ties_again"))
        ),
        "minutes_of_tests": round(sum(one.minutes for one in reports), 2),
    }


def sentences(figures: dict[str, Any]) -> list[str]:
    """What a pilot says, for people."""
    told = []
    for pair in figures["pairs"]:
        first, second = pair["arms"]
        over = pair["over_people"]
        interval = f", between {100 * over['low']:.0f} and {100 * over['high']:.0f}" if over else ""
        who = _people(len(pair["people"]))
        told.append(f"“{first}” was preferred to “{second}” {100 * pair['rate']:.0f} times in 100{interval} ({who}).")
        if over:
            told.append(by_chance(over["p"]))
    again = figures["consistency"]
    if again["of"]:
        ceiling, most = (f"{100 * again[name]:.0f}" for name in ("ceiling", "most"))
        same = f"Asked the same again, people preferred the same {again['same']} of {again['of']} times"
        limit = f": no way to paint can be expected to win more than about {ceiling} times in 100 (at most {most})"
        told.append(f"{same}{tied_again(again)}{limit if ceiling != '100' else ''}.")
    made = [row for pair in figures["pairs"] for row in pair["people"]]
    if made:
        picks, minutes = (float(np.mean([row[name] for row in made])) for name in ("picks", "minutes_taught"))
        told.append(f"Their tastes were made by {picks:.0f} picks and {minutes:.1f} minutes a person.")
    tests = counted(figures["tests"], "blind test")
    told.append(f"{_people(figures['people'])}, {tests}, {figures['minutes_of_tests']:.1f} minutes in all.")
    return told


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def write_pilot(folder: Path, figures: dict[str, Any]) -> None:
    """Write the page and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / PILOT_JSON, (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode())
    write_file(folder / PILOT_PAGE, page(figures).encode())


def page(figures: dict[str, Any]) -> str:
    """The report as one HTML page."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Pilot</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><h1>Pilot</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in sentences(figures)),
    ]
    for pair in figures["pairs"]:
        first, second = map(html.escape, pair["arms"])
        spans = [" to ".join(f"{100 * end:.0f}" for end in row["interval"]) for row in pair["people"]]
        rows = "".join(
            f"<tr><td>{row['person']}</td><td>{row['wins']} : {row['losses']}, neither {row['ties']}</td>"
            f"<td>{100 * row['rate']:.0f} in 100 ({span})</td>"
            f"<td>{row['picks']} picks, {row['minutes_taught']:.1f} minutes</td></tr>"
            for row, span in zip(pair["people"], spans, strict=True)
        )
        parts.append(f"<h2>{first} : {second}</h2><table>{rows}</table>")
    return "\n".join([*parts, "</body></html>\n"])


def _of_person(name: str, arms: tuple[str, str], reports: Sequence[Report]) -> dict[str, Any]:
    counts = [one.pairs[arms] for one in reports if arms in one.pairs]
    wins, losses, ties = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    picks = max(one.picks for one in reports)
    seconds = float(np.median([one.seconds for one in reports]))
    return {
        "person": name,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "rate": wins / max(1, wins + losses),
        "interval": list(anytime_interval(wins, losses)),
        "picks": picks,
        "minutes_taught": round(picks * seconds / 60, 2),
    }


def _pooled(arms: tuple[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over people, the arm that won more first."""
    if float(np.mean([row["rate"] for row in rows])) < 0.5:
        arms = arms[::-1]
        for row in rows:
            low, high = row["interval"]
            row |= {"wins": row["losses"], "losses": row["wins"]}
            row |= {"rate": 1 - row["rate"], "interval": [1 - high, 1 - low]}
    rates = np.array([row["rate"] for row in rows])
    minutes = float(np.mean([row["minutes_taught"] for row in rows]))
    return {
        "arms": list(arms),
        "rate": float(rates.mean()),
        "over_people": bootstrap(rates) | {"p": permutation_p(rates[:, None] - 0.5)} if len(rates) > 1 else None,
        "minutes_taught": round(minutes, 2),
        "points_per_minute": round(100 * (float(rates.mean()) - 0.5) / minutes, 2) if minutes >= 1 else None,
        "people": rows,
    }


def _pair(values: dict[str, Any]) -> tuple[tuple[str, str], tuple[int, int, int]]:
    arms = [line("an arm", arm) for arm in values["arms"]]
    if len(arms) != 2:
        raise ValueError(f"Expected two arms of a pair, got {len(arms)}.")
    first, second = arms
    wins, losses, ties = (whole(name, values[name], 0, MOST) for name in ("wins", "losses", "ties"))
    return ((first, second), (wins, losses, ties)) if first < second else ((second, first), (losses, wins, ties))
