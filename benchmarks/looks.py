"""`python -m benchmarks.looks`: whether what is said of a person is true.

Simulated people like one, two or three looks, either way round, and answer Bradley-Terry questions; what is said of
them after 4, 8, 16 and 32 picks is compared with what they like. A statement called sure is right if the person likes
that look with that sign; liking another one that mostly goes with it is wrong. Three ways to make pairs: `random` pairs
of pictures, `duels` (of 12 random pairs the one that two draws from the posterior, Thompson 1933, disagree about most),
and `studies`, two pictures that differ in one look.

Worlds: `pocket`, people of raw pixel statistics, on pictures that the base painted, and `edits`, real pictures with
known edits, which the pocket's tower sees, its whitening and looks fitted on other pictures. The threshold was chosen
on tuning people, whose figures stand beside those of the reporting people; intervals are 95 % bootstraps over people.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppd.encoders.looks import Looks
from ppd.encoders.population import fit_whitening
from ppd.encoders.posterior import fit_posterior
from ppd.encoders.statements import SURE, Statement, statements
from ppd.encoders.towers.open_clip import OpenClipTower
from ppd.evaluation import bootstrap
from ppd.pocket.looks import rendered_pairs
from ppd.pocket.people import TEMPERATURE
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS

from .edits import WORDS, edited, template_pictures
from .interview import disjoint_pairs

SEED = 1010
COUNTS = (4, 8, 16, 32)
TRUE_LOOKS = (1, 2, 3)
DUEL_CANDIDATES = 12
SPLITS = {"tuning": 0, "reporting": 1}
THRESHOLDS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
EDIT_DIMS = 32
EDITED = {"studies": 40, "people": 300, "their studies": 15}
"""Pictures whose edits the looks are fitted on, pairs of people, and of each look their pairs that differ in it."""


@dataclass(frozen=True)
class World:
    """Looks, the prior that duels are drawn from, and pairs: differences of phi [n, d] and of what people look at, in
    standard deviations [n, k], of `random` and of `study` pairs; `covariance` [k, k] of pictures in the latter."""

    looks: Looks
    prior: tuple[Tensor, Tensor]
    random: tuple[Tensor, Tensor]
    study: tuple[Tensor, Tensor]
    covariance: Tensor


def pocket_world(recipe: Recipe, _: Path) -> World:
    """People of the raw statistics of pictures that the base painted."""
    recipe.make("pool")
    pool, prior, raw = recipe.pool, recipe.prior, recipe.painted["statistics"].double()
    basis, scale = prior.basis.double() / prior.noise, raw.std(0)
    a, b = disjoint_pairs(pool, np.random.default_rng(SEED)).T
    features = pool.features.double()
    study = rendered_pairs(recipe.encoder, recipe.vae, 20, 0, seed=1)
    return World(
        recipe.looks,
        (prior.mean.double(), prior.covariance.double()),
        ((features[a] - features[b]) @ basis, (raw[a] - raw[b]) / scale),
        (study.features.double() @ basis, study.statistics.double() / scale),
        torch.corrcoef(raw.T),
    )


def edits_world(recipe: Recipe, work: Path) -> World:
    """People of the strengths of known edits to real pictures, as the pocket's tower sees them."""
    path = work / "edited_pictures.pt"
    if not path.exists():
        torch.save(look_at_edits(recipe.encoder), path)
    seen = torch.load(path)
    features, strengths, part = seen["features"].double(), seen["strengths"].double(), seen["part"]
    own, k = part == 0, len(WORDS)
    _, basis = fit_whitening(features[own], dims=EDIT_DIMS)
    x, y = (features[0::2] - features[1::2]) @ basis, strengths[0::2] - strengths[1::2]
    part = part[0::2]
    named = [(name, *words) for name, words in WORDS.items()]
    rows = part == 0
    turned = y[rows].abs().argmax(1)
    looks, dropped = Looks.from_differences(
        x[rows], turned.tolist(), named, prompt=[i // k for i in range(int(rows.sum()))]
    )
    if dropped:
        print(f"the tower does not tell: {', '.join(dropped)}")
    kept = [list(WORDS).index(name) for name in looks.names]
    y = y[:, kept] / (1 / 3) ** 0.5  # strengths are uniform on -1..1
    d = x.shape[1]
    prior = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64) * 0.3
    pairs = [(x[part == one], y[part == one]) for one in (1, 2)]
    usable = pairs[1][1].abs().amax(1) > 0
    studies = pairs[1][0][usable], pairs[1][1][usable]
    return World(looks, prior, pairs[0], studies, torch.eye(len(kept), dtype=torch.float64))


def look_at_edits(tower: OpenClipTower) -> dict[str, Tensor]:
    """Pairs of edited pictures, first and second in turn: their features, the strengths, and the part of EDITED."""
    pictures, rng, k = template_pictures(), np.random.default_rng(SEED), len(WORDS)
    ends = [sign * np.eye(k)[look] for look in range(k) for sign in (1.0, -1.0)]
    jobs = [(picture, end, 0) for picture in range(EDITED["studies"]) for end in ends]
    others = np.arange(EDITED["studies"], len(pictures))
    for picture in rng.choice(others, EDITED["people"]):
        jobs += [(int(picture), rng.uniform(-1, 1, k), 1) for _ in range(2)]
    jobs += [(int(picture), end, 2) for picture in rng.choice(others, EDITED["their studies"]) for end in ends]
    seen = []
    for start in tqdm(range(0, len(jobs), 40), desc="editing", mininterval=2.0):
        images = [edited(pictures[picture], strengths, rng) for picture, strengths, _ in jobs[start : start + 40]]
        arrays = np.stack([np.asarray(image.resize((128, 128))) for image in images])
        seen.append(tower.image_tensor_features(torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255))
    return {
        "features": torch.cat(seen),
        "strengths": torch.from_numpy(np.stack([strengths for _, strengths, _ in jobs])),
        "part": torch.tensor([part for *_, part in jobs]),
    }


def tastes(covariance: Tensor, count: int, true_looks: int, rng: np.random.Generator) -> Tensor:
    """Weights [count, k] of people with that many true looks, of a reward of unit standard deviation over pictures."""
    k = len(covariance)
    weights = torch.zeros(count, k, dtype=torch.float64)
    for row in weights:
        chosen = rng.choice(k, true_looks, replace=False)
        row[chosen] = torch.from_numpy(rng.choice([-1.0, 1.0], true_looks) * rng.uniform(0.5, 1, true_looks))
    return weights / ((weights @ covariance) * weights).sum(1, keepdim=True).sqrt()


def picked(world: World, way: str, weights: Tensor, rng: np.random.Generator) -> Tensor:
    """A person's first max(COUNTS) picks: differences of phi, chosen less rejected [n, d]."""
    x, y = world.study if way == "studies" else world.random
    order = rng.permutation(len(x))
    found = x.new_empty(0, x.shape[1])
    for number in range(max(COUNTS)):
        if way == "duels":
            candidates = rng.choice(len(x), DUEL_CANDIDATES, replace=False)
            mean, covariance = fit_posterior(found, torch.ones(len(found)), *world.prior)
            root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(len(covariance), dtype=torch.float64))
            drawn = root @ torch.from_numpy(rng.normal(size=(len(mean), 2)))
            index = int(candidates[int((x[candidates] @ (drawn[:, 0] - drawn[:, 1])).abs().argmax())])
        else:
            index = int(order[number])
        first = rng.random() < torch.sigmoid(y[index] @ weights / TEMPERATURE)
        found = torch.cat([found, x[index : index + 1] * (1.0 if first else -1.0)])
    return found


Row = dict[str, Any]


def judged(found: list[Statement], weights: Tensor, threshold: float = SURE) -> tuple[int, int]:
    """How many statements of at least the threshold there are, and how many of them are right."""
    sure = [(one, w) for one, w in zip(found, weights.tolist(), strict=True) if one.probability >= threshold]
    right = sum(w != 0 and (w > 0) == (one.probability_high > one.probability_low) for one, w in sure)
    return len(sure), right


def figures(rows: np.ndarray) -> dict[str, Any]:
    """Of rows of people [P, 3], (sure, right, true looks): the share right of those called sure, and how many are."""
    share = bootstrap(rows, lambda some: float(some[:, 1].sum() / some[:, 0].sum()) if some[:, 0].sum() else 1.0)
    return {"right": share, "sure": bootstrap(rows[:, 0]), "found": float(rows[:, 1].sum() / rows[:, 2].sum())}


def by_people(world: World, people: int) -> dict[str, Any]:
    """For each split, way, and number of true looks the figures by picks, and on tuning people by threshold."""
    report: dict[str, Any] = {}
    for split, number in SPLITS.items():
        every: dict[float, list[tuple[int, int, int]]] = {threshold: [] for threshold in THRESHOLDS}
        for at, way in enumerate(("random", "duels", "studies")):
            for true_looks in TRUE_LOOKS:
                rng = np.random.default_rng([SEED, number, at, true_looks])
                rows: dict[int, list[tuple[int, int, int]]] = {n: [] for n in COUNTS}
                for weights in tastes(world.covariance, people, true_looks, rng):
                    picks = picked(world, way, weights, rng)
                    for n in COUNTS:
                        found = statements(world.looks, picks[:n])
                        rows[n].append((*judged(found, weights), true_looks))
                        for threshold in THRESHOLDS:
                            every[threshold].append((*judged(found, weights, threshold), true_looks))
                cell = report.setdefault(split, {}).setdefault(way, {}).setdefault(str(true_looks), {})
                for n in COUNTS:
                    cell[str(n)] = figures(np.array(rows[n], dtype=float))
                line = ", ".join(f"{n}: {_cell(cell[str(n)])}" for n in COUNTS)
                print(f"{split:9} {way:8} {true_looks} true looks  {line}", flush=True)
        report[split]["by threshold"] = {str(t): figures(np.array(rows, dtype=float)) for t, rows in every.items()}
        for t, found in report[split]["by threshold"].items():
            print(f"{split:9} at {t}: {_cell(found)}", flush=True)
    return report


def _cell(found: dict[str, Any]) -> str:
    share = found["right"]
    return f"{found['sure']['mean']:.2f} sure, right {share['mean']:.3f} ({share['low']:.3f} to {share['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.looks")
    parser.add_argument("--people", type=int, default=100, help="of each split, way and number of looks (default: 100)")
    parser.add_argument("--worlds", nargs="+", choices=("pocket", "edits"), default=["pocket", "edits"])
    parser.add_argument("--work", type=Path, default=Path(".work"), help="folder for what is painted and edited")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(arguments.work, WEIGHTS)
    worlds: dict[str, Callable[[Recipe, Path], World]] = {"pocket": pocket_world, "edits": edits_world}
    report: dict[str, Any] = {"settings": {"people": arguments.people, "seed": SEED, "sure": SURE}}
    for name in arguments.worlds:
        print(name)
        report[name] = by_people(worlds[name](recipe, arguments.work), arguments.people)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
