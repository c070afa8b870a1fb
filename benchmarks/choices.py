"""`python -m benchmarks.choices`: what choosing the best of several teaches, and what a moodboard does, in the pocket.

Simulated people of hidden statistics (ppd/pocket/people.py) choose the best of 2, 4 or 9 pictures of one caption with
the probabilities of Luce's axiom, by the temperature of all their picks. The posterior is fitted as the taste encoder
does, with the noise that it infers; the prior is the shipped one. Arms are compared after as many answers, and after as
many pictures looked at, since a grid takes longer to answer than a pair. As a control the same grids are read as if
each rejected picture had been a pick of its own.

A moodboard is the `loved` of SEEN times as many pictures of other captions, ranked with the same noise; each counts
against its turns of pictures drawn from the rest, whatever they are (ppd/moodboard.py).

`accuracy` is the share of 400 held-out pairs, of captions that the person was never asked about, of which the posterior
mean prefers what the person's true reward does; `loss` is the expected log loss in bits of the posterior predictive on
the person's own picks of these pairs; `covered` is the share of them whose true log-odds lie in the posterior's 90 %
interval. What the tower does not see lacks in every interval, so how sure each reading makes is shown apart: an ideal
reader sees the hidden statistics and knows the moments of the training people's tastes.

`statements` is how often what is called sure of a look is right, and how many looks are called so, of people who like
one to three statistics of pixels and nothing else, after STATED answers (benchmarks/looks.py).

Pictures are rendered in random styles, since the base takes half an hour to paint as many; with `--work` they are those
that the base painted into that folder, as in `benchmarks.asking`. Means are over people, with 95 % bootstrap intervals
over people.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_with_noise
from ppd.encoders.statements import statements
from ppd.evaluation import Array, bootstrap
from ppd.moodboard import MOST_BACKGROUND, turns
from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.people import TEMPERATURE, People
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import picture_statistics, reward_statistics
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool

from .looks import TRUE_LOOKS, figures, judged, tastes

SEED = 211
PICTURES = 2000
FRESH = 400
SHOWN = (2, 4, 9)
"""Pictures of a question; of two it is a pair."""
ANSWERS = (4, 8, 16)
LOOKED_AT = (36, 72, 144)
"""Pictures looked at: as many in 18 pairs, 9 grids of four and 4 of nine, and so on."""
LOVED = (5, 10, 20, 50)
SEEN = 10
"""A moodboard holds one in so many pictures that the person saw."""
BACKGROUNDS = (16, 64, 256)
STATED = 8
MEASURES = ("accuracy", "loss", "covered")
NINETY = 1.645
"""Standard deviations to either side that hold 90 %."""


def rendered_pool(recipe: Recipe, count: int) -> tuple[Pool, Tensor]:
    """Pictures in random styles, as many of each training caption but for one; and their raw statistics [n, M]."""
    rng = np.random.default_rng(SEED)
    captions = np.arange(count) % len(scenes.TRAINING_CAPTIONS)
    statistics, features = [], []
    for start in tqdm(range(0, count, 100), desc="rendering", mininterval=2.0):
        some = range(start, min(start + 100, count))
        pictures = to_tensor(
            np.stack([scenes.render(scenes.TRAINING_CAPTIONS[captions[i]], scenes.random_style(rng), i) for i in some])
        )
        statistics.append(picture_statistics(pictures))
        features.append(recipe.encoder.image_tensor_features(pictures))
    raw = torch.cat(statistics)
    return Pool(captions, reward_statistics(recipe.whitening, raw), torch.cat(features)), raw


@dataclass(frozen=True)
class Person:
    """Somebody's rewards [n] and the whitened features [n, d] of the pool's pictures; captions to be asked about, in
    random order, as pictures in random order each; and held-out pairs [F, 2] of the other captions."""

    rewards: Array
    phi: Tensor
    asked: list[np.ndarray]
    fresh: np.ndarray

    def ranked(self, pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Pictures [..., n] in the order of preference as Plackett and Luce have it: by Gumbel's noise."""
        noisy = self.rewards[pictures] / TEMPERATURE + rng.gumbel(size=pictures.shape)
        return np.take_along_axis(pictures, (-noisy).argsort(-1), -1)

    def grids(self, shown: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Answers [count, shown] with the chosen picture first, each of one caption, as long as may be of a new one."""
        starts = range(0, max(map(len, self.asked)), shown)
        parts = (pictures[start : start + shown] for start in starts for pictures in self.asked)
        return self.ranked(np.stack([part for part in parts if len(part) == shown][:count]), rng)

    def moodboard(self, loved: int, background: int, rng: np.random.Generator) -> np.ndarray:
        """Answers [loved, 1 + others]: the loved of SEEN times as many pictures, each against its turns of as many of
        the rest as `background` says."""
        pictures = rng.permutation(np.concatenate(self.asked))
        best = self.ranked(pictures[: SEEN * loved], rng)[:loved]
        others = rng.permutation(np.setdiff1d(pictures, best))[:background]
        return np.concatenate([best[:, None], others[turns(loved, len(others))]], 1)

    def told(self, answers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Answers [count, shown] as differences [count * (shown - 1), d] and the numbers of their choices."""
        phi = self.phi[torch.from_numpy(answers)]
        count, rejected = answers.shape[0], answers.shape[1] - 1
        number = (rejected * torch.arange(count)).repeat_interleave(rejected)
        return (phi[:, :1] - phi[:, 1:]).flatten(0, 1), number

    def judged(self, prior: PopulationPrior, differences: Tensor, choices: Tensor | None) -> tuple[float, ...]:
        """MEASURES of the posterior on the held-out pairs."""
        ones, mean, covariance = torch.ones(len(differences)), prior.mean.double(), prior.covariance.double()
        mean, covariance, noise = fit_with_noise(differences, ones, mean, covariance, choices=choices)
        x = (self.phi[self.fresh[:, 0]] - self.phi[self.fresh[:, 1]]) / noise
        gap = torch.from_numpy(self.rewards[self.fresh[:, 0]] - self.rewards[self.fresh[:, 1]])
        logit = x @ mean
        spread = ((x @ covariance) * x).sum(1)
        stated = torch.sigmoid(logit / (1 + math.pi / 8 * spread).sqrt())  # MacKay 1992
        true = torch.sigmoid(gap / TEMPERATURE)
        loss = -(true * stated.log2() + (1 - true) * (1 - stated).log2()).mean()
        covered = (logit - gap / TEMPERATURE).abs() < NINETY * spread.sqrt()
        return tuple(float(x.double().mean()) for x in ((logit > 0) == (gap > 0), loss, covered))


def ideal(pool: Pool, training: People) -> tuple[Pool, PopulationPrior]:
    """What a reader has who sees the hidden statistics and knows the moments of the training people's tastes."""
    tastes, one = training.weights / TEMPERATURE, torch.eye(training.weights.shape[1])
    prior = PopulationPrior(tastes.mean(0), torch.cov(tastes.T), torch.zeros(len(one)), one, "statistics", "")
    return Pool(pool.captions, pool.statistics, pool.statistics), prior


def meet(pool: Pool, people: People, prior: PopulationPrior, number: int) -> Person:
    """Person number `number`: half of the captions are asked about, the other half makes the held-out pairs."""
    rng = np.random.default_rng([SEED, number])
    rewards = (pool.statistics @ people.weights[number]).double().numpy()
    captions = rng.permutation(np.unique(pool.captions))
    by_caption = [rng.permutation(np.flatnonzero(pool.captions == caption)) for caption in captions]
    half = len(by_caption) // 2
    pairs = [own[: len(own) // 2 * 2].reshape(-1, 2) for own in by_caption[half:]]
    fresh = rng.permutation(np.concatenate(pairs))[:FRESH]
    return Person(rewards, (prior.whiten(pool.features) / prior.noise).double(), by_caption[:half], fresh)


def by_choices(everybody: list[Person], prior: PopulationPrior) -> dict[str, Any]:
    """MEASURES [P, 3] by arm and number of answers, as figures; less those of pairs after as many answers."""
    arms: dict[str, dict[int, Array]] = {}
    for number, person in enumerate(tqdm(everybody, desc="choices", mininterval=2.0)):
        for shown in SHOWN:
            counts = sorted({*ANSWERS, *(most // shown for most in LOOKED_AT)})
            answers = person.grids(shown, max(counts), np.random.default_rng([SEED, number, shown]))
            for count in counts:
                differences, choices = person.told(answers[:count])
                rows = {_arm(shown): choices}
                if shown > 2 and count in ANSWERS:
                    rows[f"{_arm(shown)}, read as pairs"] = None
                for arm, numbers in rows.items():
                    found = arms.setdefault(arm, {}).setdefault(count, np.empty((len(everybody), len(MEASURES))))
                    found[number] = person.judged(prior, differences, numbers)
    pairs = arms[_arm(2)]
    return {arm: {str(n): _figures(rows, pairs.get(n)) for n, rows in found.items()} for arm, found in arms.items()}


def by_moodboard(everybody: list[Person], prior: PopulationPrior) -> dict[str, Any]:
    """MEASURES by size of the background, and by number of loved pictures."""
    arms = [(loved, MOST_BACKGROUND) for loved in LOVED] + [(LOVED[1], size) for size in BACKGROUNDS]
    found = {arm: np.empty((len(everybody), len(MEASURES))) for arm in arms}
    for number, person in enumerate(tqdm(everybody, desc="moodboards", mininterval=2.0)):
        for (loved, background), rows in found.items():
            answers = person.moodboard(loved, background, np.random.default_rng([SEED, number, loved]))
            rows[number] = person.judged(prior, *person.told(answers))
    report: dict[str, Any] = {}
    for (loved, background), rows in found.items():
        report.setdefault(f"against {background} others", {})[str(loved)] = _figures(rows)
    return report


def by_statements(pool: Pool, raw: Tensor, prior: PopulationPrior, looks: Looks, people: int) -> dict[str, Any]:
    """How often sure statements are right, by arm, of as many people for each number of true looks."""
    reward = raw.double() / raw.double().std(0)
    phi, world = prior.whiten(pool.features).double(), torch.corrcoef(raw.double().T)
    rows: dict[str, list[tuple[int, int, int]]] = {}
    for true_looks in TRUE_LOOKS:
        rng = np.random.default_rng([SEED, true_looks])
        for weights in tqdm(tastes(world, people, true_looks, rng), desc="statements", mininterval=2.0):
            captions = rng.permutation(np.unique(pool.captions))
            asked = [rng.permutation(np.flatnonzero(pool.captions == caption)) for caption in captions]
            person = Person((reward @ weights).numpy(), phi, asked, np.empty((0, 2), int))
            for shown in SHOWN:
                differences, choices = person.told(person.grids(shown, STATED, rng))
                readings = {_arm(shown): choices} | ({f"{_arm(shown)}, read as pairs": None} if shown > 2 else {})
                for arm, numbers in readings.items():
                    found = statements(looks, differences, choices=numbers)
                    rows.setdefault(arm, []).append((*judged(found, weights), true_looks))
    return {arm: figures(np.array(some, dtype=float)) for arm, some in rows.items()}


def nobodys(everybody: list[Person], prior: PopulationPrior) -> dict[str, float]:
    """The accuracy of the population user, before any answer."""
    return bootstrap(np.array([person.judged(prior, torch.empty(0, prior.dim), None)[0] for person in everybody]))


def _arm(shown: int) -> str:
    return "pairs" if shown == 2 else f"best of {shown}"


def _figures(rows: Array, pairs: Array | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {measure: bootstrap(rows[:, at]) for at, measure in enumerate(MEASURES)}
    return found | ({} if pairs is None or pairs is rows else {"less_pairs": bootstrap(rows[:, 0] - pairs[:, 0])})


def measure(pool: Pool, people: People, training: People, prior: PopulationPrior) -> dict[str, Any]:
    """All figures of these people on this pool; `training` are others of their kind."""
    everybody = [meet(pool, people, prior, number) for number in range(len(people.weights))]
    seen, known = ideal(pool, training)
    return {
        "population": nobodys(everybody, prior),
        "choices": by_choices(everybody, prior),
        "moodboard": by_moodboard(everybody, prior),
        "ideal reader": by_choices([meet(seen, people, known, n) for n in range(len(people.weights))], known),
    }


def table(report: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [f"accuracy before any answer {_figure(report['population'])}"]
    for part in ("choices", "moodboard", "ideal reader"):
        lines.append(part)
        for arm, counts in report[part].items():
            for count, found in counts.items():
                row = "  ".join(f"{measure} {_figure(found[measure])}" for measure in MEASURES)
                less = f"  less pairs' {_figure(found['less_pairs'])}" if "less_pairs" in found else ""
                lines.append(f"  {arm:24} {count:>3}  {row}{less}")
    lines.append(f"statements after {STATED} answers")
    for arm, found in report["statements"].items():
        lines.append(f"  {arm:24}      right {_figure(found['right'])}  sure {_figure(found['sure'])}")
    return "\n".join(lines)


def _figure(found: dict[str, float]) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices")
    parser.add_argument("--people", type=int, default=100, help="reporting people (default: 100, most: 200)")
    parser.add_argument("--work", type=Path, help="folder with what the base painted (default: rendered pictures)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        recipe = Recipe(arguments.work or Path(empty), WEIGHTS)
        if arguments.work:
            recipe.make("pool")
            pool, raw = recipe.pool, recipe.painted["statistics"]
        else:
            pool, raw = rendered_pool(recipe, PICTURES)
        people = recipe.people["reporting"]
        few = People(people.weights[: arguments.people], people.types[: arguments.people])
        report = measure(pool, few, recipe.people["training"], recipe.prior)
        stated = max(1, len(few.weights) // 5)
        report["statements"] = by_statements(pool, raw, recipe.prior, recipe.looks, stated)
    report["settings"] = {
        "people": len(few.weights),
        "pictures": "painted" if arguments.work else "rendered",
        "seed": SEED,
        "fresh_pairs": FRESH,
        "background": MOST_BACKGROUND,
        "seen": SEEN,
    }
    print(table(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
