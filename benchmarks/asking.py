"""`python -m benchmarks.asking`: how many picks asking well saves, and what duels teach, in the pocket world.

Each reporting person answers Bradley-Terry questions from a pool of candidate pairs, two pictures that the base paints
of one training caption, and the posterior is fitted again after each answer. Three ways to ask take turns on the same
pool and would get the same answers: at random; the most telling (BALD); and as the panel asks, each third question
being the most telling of the newest only. The figure is the fewest picks whose mean reaches what 16 random ones reach.

Two means are compared. `accuracy` is the cheap one, for all counts and pools: the share of 400 fresh pairs, none of
them in the person's pool, of which the posterior mean prefers the picture that the person's true reward prefers.
`painted` is the win rate: held-out captions and seeds as in `python -m ppd evaluate pocket`, owners judging what the
shipped adapter paints for them against what the base paints; picture k of a person is painted for the embedding that
draw k of the person's pool and answers gives.

`duel` closes the loop: each round two draws from the posterior (Thompson 1933; two make a duel, Yue et al. 2012) paint
one training caption and seed, the person picks, and the pair's features join the fit. As many picks on random pairs of
the pool stand against it.

Means are over people, with 95 % bootstrap intervals over people, each of whom has pools of their own. What is painted
is kept in the work folder, by its content, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.evaluation import Array, bootstrap
from ppd.pocket.evaluate import GUIDANCE, PICTURES_PER_PERSON
from ppd.pocket.model import SAMPLING_STEPS
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool
from ppd.questions import information, most_telling, next_question

from .interview import FRESH, SEED, SIZE, Ask, Gallery, Painter, draw_questions, duel, interview

SIZES = (SIZE, 100, 20)
"""Candidates that are asked from: the first of everybody's."""
REFERENCE = 16
"""Random picks that asking well is compared with."""
MOST = 20
"""Picks beyond which nobody is asked."""
ARMS: dict[str, Ask] = {
    "random": lambda number, differences, *known: 0,
    "most telling": lambda number, *known: most_telling(*known[:4]),
    "as the panel asks": next_question,
}
"""Candidates are in random order, so that the first is a random one."""
PAINTED = {"random": (REFERENCE,), "most telling": (6, 8, 9, 10, 12), "as the panel asks": (8, 9, 10, 12)}
"""The counts of picks that are painted, asked from all candidates."""
DUELS = (4, 8, 16, 30)
"""The counts of picks at which duels are painted for."""


def picks_needed(reached: Array, counts: Sequence[int], reference: Array) -> dict[str, float]:
    """{mean, low, high, n}: the fewest of `counts` at which the mean over people of `reached` [P, counts, ...] is at
    least that of `reference` [P, ...]; the largest plus one says that none of them is."""
    people = len(reached)
    rows = np.concatenate([reached.reshape(people, len(counts), -1), reference.reshape(people, 1, -1)], 1).mean(2)

    def fewest(sample: Array) -> float:
        *means, wanted = sample.mean(0)
        return float(next((n for n, mean in zip(counts, means, strict=True) if mean >= wanted), max(counts) + 1))

    return bootstrap(rows, fewest)


def by_accuracy(
    pool: Pool, people: People, prior: PopulationPrior, draws: int, looks: Looks | None = None
) -> dict[str, Any]:
    """For each size of pool and each arm the accuracy by picks, and the picks needed to reach random's at 16."""
    counts = range(1, MOST + 1)
    reached: dict[tuple[int, str], list[Array]] = {}
    for draw in range(draws):
        questions = draw_questions(pool, people, prior, draw)
        for size in SIZES:
            for arm, ask in ARMS.items():
                part = questions.of(size)
                means, _ = interview(part, prior, ask, MOST, looks)
                curve = np.stack([part.accuracy(u) for u in means], 1)
                reached.setdefault((size, arm), []).append(curve)
        print(f"draw {draw + 1} of {draws} asked", flush=True)
    report: dict[str, Any] = {}
    for (size, arm), curves in reached.items():
        curve = np.mean(curves, 0)
        reference = np.mean(reached[size, "random"], 0)[:, REFERENCE]
        report.setdefault(str(size), {})[arm] = {
            "accuracy": {str(n): bootstrap(curve[:, n]) for n in range(MOST + 1)},
            "picks_needed": picks_needed(curve[:, 1:], counts, reference),
        }
    return report


def by_painting(gallery: Gallery, pool: Pool, prior: PopulationPrior, looks: Looks | None = None) -> dict[str, Any]:
    """For the largest pool the painted win rate by picks, its difference to random's at 16, and the picks needed."""
    most = max(n for counts in PAINTED.values() for n in counts)
    means: dict[str, list[Tensor]] = {arm: [] for arm in PAINTED}
    for draw in range(gallery.captions.shape[1]):
        questions = draw_questions(pool, gallery.people, prior, draw)
        for arm in PAINTED:
            means[arm].append(interview(questions, prior, ARMS[arm], most, looks)[0])
    reference = gallery.wins(torch.stack([mean[REFERENCE] for mean in means["random"]], 1))
    report: dict[str, Any] = {}
    for arm, counts in PAINTED.items():
        won = {}
        for n in counts:
            won[n] = gallery.wins(torch.stack([mean[n] for mean in means[arm]], 1))
            print(f"painted for {arm} after {n} picks: wins {_figure(bootstrap(won[n]))}", flush=True)
        order = sorted(counts)
        report[arm] = {
            "win_rate": {str(n): bootstrap(won[n]) for n in order},
            "less_random": {str(n): bootstrap(won[n] - reference) for n in order},
            "picks_needed": picks_needed(np.stack([won[n] for n in order], 1), order, reference),
        }
    return report


def by_duel(gallery: Gallery, pool: Pool, prior: PopulationPrior, *, two_seeds: bool = False) -> dict[str, Any]:
    """By picks the painted win rate of each way to make pairs, and its difference to random pairs'."""
    pictures = gallery.captions.shape[1]
    drawn = [draw_questions(pool, gallery.people, prior, draw) for draw in range(pictures)]
    asked = torch.stack([interview(questions, prior, ARMS["random"], max(DUELS))[0] for questions in drawn], 2)
    gaps = {"random pairs": np.mean([questions.reward_gap.mean(1).numpy() for questions in drawn], 0)}
    won: dict[str, dict[int, Array]] = {"random pairs": {}}
    for way in ("duel", "duel, two seeds")[: 1 + two_seeds]:
        won[way], apart = {}, []
        for n, (u, _, gap) in enumerate(duel(gallery, two_seeds=way != "duel"), 1):
            apart.append(gap.numpy())
            if n in DUELS:
                won["random pairs"][n] = gallery.wins(asked[n])
                won[way][n] = gallery.wins(u[:, None].expand(-1, pictures, -1))
                rates = [_figure(bootstrap(won[name][n])) for name in (way, "random pairs")]
                print(f"{way} after {n} picks: wins {rates[0]}, random pairs {rates[1]}", flush=True)
            if n == max(DUELS):
                break
        gaps[way] = np.mean(apart, 0)
    return {
        way: {
            "win_rate": {str(n): bootstrap(rows) for n, rows in found.items()},
            "less_random": {str(n): bootstrap(rows - won["random pairs"][n]) for n, rows in found.items()},
            "reward_gap": bootstrap(gaps[way]),
        }
        for way, found in won.items()
    }


def seconds_to_choose(candidates: int = 10_000, asked: int = 100, d: int = 32, rounds: int = 20) -> dict[str, float]:
    """The processor's seconds, medians, to weigh and to choose among candidates."""
    generator = torch.Generator().manual_seed(SEED)
    x, mean = torch.randn(candidates, d, generator=generator), torch.randn(d, generator=generator)
    times: dict[str, list[float]] = {"information": [], "most_telling": []}
    for _ in range(rounds + 1):
        for name, work in (
            ("information", lambda: information(x, mean, torch.eye(d))),
            ("most_telling", lambda: most_telling(x, x[:asked], mean, torch.eye(d))),
        ):
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    settings = {"candidates": candidates, "asked": asked, "dimensions": d, "threads": torch.get_num_threads()}
    return {name: float(np.median(values[1:])) for name, values in times.items()} | settings


def table(report: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = []
    for size, arms in report.get("accuracy", {}).items():
        lines.append(f"{size} candidates: accuracy on fresh pairs after n picks")
        for arm, found in arms.items():
            shown = (1, 2, 4, 6, 8, 9, 10, 12, REFERENCE, MOST)
            row = " ".join(f"{n}: {found['accuracy'][str(n)]['mean']:.3f}" for n in shown)
            lines += [f"  {arm:18} {row}", f"  {'':18} picks needed {_figure(found['picks_needed'], 0)}"]
    for arm, found in report.get("painted", {}).items():
        lines.append(f"painted, {SIZE} candidates, {arm}: picks needed {_figure(found['picks_needed'], 0)}")
        lines += _win_rates(found, f"less random's at {REFERENCE}")
    for arm, found in report.get("duel", {}).items():
        lines.append(f"{arm}: rewards of a pair are apart by {_figure(found['reward_gap'], 2)}")
        lines += _win_rates(found, "less random's")
    if "seconds" in report:
        seconds = report["seconds"]
        spent = ", ".join(f"{name} {seconds[name] * 1000:.1f} ms" for name in ("information", "most_telling"))
        lines.append(f"{seconds['candidates']} candidates of {seconds['dimensions']} dimensions: {spent}")
    return "\n".join(lines)


def _figure(found: dict[str, float], digits: int = 3) -> str:
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _win_rates(found: dict[str, Any], difference: str) -> list[str]:
    return [
        f"  {n:>2} picks: wins {_figure(rate)}, {difference} {_figure(found['less_random'][n])}"
        for n, rate in found["win_rate"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asking")
    parser.add_argument("--people", type=int, default=200, help="reporting people (default and most: 200)")
    parser.add_argument("--duel-people", type=int, default=100, help="those of them who duel (default: 100)")
    parser.add_argument("--draws", type=int, default=8, help="pools and answers of each person (default: 8)")
    parser.add_argument("--pictures", type=int, default=PICTURES_PER_PERSON, help="of each person (default: 4)")
    parser.add_argument("--steps", type=int, default=SAMPLING_STEPS, help="default: 8, as in the model card")
    parser.add_argument("--parts", nargs="+", default=["accuracy", "painted", "duel", "seconds"])
    parser.add_argument("--two-seeds", action="store_true", help="also duel with two different seeds")
    parser.add_argument("--work", type=Path, default=Path(".work"), help="folder for the pool and what is painted")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(arguments.work, WEIGHTS)
    recipe.make("pool")
    painter = Painter(recipe, arguments.work / "asking", arguments.steps)
    gallery = Gallery.open(painter, arguments.people).part(arguments.people, arguments.pictures)
    pool, prior = recipe.pool, recipe.prior
    duellists = gallery.part(arguments.duel_people, arguments.pictures)
    work = {
        "accuracy": lambda: by_accuracy(pool, gallery.people, prior, arguments.draws, recipe.looks),
        "painted": lambda: by_painting(gallery, pool, prior, recipe.looks),
        "duel": lambda: by_duel(duellists, pool, prior, two_seeds=arguments.two_seeds),
        "seconds": seconds_to_choose,
    }
    settings = {name: getattr(arguments, name) for name in ("people", "duel_people", "pictures", "draws", "steps")}
    report: dict[str, Any] = {"settings": settings | {"seed": SEED, "fresh_pairs": FRESH, "guidance": GUIDANCE}}
    for part in arguments.parts:
        start = time.monotonic()
        report[part] = work[part]()
        report["settings"][f"{part}_took"] = round(time.monotonic() - start)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
