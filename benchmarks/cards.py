"""`python -m benchmarks.cards [--check]`: the tables of README and model cards, written from the figures.

`python -m ppd evaluate WORLD --json weights/figures/WORLD.json` measures the figures; what README says of picks that
the tab asked is what `benchmarks.all` kept of `few_picks`. A table stands between `<!-- table: NAME -->` and
`<!-- end -->`; with `--check` nothing is written, and tables that say something else are named.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from .all import ROOT
from .tables import number, table

PAGES = ("README.md", "weights/README.md")
TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ASKED = {"pocket": "few_picks-pocket", "pocket-flow": "few_picks-flow"}
"""The runs of `benchmarks.all` that asked as the tab does."""
AIMS = {
    "pocket": {"wins_vs_base": ".80", "wins_vs_population": ".62", "own_vs_other": ".68", "lost": "at most .03"},
    "pocket-flow": {"wins_vs_base": ".85", "own_vs_other": ".72", "lost": "at most .01"},
}
COMPARED = {
    "wins_vs_base": "wins vs base",
    "wins_vs_population": "wins vs population adapter",
    "own_vs_other": "own vs one random other person's embedding, judged by the owner",
    "wins_vs_own_population": "wins vs own adapter at the population user",
    "wins_with_no_pairs": "wins with no pairs vs base",
    "population_adapter_vs_base": "population adapter vs base",
}

Figures = dict[str, Any]


def fixed(value: float, digits: int) -> str:
    """0.88, -0.1, never -0.0."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def short(value: float, digits: int = 2) -> str:
    """.88, -.07, 1.00."""
    return number(value, digits)


def between(figure: Figures, digits: int = 2) -> str:
    """The 95 % interval."""
    return f"{short(figure['low'], digits)} to {short(figure['high'], digits)}"


def main_figures(figures: Figures, world: str) -> str:
    """What the simulated people prefer, and what it costs."""
    aims = AIMS[world]
    rows = []
    for name, told in COMPARED.items():
        found = figures[name]
        ceiling = "" if found["ceiling"] is None else short(found["ceiling"])
        rows.append([told, short(found["mean"]), between(found), ceiling, aims.get(name, "")])
    lost, base = figures["objects_f1_loss"], short(figures["objects_f1_base"]["mean"], 3)
    told = f"named objects' micro F1 lost, paired by seed (base {base})"
    rows.append([told, short(lost["mean"], 3), between(lost, 3), "", aims["lost"]])
    for name, told in (
        ("invented_per_picture", "invented objects per picture: base, personal"),
        ("out_of_range", "pictures with a statistic out of range: base, personal"),
    ):
        rows.append([told, ", ".join(short(figures[name][one]) for one in ("base", "personal")), "", "", ""])
    second = figures["second_seed"]["wins_vs_base"]
    rows.append(["the second seed vs base", short(second["mean"]), between(second), "", ""])
    return table(["figure", "mean", "95 %", "idealised reader", "aim"], rows)


def by_pairs(figures: Figures, world: str) -> str:
    """Wins by how many pairs are known."""
    rows = [
        [pairs, short(found["mean"]), between(found), short(found["ceiling"])]
        for pairs, found in figures["by_pairs"].items()
    ]
    return table(["pairs", "wins vs base", "95 %", "idealised reader"], rows)


def by_strength(figures: Figures, world: str) -> str:
    """One picture of each person at each strength."""
    swept = figures["strength"]
    rows = [
        ["wins vs base (each ± .05)", *(short(one["wins_vs_base"]["mean"]) for one in swept)],
        ["mean reward, SD", *(short(one["reward"]) for one in swept)],
        ["named objects' micro F1", *(short(one["objects_f1"], 3) for one in swept)],
        ["out of range", *(short(one["out_of_range"]) for one in swept)],
    ]
    return table(["strength", *(f"{one['strength']:g}" for one in swept)], rows)


def by_statistic(figures: Figures, world: str) -> str:
    """How well each statistic is steered and read; in a world that knows words for looks, how far these go."""
    r2, shift, words = figures["pocket"]["encoder_r2"], figures["pocket"]["autoencoder_shift_sd"], figures.get("words")
    head = ["statistic", "steering: correlation of weight and shift", "encoder's R², real pictures", "decoded"]
    rows = []
    for name, steered in figures["steering"].items():
        row = [name, short(steered), short(r2["real"][name]), short(r2["decoded"][name]), short(shift[name])]
        if words is not None:
            said = words[name]
            row += [", ".join(said["words"]), short(said["apart"], 1), short(said["others"], 1)]
        rows.append(row)
    told = ["shift by the autoencoder, SD"]
    told += [] if words is None else ["words for its look", "how far apart they are, SD", "mean of the others"]
    return table([*head, *told], rows)


def looks(figures: Figures, world: str) -> str:
    """How well looks read pictures, and what is said of people."""
    pictures, people = figures["looks"]["pictures"], figures["looks"]["people"]
    rows = []
    for name in pictures["style"]:
        said = [
            f"{short(one['correlation'][name])} ({short(one['idealised_reader'][name])})" for one in people.values()
        ]
        rows.append([name, *(short(read[name]) for read in pictures.values()), *said])
    head = ["look", "style", "statistic", "within captions", "painted, within captions"]
    return table([*head, *(f"{pairs} pairs" for pairs in people)], rows)


def sure(figures: Figures, world: str) -> str:
    """How often what is called sure of people is right."""
    rows = [
        [pairs, short(one["sure"], 3), short(one["sure_and_right"]) if one["sure"] else "none said"]
        for pairs, one in figures["looks"]["people"].items()
    ]
    people = figures["settings"]["people"]
    return table(["pairs", f"sure, of all six looks of {people} people", "sure ones with the weight's sign"], rows)


def turbo(figures: Figures, world: str) -> str:
    """The same adapter on the few-step model."""
    rows = [
        [
            strength,
            *(short(one["wins_vs_turbo"]["mean"]), between(one["wins_vs_turbo"]), short(one["own_vs_other"]["mean"])),
            *(short(one["objects_f1_loss"]["mean"], 3), short(one["kept"]["reward"]), short(one["out_of_range"])),
        ]
        for strength, one in figures["turbo"]["personal"].items()
    ]
    head = ["strength", "wins", "95 %", "own vs another's", "objects lost, F1", "reward, of the base's", "out of range"]
    return table(head, rows)


def readme(figures: dict[str, Figures]) -> str:
    """The first page's: both worlds, by random picks and by those that the tab asked."""
    preferred: dict[str, tuple[str, ...]] = {
        "the personal picture to the model's own": ("wins_vs_base",),
        "their own picture to one for somebody else": ("own_vs_other",),
        "the personal picture, after 16 picks": ("by_pairs", "16"),
        "... after four picks that the tab asked, not random ones": ("asked", "wins_vs_base"),
        "their own to one for somebody else, so asked": ("asked", "own_vs_other"),
    }
    rows = [
        [told, *(cell for one in figures.values() for cell in _cells(reduce(getitem, path, one), 0, " %"))]
        for told, path in preferred.items()
    ]
    lost = (cell for one in figures.values() for cell in _cells(one["objects_f1_loss"], 1, ""))
    rows.append(["points of F1 lost of the objects a prompt names", *lost])
    head = ["the simulated person prefers"]
    for world in figures:
        head += [world.replace("-", " "), "95 %"]
    return table(head, rows)


def _cells(figure: Figures, digits: int, unit: str) -> list[str]:
    mean, low, high = (fixed(100 * figure[name], digits) for name in ("mean", "low", "high"))
    return [mean + unit, f"{low} to {high}"]


TABLES: dict[str, Callable[[Figures, str], str]] = {
    "figures": main_figures,
    "pairs": by_pairs,
    "strength": by_strength,
    "statistics": by_statistic,
    "looks": looks,
    "sure": sure,
    "turbo": turbo,
}


def written(text: str, figures: dict[str, Figures]) -> str:
    """A page with all its tables anew."""

    def anew(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name == "readme":
            return f"{start}{readme(figures)}\n{end}"
        words, _, kind = name.rpartition(" ")
        world = words.replace(" ", "-")
        return f"{start}{TABLES[kind](figures[world], world)}\n{end}"

    return TABLE.sub(anew, text)


def read_figures(root: Path) -> dict[str, Figures]:
    """Each world's, as `evaluate` wrote them, and as `asked` what was painted after four picks that the tab asked."""
    found = {}
    for world, run in ASKED.items():
        kept = json.loads((root / "docs" / "figures" / f"{run}.json").read_text(encoding="utf-8"))
        figures = json.loads((root / "weights" / "figures" / f"{world}.json").read_text(encoding="utf-8"))
        found[world] = {**figures, "asked": kept["figures"]["as the panel asks"]["painted"]}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards")
    parser.add_argument("--check", action="store_true", help="write nothing: 1 where a page says something else")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the pages (default: this one)")
    arguments = parser.parse_args(argv)
    figures = read_figures(arguments.root)
    stale = []
    for name in PAGES:
        path = arguments.root / name
        text = path.read_text(encoding="utf-8")
        anew = written(text, figures)
        if anew != text:
            stale.append(name)
            if not arguments.check:
                path.write_text(anew, encoding="utf-8")
    if arguments.check and stale:
        print(f"{', '.join(stale)}: tables differ from the figures: run `python -m benchmarks.cards`.", file=sys.stderr)
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
