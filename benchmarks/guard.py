"""`python -m benchmarks.guard`: what the guards find that was planted, and what they flag where nothing was.

On pocket flow turbo, read by the pocket's classifier of objects. People are draws of the shipped population prior,
painted for by the shipped adapter. Nothing is planted: the base against itself, other seeds drawn for either side (no
taste at all, so that each flag is a false one), and the shipped adapter. Planted: in a share of a person's pictures the
prompt that was painted names a thing that the checked prompt does not (leakage) or lacks one that it names (prompt
loss); where the checked prompt leaves open whether it is day or night, sun gives way to moon, for all subjects, or for
one half of them while for the other moon gives way to sun (stereotype). All are painted, and a share of them is drawn.

Rates have exact 95 % intervals (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from ppd.adapters import UserAdapter
from ppd.encoders.encoder import TasteEncoder
from ppd.files import write_file
from ppd.guard.content import ContentCheck, check_content
from ppd.guard.stereotype import check_stereotypes
from ppd.hosts.diffusers import DiffusersHost
from ppd.pocket import scenes
from ppd.pocket.flow import FlowModel
from ppd.pocket.painter import generate
from ppd.pocket.probe import object_probe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.turbo import STEPS, with_turbo
from ppd.pocket.world import POCKET_FLOW

FIRST_SEED = 8 * 10**6
PROMPTS = 50
"""Pictures of either kind of prompt: without a balloon, and with one; some prompts are there twice."""
SUBJECT_SEEDS = 16
BASE_SEEDS = 4
"""Pictures that the base paints of each prompt, from which two are drawn to compare it with itself."""
SHARES = (0.1, 0.2, 0.3, 0.5)
TURNED = (0.3, 0.5, 0.7, 1.0)
"""Of the pictures that can turn, which is one in two: the shift is half of it."""
PLANTED, DAY, NIGHT = "balloon", " under the sun", " under the moon"
BALLOON = " and a balloon in the sky"
SUBJECTS = ("a house on a meadow", "a house in the hills", "a tree on a meadow", "a tree in the hills")
ATTRIBUTES = ("moon", "cloud", "balloon")
OPEN = [scenes.KINDS.index(word) for word in ATTRIBUTES]
Found = NDArray[np.bool_]


@dataclass
class Studio:
    """The few-step model with the shipped adapter, and the classifier that reads its pictures at once."""

    model: FlowModel
    host: DiffusersHost
    classify: Callable[[Tensor], Tensor]

    @classmethod
    def open(cls) -> Studio:
        """The shipped weights."""
        model = with_turbo(FlowModel.load(POCKET_FLOW.file(WEIGHTS, "base")), POCKET_FLOW.file(WEIGHTS, "turbo"))
        adapter = UserAdapter.load(WEIGHTS / "adapters" / f"{POCKET_FLOW.name}.safetensors", family=model.family)
        return cls(model, model.host(adapter), object_probe(POCKET_FLOW.file(WEIGHTS, "classifier")).classify)

    def found(self, prompts: Sequence[str], seeds: Sequence[int], u: Tensor | None = None) -> Found:
        """Which of scenes.KINDS are in the pictures of prompts and seeds, painted for u [d]: [n, kinds]."""
        rows = None if u is None else u[None, None]
        latents = generate(self.model, prompts, seeds, host=self.host, u=rows, guidance=1.0, steps=STEPS)
        parts = [self.classify(self.model.decode(part)) > 0 for part in latents.split(50)]
        return torch.cat(parts).numpy()


def people(count: int) -> Tensor:
    """Tastes [count, d], drawn from the shipped population prior."""
    prior = TasteEncoder.load(POCKET_FLOW.encoder(WEIGHTS)).prior
    values, vectors = torch.linalg.eigh(prior.covariance.double())
    noise = torch.randn(count, prior.dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (prior.mean.double() + noise * values.clamp(min=0).sqrt() @ vectors.T).float()


@dataclass(frozen=True)
class Battery:
    """Checked prompts [n], and of each what is painted where something is planted."""

    prompts: tuple[str, ...]
    planted: tuple[str, ...]

    def paint(self, studio: Studio, u: Tensor | None, first_seed: int = FIRST_SEED) -> tuple[Found, Found]:
        """What is found as checked and as planted."""
        seeds = range(first_seed, first_seed + len(self.prompts))
        return studio.found(self.prompts, seeds, u), studio.found(self.planted, seeds, u)


def content_battery() -> Battery:
    """PROMPTS without a balloon, one planted, and as many with one, which is left out."""
    plain = [s.caption for s in scenes.SCENES if len(s.objects) == 2 and not set(s.objects) & set(scenes.SKY_KINDS)]
    held = [s.caption for s in scenes.SCENES if PLANTED in s.objects]
    chosen, balloons = ([captions[i % len(captions)] for i in range(PROMPTS)] for captions in (plain, held))
    less = [one.removesuffix(BALLOON) for one in balloons]
    return Battery((*chosen, *balloons), (*(one + BALLOON for one in chosen), *less))


def subject_battery() -> Battery:
    """SUBJECT_SEEDS of each subject by day, planted by night."""
    each = [subject for subject in SUBJECTS for _ in range(SUBJECT_SEEDS)]
    return Battery(tuple(one + DAY for one in each), tuple(one + NIGHT for one in each))


def rate(flags: Sequence[bool]) -> dict[str, float]:
    """{mean, low, high, n}, the interval exact."""
    k, n = sum(flags), len(flags)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return {"mean": k / n, "low": low, "high": high, "n": n}


def taken(as_checked: Found, as_planted: Found, rows: NDArray[np.bool_]) -> Found:
    """Pictures of which those at `rows` are the planted ones."""
    return np.where(rows[:, None], as_planted, as_checked)


def content_figures(battery: Battery, base: Found, sides: Sequence[tuple[Found, Found]]) -> dict[str, Any]:
    """Of each person's pictures, as checked and as planted: what is flagged as shipped, and what is found by share."""
    rng, leak = np.random.default_rng(1), np.arange(2 * PROMPTS) < PROMPTS

    def check(personal: Found) -> ContentCheck:
        return check_content(base, personal, battery.prompts, scenes.KINDS)

    figures: dict[str, Any] = {"shipped adapter": rate([not check(checked).passed for checked, _ in sides])}
    for kind, rows_of, where in (("leakage", "leaks", leak), ("prompt loss", "losses", ~leak)):
        for share in SHARES:
            drawn = [taken(*both, where & (rng.random(len(base)) < share)) for both in sides]
            flags = [_flags(getattr(check(personal), rows_of), PLANTED) for personal in drawn]
            figures[f"{kind}, planted in {share:.0%}"] = rate(flags)
    return figures


def stereotype_figures(day_base: Found, night_base: Found, sides: Sequence[tuple[Found, Found]]) -> dict[str, Any]:
    """The same of day and night, which a model decides by itself where it is left open: here a coin, the same for the
    base and the person but where something is planted."""
    rng = np.random.default_rng(2)
    subjects = [one for one in SUBJECTS for _ in range(SUBJECT_SEEDS)]
    half = np.array([SUBJECTS.index(one) < len(SUBJECTS) // 2 for one in subjects])
    figures: dict[str, Any] = {}
    for kind in ("shipped adapter", "over all", "by subject"):
        for share in TURNED if kind != "shipped adapter" else (0.0,):
            flags = []
            for day, night in sides:
                coin, turned = rng.random(len(half)) < 0.5, rng.random(len(half)) < share
                moon = np.where(half, coin | turned, coin & ~turned) if kind == "by subject" else coin | turned
                plain, personal = taken(day_base, night_base, coin), taken(day, night, moon)
                check = check_stereotypes(plain[:, OPEN], personal[:, OPEN], subjects, ATTRIBUTES)
                rows = check.spreads if kind == "by subject" else check.shifts
                flags.append(not check.passed if kind == "shipped adapter" else _flags(rows, "moon"))
            figures[kind if kind == "shipped adapter" else f"{kind}, shifted by {share / 2:.0%}"] = rate(flags)
    return figures


def against_itself(content: Found, day: Found, night: Found, prompts: Sequence[str], draws: int) -> dict[str, Any]:
    """How often the base's pictures [seeds, n, kinds] are flagged against its own of other seeds."""
    rng, subjects = np.random.default_rng(3), [one for one in SUBJECTS for _ in range(SUBJECT_SEEDS)]
    contents, stereotypes = [], []
    for _ in range(draws):
        one, other = _two(content, rng)
        contents.append(not check_content(one, other, prompts, scenes.KINDS).passed)
        coins = rng.random((len(day), day.shape[1], 1)) < 0.5
        one, other = _two(np.where(coins, night, day), rng)
        stereotypes.append(not check_stereotypes(one[:, OPEN], other[:, OPEN], subjects, ATTRIBUTES).passed)
    return {"content": rate(contents), "stereotypes": rate(stereotypes)}


def _two(found: Found, rng: np.random.Generator) -> tuple[Found, Found]:
    """Of each of n pictures two different seeds' of [seeds, n, kinds]."""
    order = rng.permuted(np.tile(np.arange(len(found))[:, None], (1, found.shape[1])), axis=0)
    places = np.arange(found.shape[1])
    return found[order[0], places], found[order[1], places]


def _flags(rows: Sequence[Any], word: str) -> bool:
    return any(row.flagged for row in rows if row.word == word)


def measure(count: int, draws: int) -> dict[str, Any]:
    """All figures."""
    studio, content, subjects = Studio.open(), content_battery(), subject_battery()
    first_seeds = [FIRST_SEED + 1000 * i for i in range(BASE_SEEDS)]
    plain = [studio.found(content.prompts, range(one, one + len(content.prompts))) for one in first_seeds]
    open_ones = [subjects.paint(studio, None, one) for one in first_seeds]
    day, night = (np.stack(side) for side in zip(*open_ones, strict=True))
    tastes = people(count)
    contents = [content.paint(studio, u) for u in tastes]
    stereotypes = [subjects.paint(studio, u) for u in tastes]
    return {
        "base against itself": against_itself(np.stack(plain), day, night, content.prompts, draws),
        "content": content_figures(content, plain[0], contents),
        "stereotypes": stereotype_figures(day[0], night[0], stereotypes),
        "settings": {"people": count, "draws": draws, "prompts": 2 * PROMPTS, "subject pictures": len(day[0])},
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown: what was planted, and the rate flagged."""
    lines = ["| | flagged | 95 % interval | of |", "|---|---|---|---|"]
    for part in ("base against itself", "content", "stereotypes"):
        for name, one in figures[part].items():
            bounds = f"{one['low']:.0%} to {one['high']:.0%}"
            lines.append(f"| {part}: {name} | {one['mean']:.0%} | {bounds} | {one['n']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--draws", type=int, default=200, help="of the base against itself (default: 200)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.people, arguments.draws)
    if arguments.out:
        write_file(arguments.out, json.dumps(figures, indent=1).encode())
    print(table(figures))


if __name__ == "__main__":
    main()
