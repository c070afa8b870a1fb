"""`python -m benchmarks.explain`: whether explanations are true, on simulated people of a shipped taste encoder.

People are drawn from its population prior and pick between two pictures whose whitened features are normal; pairs
come at random, or as the most telling of 40 (BALD), after each answer anew. Three things are measured. `influence`:
what each pick adds to a lean by its dual coefficient, against what becomes of the lean without the pick, an exact fit:
Spearman's correlation over a person's picks, of the look they lean to most, and how often the pick that adds most is
one of the three without which the lean changes most. `drift`: how often drift is told of people whose taste stays
(false alarms, once at the end, and ever when looked at after every 8 answers), and of people who turn round the look
they like most, at once in the middle or bit by bit (power). `fading`: the share of 400 fresh pairs of which u prefers
what the person prefers now, before and after the half-life that is offered is taken, of those to whom it is offered.

`strip`, on request: what turning one look of the average person does to pictures of the shipped model and adapter, from
-2 to 2 standard deviations over people, on held-out captions: the change of each measured statistic of the pictures, in
its standard deviation over people's pictures.

Intervals are 95 % bootstraps over people.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppd.encoders.encoder import TasteEncoder, Told
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posteriors
from ppd.evaluation import bootstrap
from ppd.explain.course import drifts
from ppd.explain.influence import fit, leans, parts_of, without
from ppd.explain.turning import directions, turned
from ppd.pocket.data import to_tensor
from ppd.pocket.scenes import HELD_OUT_CAPTIONS
from ppd.pocket.statistics import STATISTICS
from ppd.pocket.studio import WEIGHTS, Studio, load_encoder
from ppd.pocket.world import WORLDS, World
from ppd.questions import information
from ppd.store import fade
from ppd.user_embedding import UserEmbedding

SEED = 1414
COUNTS = (8, 16, 32)
"""Picks at which influence is measured."""
LENGTHS = (16, 32, 64)
"""Picks at which drift is."""
EVERY = 8
CANDIDATES = 40
FRESH = 400
STRONG = 1.5
"""The look that turns is liked by so many standard deviations over people."""
WAYS = ("random", "most telling")
REACH = 2.0
CHANGES = ("none", "at once", "bit by bit")


def tastes(prior: PopulationPrior, count: int, seed: int) -> Tensor:
    """People [count, d] of the prior."""
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(prior.covariance.double())
    drawn = torch.randn(count, prior.dim, generator=generator, dtype=torch.float64)
    return prior.mean.double() + drawn @ (vectors * values.clamp_min(0).sqrt()).T


def over_time(taste: Tensor, prior: PopulationPrior, looks: Looks, picks: int, change: str) -> Tensor:
    """The taste at each pick [picks, d]; where it changes, the look that is liked most is liked by STRONG first, and as
    much disliked at the end."""
    if change == "none":
        return taste.expand(picks, -1)
    lean, step = leans(looks, prior.noise), directions(prior, looks)
    units = (lean @ taste) / (lean * step).sum(1)  # a step of one look's own direction moves its lean by that
    look = int(units.abs().argmax())
    sign = 1.0 if units[look] > 0 else -1.0
    at = torch.linspace(1, -1, picks, dtype=torch.float64)
    amounts = sign * STRONG * (at if change == "bit by bit" else at.sign())
    return taste + (amounts - units[look])[:, None] * step[look]


def answered(prior: PopulationPrior, tastes: Tensor, way: str, rng: np.random.Generator) -> list[Told]:
    """What people of a taste at each pick [P, n, d] say, by `WAYS`."""
    people, n, d = tastes.shape
    mean, covariance = prior.mean.double(), prior.covariance.double()
    rows = tastes.new_empty(people, 0, d)
    for at in range(n):
        shape = (people, CANDIDATES if way == "most telling" else 1, d)
        x = torch.from_numpy(rng.normal(size=shape)) * 2**0.5 / prior.noise
        if way == "most telling":
            ones = torch.ones(rows.shape[:2])
            fits = (
                fit_posteriors(rows, ones, ones, mean, covariance)
                if at
                else [one.expand(people, *one.shape) for one in (mean, covariance)]
            )
            best = [int(information(*one).argmax()) for one in zip(x, *fits, strict=True)]
            x = x[torch.arange(people), best][:, None]
        chosen = torch.from_numpy(rng.random((people, 1))) < torch.sigmoid((x * tastes[:, at, None]).sum(-1))
        rows = torch.cat([rows, torch.where(chosen[..., None], x, -x)], 1)
    return [Told(one, torch.ones(n), torch.ones(n), torch.arange(n)) for one in rows]


def agreement(prior: PopulationPrior, looks: Looks, told: Told) -> tuple[float, float]:
    """Spearman's correlation of what picks add and what the lean loses without them, and whether the pick that adds
    most is one of the three that matter most."""
    parts = parts_of(prior, told)
    lean = leans(looks, prior.noise)
    look = int((lean @ (parts.u - prior.mean.double())).abs().argmax())
    adds = parts.parts @ lean[look]
    lost = (parts.u - without(prior, told, range(len(adds)))) @ lean[look]
    ranks = torch.stack([one.argsort().argsort().double() for one in (adds, lost)])
    return float(torch.corrcoef(ranks)[0, 1]), float(adds.abs().argmax() in lost.abs().topk(3).indices)


def by_influence(prior: PopulationPrior, looks: Looks, people: int) -> dict[str, Any]:
    """The figures by picks."""
    report: dict[str, Any] = {}
    for n in COUNTS:
        rng = np.random.default_rng([SEED, n])
        everybody = tastes(prior, people, SEED + n)
        told = answered(prior, everybody[:, None].expand(-1, n, -1), "most telling", rng)
        rows = [agreement(prior, looks, one) for one in told]
        rank, top = np.array(rows).T
        report[str(n)] = {"spearman": bootstrap(rank), "first of three": bootstrap(top)}
    return report


def by_drift(prior: PopulationPrior, looks: Looks, people: int) -> dict[str, Any]:
    """The figures by way, change and picks, and of those told the accuracy before and after fading."""
    report: dict[str, Any] = {}
    for number, way in enumerate(WAYS):
        for kind, change in enumerate(CHANGES):
            for n in LENGTHS:
                rng = np.random.default_rng([SEED, number, kind, n])
                once, ever, faded = [], [], []
                everybody = tastes(prior, people, SEED + n + kind)
                courses = torch.stack([over_time(taste, prior, looks, n, change) for taste in everybody])
                for course, told in zip(courses, answered(prior, courses, way, rng), strict=True):
                    found = drifts(prior, looks, told)
                    once.append(bool(found))
                    if change == "none":
                        parts = (Told(*(part[:some] for part in told)) for some in range(EVERY, n, EVERY))
                        ever.append(bool(found) or any(drifts(prior, looks, part) for part in parts))
                    if found:
                        x = torch.from_numpy(rng.normal(size=(FRESH, prior.dim)))
                        weights = torch.tensor(fade(n, found[0].half_life))
                        both = fit(prior, told)[0], fit(prior, told._replace(weights=weights))[0]
                        faded.append([float(((x @ u > 0) == (x @ course[-1] > 0)).double().mean()) for u in both])
                cell = report.setdefault(way, {}).setdefault(change, {})[str(n)] = {"told": bootstrap(np.array(once))}
                if ever:
                    cell["ever told"] = bootstrap(np.array(ever))
                if len(faded) > 1:
                    before, after = np.array(faded).T
                    cell |= {"before fading": bootstrap(before), "more after": bootstrap(after - before)}
                line = ", ".join(f"{name} {shown(value)}" for name, value in cell.items())
                print(f"{way:12} {change:10} {n:3} picks  {line}", flush=True)
    return report


def by_strip(world: World, prior: PopulationPrior, looks: Looks, captions: int) -> dict[str, Any]:
    """By the look that is turned the change of each statistic, in standard deviations over people's pictures."""
    studio, encoder = Studio.open(world=world), load_encoder(world=world)
    average = encoder.encode([])
    prompts = HELD_OUT_CAPTIONS[:captions]

    def painted(people: Sequence[UserEmbedding]) -> Tensor:
        images = [
            np.asarray(image)
            for number, prompt in enumerate(prompts)
            for image in studio.paint(prompt, number, [*people])
        ]
        return world.statistics(to_tensor(np.stack(images))).double().view(len(prompts), len(people), -1)

    somebody = [replace(average, u=one[None].float()) for one in tastes(prior, 4, SEED)]
    spread = painted(somebody).std(1).square().mean(0).sqrt()
    report: dict[str, Any] = {}
    for look in looks.names:
        less, more = painted(turned(average, prior, looks, look, [-REACH, REACH])).unbind(1)
        change = ((more - less) / spread).numpy()
        report[look] = {name: bootstrap(change[:, column]) for column, name in enumerate(STATISTICS)}
        print(f"{look:10} " + ", ".join(f"{name} {shown(value)}" for name, value in report[look].items()), flush=True)
    return report


def shown(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain")
    parser.add_argument("--people", type=int, default=200, help="of each case (default: 200)")
    parser.add_argument("--world", choices=WORLDS, default="pocket-flow", help="whose taste encoder and adapter")
    parser.add_argument("--strip", type=int, default=0, metavar="CAPTIONS", help="paint strips of so many, and no more")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    world, start = WORLDS[arguments.world], time.monotonic()
    encoder = TasteEncoder.load(world.encoder(WEIGHTS))
    prior, looks = encoder.prior, encoder.looks
    assert looks is not None
    report: dict[str, Any] = {"settings": {"people": arguments.people, "seed": SEED, "world": world.name}}
    if arguments.strip:
        report["strip"] = by_strip(world, prior, looks, arguments.strip)
    else:
        report["influence"] = by_influence(prior, looks, arguments.people)
        for n, figures in report["influence"].items():
            print(f"{n:3} picks  " + ", ".join(f"{name} {shown(value)}" for name, value in figures.items()), flush=True)
        report["drift"] = by_drift(prior, looks, arguments.people)
    print(f"{time.monotonic() - start:.0f} seconds")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
