"""`python -m benchmarks.sorting`: how good the best of a batch is, sorted by a user embedding, in the pocket world.

For each reporting person the base paints held-out captions, eight seeds of each; nothing is personal but the order.
The person's u, after so many picks of training captions, puts 4 or all 8 of a caption's pictures in order
(ppd/sorting.py), and the person judges the first by their true reward: `wins`, the chance that they like it better
than a random one of the same pictures, itself included; `gain`, how much better, in standard deviations of the reward
over the base's pictures. Beside the own u stand another person's, everybody's (no picks) and the true best.

Means are over people, with 95 % bootstrap intervals over people. What is painted is kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ppd.evaluation import Array, bootstrap, wins
from ppd.pocket import scenes
from ppd.pocket.evaluate import Evaluation
from ppd.pocket.model import SAMPLING_STEPS
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import CLIP
from ppd.pocket.studio import WEIGHTS
from ppd.sorting import rank
from ppd.user_embedding import UserEmbedding

from .interview import Painter

SEED = 131
FIRST_SEED = 7 * 10**6
SIZES = (4, 8)
PICKS = (4, 16)
CAPTIONS = 2
"""Of each person."""


def paint(painter: Painter, people: int) -> tuple[Tensor, Tensor]:
    """The base's pictures of everybody's captions: clipped statistics [P, K, n, M] and features [P, K, n, f]."""
    rng = np.random.default_rng(SEED)
    captions = rng.choice(scenes.HELD_OUT_CAPTIONS, (people, CAPTIONS, 1)).repeat(max(SIZES), 2)
    seeds = FIRST_SEED + np.arange(captions.size).reshape(captions.shape)
    statistics, features = painter.paint(captions, seeds, None)
    return statistics.clamp(-CLIP, CLIP), features


def measure(evaluation: Evaluation, statistics: Tensor, features: Tensor) -> dict[str, Any]:
    """The figures by size of the batch and by whose u sorted it."""
    rewards = evaluation.people.rewards(statistics).double().numpy()
    tastes = {"everybody's": evaluation.embeddings(0)}
    for picks in PICKS:
        tastes[f"own, {picks} picks"] = evaluation.embeddings(picks)
        tastes[f"another's, {picks} picks"] = evaluation.embeddings(picks)[evaluation.other]
    report: dict[str, Any] = {}
    for size in SIZES:
        among = rewards[:, :, :size]
        firsts = {name: _firsts(evaluation.recipe, u, features[:, :, :size]) for name, u in tastes.items()}
        firsts["the true best"] = among.argmax(-1)
        found = {name: _judged(among, first) for name, first in firsts.items()}
        report[str(size)] = {name: {key: bootstrap(rows) for key, rows in one.items()} for name, one in found.items()}
        for picks in PICKS:
            own, other = found[f"own, {picks} picks"], found[f"another's, {picks} picks"]
            report[str(size)][f"own less another's, {picks} picks"] = {
                key: bootstrap(own[key] - other[key]) for key in own
            }
    return report


def _firsts(recipe: Recipe, u: Tensor, features: Tensor) -> Array:
    """Which of the pictures, with features [P, K, n, f], u [P, d] puts first: [P, K]."""
    prior = recipe.prior
    made: dict[str, Any] = {
        "encoder": prior.encoder,
        "encoder_hash": prior.encoder_hash,
        "pairs": 0,
        "created": "2026-01-01",
    }
    return np.array(
        [
            [rank(row, UserEmbedding(person[None].float(), **made), prior).order[0] for row in captions]
            for person, captions in zip(u, features, strict=True)
        ]
    )


def _judged(rewards: Array, first: np.ndarray) -> dict[str, Array]:
    """What the person thinks of picture `first` [P, K] among rewards [P, K, n]: by person [P]."""
    chosen = np.take_along_axis(rewards, first[..., None], -1)
    return {"wins": wins(chosen, rewards).mean((1, 2)), "gain": (chosen - rewards).mean((1, 2))}


def table(report: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = []
    for size, found in report["best_of"].items():
        lines.append(f"The first of {size} against a random one of them")
        for name, one in found.items():
            shown = ", ".join(f"{key} {x['mean']:.3f} ({x['low']:.3f} to {x['high']:.3f})" for key, x in one.items())
            lines.append(f"  {name:30} {shown}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sorting")
    parser.add_argument("--people", type=int, default=200, help="reporting people (default and most: 200)")
    parser.add_argument("--steps", type=int, default=SAMPLING_STEPS, help="default: 8, as in the model card")
    parser.add_argument("--work", type=Path, default=Path(".work"), help="folder for the pool and what is painted")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(arguments.work, WEIGHTS)
    recipe.make("pool")
    evaluation = Evaluation(recipe, arguments.people)
    evaluation.progress.close()
    painter = Painter(recipe, arguments.work / "sorting", arguments.steps)
    settings = {"people": evaluation.count, "captions": CAPTIONS, "steps": arguments.steps, "seed": SEED}
    report = {"settings": settings, "best_of": measure(evaluation, *paint(painter, evaluation.count))}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
