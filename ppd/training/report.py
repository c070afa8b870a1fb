"""A training's report for people: a sheet of pictures, and a page."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ..adapters import UserAdapter
from ..encoders.encoder import PosteriorEncoder
from ..sheet import contact_sheet
from .settings import PICKED

if TYPE_CHECKING:  # the nodes tell of trainings by `sentences`, and do not train: accelerate may be missing there
    from .base import Base
    from .materials import Materials

SHOWN_PEOPLE = 3
SHOWN_PROMPTS = 2
SHEET = SHOWN_PROMPTS * (1 + 2 * SHOWN_PEOPLE)
"""Pictures of a sheet."""
SEED = 7


def painted_people(materials: Materials, encoder: PosteriorEncoder) -> list[tuple[str, str, Tensor]]:
    """Three simulated people of different main looks: what they, and what their opposites like in words, and their u
    [1, d] of the most picks."""
    assert encoder.looks is not None
    looks, u = materials.people.looks, materials.picks.embeddings[-1]
    found: dict[int, int] = {}
    for person, row in enumerate(looks):
        found.setdefault(int(row.abs().argmax()), person)
    chosen = sorted(found.values())[:SHOWN_PEOPLE]
    return [(_liked(looks[person], encoder), _liked(-looks[person], encoder), u[person][None]) for person in chosen]


def people_sheet(base: Base, adapter: UserAdapter, materials: Materials, encoder: PosteriorEncoder) -> Image.Image:
    """The same prompts and seeds: the base, three people, and the opposite of each."""
    people = painted_people(materials, encoder)
    prompts = (materials.held_out or materials.picks).prompts[:SHOWN_PROMPTS]
    columns = ["base", *(words for *both, _ in people for words in both)]
    rows = []
    for prompt in prompts:
        row = [base.paint(prompt, SEED)]
        for *_, u in people:
            row += [base.paint(prompt, SEED, adapter, sign * u) for sign in (1.0, -1.0)]
        rows.append(row)
    return contact_sheet(rows, prompts, columns, cell=256)


def _liked(looks: Tensor, encoder: PosteriorEncoder) -> str:
    assert encoder.looks is not None
    strongest = looks.abs().argsort(descending=True)[: int(torch.count_nonzero(looks))][:2]
    return ", ".join((encoder.looks.high if looks[k] > 0 else encoder.looks.low)[k] for k in strongest.tolist())


def sentences(figures: dict[str, Any]) -> list[str]:
    """What a report says, in words: simulated people apart from real ones."""
    lines, real = [], figures["real_people"]
    for kind, told in figures["held_out"].items():
        if told is not None:
            own, other, gap = told["own"], told["anothers"], told["own_minus_anothers"]
            lines.append(
                f"On {told['people']} {kind} people and on prompts that training never saw, the adapter leans to the "
                f"picture that the person prefers in {own['mean']:.0%} of pairs ({own['low']:.0%} to "
                f"{own['high']:.0%}), and for somebody else's taste in {other['mean']:.0%}. What is personal is the "
                f"difference, {gap['mean']:+.0%} ({gap['low']:+.0%} to {gap['high']:+.0%}, p = "
                f"{told['permutation_p']:.2g}). For the null user the largest difference from the base is "
                f"{told['null_user_difference']:g}."
            )
    strength = figures.get("strength")
    if strength is None:
        lines.append("Strength 1 is all that was learned, which may be too much: less was not tried.")
    else:
        share = strength["picked"][format(strength["gain"], "g")]
        little = " No strength does much better; more steps may." if share < PICKED else ""
        lines.append(
            f"At strength 1, which is {strength['gain']:g} of what was learned, simulated people would pick the "
            f"personal picture rather than the plain one in {share:.0%} of pairs, as the taste encoder reads "
            f"them.{little}"
        )
    if (kept := figures.get("prompt_loss")) is not None:
        lost = kept["lost"]
        lines.append(
            f"Personal pictures are as near to their prompts as the plain ones, but for {lost['mean']:+.3f} "
            f"({lost['low']:+.3f} to {lost['high']:+.3f}) of a cosine of {kept['plain']:.3f}."
        )
    if figures["held_out"]["simulated"] is None:
        lines.append("There were too few prompts to hold some out for measuring: paint studies of more.")
    if real["people"]:
        licence = f", licence: {figures['licence']}" if figures.get("licence") else ""
        people = "1 real person" if real["people"] == 1 else f"{real['people']} real people"
        lines.append(f"It was also trained on {real['picks']} picks of {people}{licence}.")
    if figures["held_out"]["real"] is None:
        measured = "simulated people only" if figures["held_out"]["simulated"] else "nobody"
        lines.append(f"Measured on {measured}: whether real people like it, a blind test has to tell.")
    return lines


def page(name: str, figures: dict[str, Any], sheet: str) -> str:
    """The report as one HTML page; `sheet` is the picture's file beside it."""
    told = "".join(f"<p>{escape(line)}</p>" for line in sentences(figures))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{escape(name)}</title><style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;"
        "padding:0 1em}img{max-width:100%}pre{overflow:auto;font-size:13px}</style>"
        f"<h1>User adapter {escape(name)}</h1>{told}<img src='{escape(sheet)}' alt='base, three people, opposites'>"
        f"<details><summary>All figures</summary><pre>{escape(json.dumps(figures, indent=1))}</pre></details></html>"
    )
