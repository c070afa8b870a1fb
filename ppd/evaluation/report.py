"""The report of a blind test: a page with its pictures, figures for machines, and a sheet to show around."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..blind_questions import Trial, pairs_of
from ..files import write_file
from ..pictures import Picture
from ..sheet import contact_sheet
from ..store import BlindTest
from .blind import over_prompts, score

FORMAT = "ppd-blind-test"
VERSION = 1
JSON_FILE, PAGE_FILE, SHEET_FILE = "report.json", "report.html", "sheet.png"
SHOWN = 320
"""Longer side in pixels of the pictures in the page."""
MOST_ROWS = 12
"""Of the sheet."""

STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: #faf8f4; color: #28262a;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
p { margin: .35rem 0; } .faint { color: #77706c; font-size: .9rem; }
.pair { margin: 1.25rem 0; } .pair > p { font-size: 1.15rem; }
.bar { display: flex; height: 1.6rem; border-radius: .4rem; overflow: hidden; background: #e9e4dc; font-size: .85rem; }
.bar span { display: grid; place-items: center; min-width: 1.4rem; color: #fff; }
.won { background: #40845c; } .tied { background: #b9b0a8; } .lost { background: #8c6a5a; }
.names { display: flex; justify-content: space-between; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; } td { text-align: left; padding: .3rem .75rem .3rem 0;
  border-bottom: 1px solid #e3ddd3; vertical-align: top; font-weight: normal; }
.asked { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.25rem; }
.asked > div > div { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
figure { margin: 0; font-size: .85rem; text-align: center; } img { display: block; width: 100%; border-radius: .3rem;
  box-sizing: border-box; border: 3px solid transparent; }
.best { color: #2f6a48; } .best img { border-color: #40845c; }
"""


def figures_of(test: BlindTest, looks: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """All of a test as JSON: what `score` says, each pair's rate `over_prompts`, `looks` as `blind.by_look` tells them,
    and every answer.

    The person is in it by id, which says nothing outside of this ComfyUI; a name never.
    """
    scored = score(test.arms, test.trials, test.spent)
    for pair, found in zip(pairs_of(test.trials), scored["pairs"], strict=True):
        found["over_prompts"] = over_prompts(test.trials, pair)
    return {
        "format": FORMAT,
        "version": VERSION,
        "purpose": "test",
        "test": test.id,
        "person": test.person,
        "arms": list(test.arms),
        "notes": test.notes,
        "created": test.created,
        "finished": test.finished,
        **scored,
        "looks": list(looks),
        "said": [
            {
                "prompt": one.prompt,
                "arms": [test.arms[arm] for arm in one.arms],
                "verdict": one.verdict,
                "seconds": round(one.seconds, 1),
                "repeats": one.repeats,
                "pictures": list(one.pictures),
            }
            for one in sorted(test.trials, key=lambda trial: trial.pick)
            if one.verdict is not None
        ],
    }


def sentences(figures: dict[str, Any]) -> list[str]:
    """What a test says, for people."""
    told = [_of_pair(pair, figures["alpha"]) for pair in figures["pairs"]]
    again = figures["consistency"]
    if again["of"]:
        told.append(
            f"Asked the same again, the same was preferred {again['same']} of {again['of']} times{tied_again(again)}."
        )
        if again["most"] < 1:
            told[-1] += f" So no way to paint can be expected to win more than {_percent(again['most'])}."
    else:
        told.append(
            f"Nothing was preferred twice before the test ended{tied_again(again)}, so how steady the answers are is "
            "not known."
        )
    told.append(
        f"{figures['answers']} answers, {figures['seconds_per_pick']:g} seconds each (median), "
        f"{figures['minutes']:.1f} minutes in all."
    )
    return told


def tied_again(consistency: dict[str, Any]) -> str:
    """The ties among questions that came again, in brackets; nothing where there are none."""
    return f" (neither at least once: {consistency['ties']})" if consistency["ties"] else ""


def by_chance(p: float) -> str:
    """A p value, for people."""
    often = "less than 1" if p < 0.01 else f"{100 * p:.0f}"
    return f"Were the two as good as each other, chance would set them as far apart {often} times in 100."


def write_report(folder: Path, test: BlindTest, figures: dict[str, Any], picture: Callable[[str], Picture]) -> None:
    """Write the page, the figures and the sheet into a folder; `picture` finds a picture by its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / JSON_FILE, (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode())
    write_file(folder / PAGE_FILE, page(test, figures, picture).encode())
    sheet(test, picture).save(folder / SHEET_FILE)


def sheet(test: BlindTest, picture: Callable[[str], Picture]) -> Image.Image:
    """Prompts down, arms across; under each row who was preferred."""
    scenes: dict[tuple[str, str], dict[int, str]] = {}
    rows: list[dict[int, str]] = []
    for one in sorted((one for one in test.trials if one.repeats is None), key=lambda trial: trial.place):
        # Two questions are of one scene where they share an arm's picture
        known = next((scenes[one.prompt, digest] for digest in one.pictures if (one.prompt, digest) in scenes), None)
        row = {} if known is None else known
        if known is None:
            rows.append(row)
        for arm, digest in zip(one.arms, one.pictures, strict=True):
            row[arm] = digest
            scenes[one.prompt, digest] = row
    whole = [row for row in rows if len(row) == len(test.arms)][:MOST_ROWS]
    pictures = [[picture(row[arm]).open() for arm in range(len(test.arms))] for row in whole]
    return contact_sheet(pictures, [_row_title(test, row) for row in whole], list(test.arms))


def page(test: BlindTest, figures: dict[str, Any], picture: Callable[[str], Picture]) -> str:
    """The report as one HTML page, its pictures in it."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Is it really mine?</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>",
        "<h1>Is it really mine?</h1>",
        f"<p class='faint'>A blind test of {_names(test.arms)}, {_text(str(test.finished or test.created)[:10])}."
        f" {_taught(test.notes)}</p>",
    ]
    for pair in figures["pairs"]:
        parts.append(f"<div class='pair'><p>{_text(_of_pair(pair, figures['alpha']))}</p>{bar(pair)}</div>")
    parts += [f"<p>{_text(line)}</p>" for line in sentences(figures)[len(figures["pairs"]) :]]
    parts.append(_looks(figures["looks"]))
    parts.append(by_prompt(figures["prompts"]))
    parts.append("<h2>Every question</h2><div class='asked'>")
    answered = sorted((one for one in test.trials if one.verdict is not None), key=lambda one: one.pick)
    parts += [_asked(test, one, picture) for one in answered]
    parts.append("</div></body></html>\n")
    return "\n".join(part for part in parts if part)


def _of_pair(pair: dict[str, Any], alpha: float) -> str:
    first, second = pair["arms"]
    wins, losses, ties = pair["wins"], pair["losses"], pair["ties"]
    low, high = pair["interval"]
    if losses > wins:
        first, second, wins, losses, low, high = second, first, losses, wins, 1 - high, 1 - low
    tied = f" (neither: {ties})" if ties else ""
    if not wins + losses:
        return f"“{first}” or “{second}”: no answer yet{tied}."
    counts = f"{wins} of {wins + losses} times{tied}"
    if pair["decided"]:
        return (
            f"“{first}” was preferred to “{second}” {counts}: {_percent(wins / (wins + losses))}, with 95 % "
            f"confidence between {_percent(low)} and {_percent(high)}."
        )
    if wins == losses:
        return f"“{first}” and “{second}” were preferred equally often, {counts}: not decided."
    return (
        f"“{first}” was preferred to “{second}” {counts}: not decided, chance could do that. The truth lies between "
        f"{_percent(low)} and {_percent(high)}."
    )


def bar(pair: dict[str, Any]) -> str:
    """Wins, ties and losses of two arms as one line, who won more on the left."""
    (first, won), (second, lost) = sorted(
        zip(map(_text, pair["arms"]), (pair["wins"], pair["losses"]), strict=True), key=lambda one: -one[1]
    )
    spans = [
        f"<span class='{kind}' style='flex:{count}'>{count}</span>"
        for kind, count in (("won", won), ("tied", pair["ties"]), ("lost", lost))
        if count
    ]
    return f"<div class='bar'>{''.join(spans)}</div><div class='names'><span>{first}</span><span>{second}</span></div>"


def _looks(looks: Sequence[dict[str, Any]]) -> str:
    if not looks:
        return ""
    rows = [
        f"<tr><td>{_text(one['low'])} / {_text(one['high'])}</td>"
        f"<td>{_text(one['high'] if 2 * one['high_won'] >= one['of'] else one['low'])} preferred"
        f" {max(one['high_won'], one['of'] - one['high_won'])} of {one['of']} times</td></tr>"
        for one in looks
    ]
    note = "Of questions whose two pictures differed in it. Looks go together in pictures, so this names no cause."
    return f"<h2>By look</h2><p class='faint'>{note}</p><table>{''.join(rows)}</table>"


def by_prompt(prompts: Sequence[dict[str, Any]]) -> str:
    """A table of what was preferred for each prompt."""

    def told(pair: dict[str, Any]) -> str:
        first, second = map(_text, pair["arms"])
        return f"{first} {pair['wins']} : {pair['losses']} {second}" + (
            f", neither {pair['ties']}" if pair["ties"] else ""
        )

    rows = [
        f"<tr><td>{_text(one['prompt'])}</td><td>{'<br>'.join(map(told, one['pairs']))}</td></tr>" for one in prompts
    ]
    return f"<h2>By prompt</h2><table>{''.join(rows)}</table>"


def _asked(test: BlindTest, one: Trial, picture: Callable[[str], Picture]) -> str:
    frames = []
    for arm, digest in zip(one.arms, one.pictures, strict=True):
        data = base64.b64encode(picture(digest).small_jpeg(SHOWN)).decode()
        best = " class='best'" if one.winner() == arm else ""
        frames.append(f"<figure{best}><img alt='' src='data:image/jpeg;base64,{data}'>{_text(test.arms[arm])}</figure>")
    notes = {"tie": " · neither", "skip": " · skipped"}.get(one.verdict or "", "")
    again = " · asked again" if one.repeats is not None else ""
    return f"<div><div>{''.join(frames)}</div><p class='faint'>{_text(one.prompt)}{notes}{again}</p></div>"


def _row_title(test: BlindTest, row: dict[int, str]) -> str:
    of_row = [one for one in test.trials if one.repeats is None and set(one.pictures) <= set(row.values())]
    won = Counter(test.arms[winner] for winner in (one.winner() for one in of_row) if winner is not None)
    told = ", ".join(arm if len(test.arms) == 2 else f"{arm} {count}" for arm, count in won.most_common())
    return f"{of_row[0].prompt[:60]}{f': preferred {told}' if told else ''}"


def _taught(notes: dict[str, Any]) -> str:
    picks = notes.get("picks")
    return "" if picks is None else f"The taste was learned from {picks} answers."


def _names(arms: Sequence[str]) -> str:
    return " and ".join([", ".join(map(_text, arms[:-1])), _text(arms[-1])])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _text(text: str) -> str:
    return html.escape(text)
