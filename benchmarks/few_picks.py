"""`python -m benchmarks.few_picks`: how well u points after few picks, and what would make it point better.

Reporting people pick in a pool that a pocket's base painted. A painter who goes exactly where u tells moves the
pictures' statistics by their covariance with the whitened features, times u; wins are the share of people who like that
direction, own against another's as in the model card. So what is told here is what the taste encoder leaves to be
had, whatever an adapter makes of it. Arms: the shipped prior; a scale of pick noise for each person; types of people (a
mixture of Gaussians, by EM over the training people); and questions that tell most, in place of random ones. With
`--pictures` also what the shipped adapter paints after four answers, asked either way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_with_noise, laplace, root_of
from ppd.evaluation import bootstrap, wins
from ppd.pocket.evaluate import Evaluation, ceilings
from ppd.pocket.recipe import Recipe
from ppd.pocket.taste import Support, draw_support
from ppd.pocket.world import WORLDS
from ppd.questions import most_telling, next_question

from .interview import draw_questions, interview
from .pocket_step import ROOT

TYPES, ROUNDS, TRAINING_PICKS = 8, 6, 32
COUNTS, FEW = (2, 4, 8, 16), 4
AT_ONCE = 250


class Mixture(NamedTuple):
    """K types of people: means [K, d], what they share as covariance [d, d], and shares [K]."""

    means: Tensor
    covariance: Tensor
    shares: Tensor

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of differences [P, n, d]: each type's posterior means [K, P, d] and covariances, and P(type) [K, P]."""
        root, ones = root_of(self.covariance), torch.ones(x.shape[:2], dtype=torch.float64)
        parts = [
            [
                laplace(some, one, one, mean, root)
                for some, one in zip(x.split(AT_ONCE), ones.split(AT_ONCE), strict=True)
            ]
            for mean in self.means
        ]
        means, covariances, evidence = (
            torch.stack([torch.cat([part[n] for part in row]) for row in parts]) for n in range(3)
        )
        return means, covariances, (evidence + self.shares.log()[:, None]).softmax(0)

    def embed(self, x: Tensor) -> Tensor:
        """Posterior means [P, d]."""
        means, _, probable = self.fit(x)
        return (probable[..., None] * means).sum(0)

    def better(self, x: Tensor) -> Mixture:
        """After a round of EM."""
        means, covariances, probable = self.fit(x)
        shares = probable.mean(1).clamp_min(1e-6)
        centers = (probable[..., None] * means).sum(1) / probable.sum(1)[:, None]
        apart = means - centers[:, None]
        spread = covariances + apart[..., None] * apart[..., None, :]
        return Mixture(centers, (probable[..., None, None] * spread).sum((0, 1)) / len(x), shares)


def mixture_of(x: Tensor, prior: PopulationPrior, seed: int = 0) -> Mixture:
    """Fitted to the training people's differences [P, n, d], from clusters of what the one Gaussian says of them."""
    alone = Mixture(prior.mean.double()[None], prior.covariance.double(), torch.ones(1, dtype=torch.float64))
    tastes = alone.embed(x)
    centers = tastes[torch.from_numpy(np.random.default_rng(seed).choice(len(tastes), TYPES, replace=False))]
    for _ in range(30):
        nearest = F.one_hot(torch.cdist(tastes, centers).argmin(1), TYPES).double()
        centers = (nearest.T @ tastes) / nearest.sum(0).clamp_min(1)[:, None]
    found = Mixture(centers, prior.covariance.double() / 2, nearest.mean(0).clamp_min(1e-6))
    for _ in range(ROUNDS):
        found = found.better(x)
    return found


def measure(recipe: Recipe, people: int, pictures: int) -> dict[str, Any]:
    """Figures by arm and by picks; with `pictures` of each person what is painted at FEW."""
    pool, prior, run = recipe.pool, recipe.prior, Evaluation(recipe, people)
    phi, statistics = prior.whiten(pool.features).double(), pool.statistics.double()
    moves = (statistics - statistics.mean(0)).T @ (phi - phi.mean(0)) / len(phi)
    truth = run.people.weights.double()

    def told(u: Tensor) -> dict[str, Any]:
        step = F.normalize(u.double() @ moves.T, dim=1)
        own = ((step * truth).sum(1) > 0).double().numpy()
        apart = (((step - step[run.other]) * truth).sum(1) > 0).double().numpy()
        return {"wins_vs_base": bootstrap(own), "own_vs_other": bootstrap(apart)}

    def differences(support: Support, count: int) -> Tensor:
        return prior.differences(
            pool.features[support.chosen[:, :count]], pool.features[support.rejected[:, :count]]
        ).double()

    training = recipe.people["training"]
    drawn = draw_support(pool, training, TRAINING_PICKS, np.random.default_rng(41))
    types = mixture_of(differences(drawn, TRAINING_PICKS), prior)
    alone = Mixture(prior.mean.double()[None], prior.covariance.double(), torch.ones(1, dtype=torch.float64))
    mean, covariance = prior.mean.double(), prior.covariance.double()
    few: dict[str, Tensor] = {}
    report: dict[str, Any] = {name: {} for name in ("shipped", "noise of each person", "types")}
    for count in COUNTS:
        x = differences(run.support, count)
        ones = torch.ones(count, dtype=torch.float64)
        report["shipped"][count] = told(alone.embed(x))
        if count == FEW:
            few["shipped"] = alone.embed(x)
        noisy = torch.stack([fit_with_noise(row, ones, mean, covariance)[0] for row in x])
        report["noise of each person"][count] = told(noisy)
        report["types"][count] = told(types.embed(x))
    questions = draw_questions(pool, run.people, prior, 0)
    asks = {"most telling": lambda number, *known: most_telling(*known[:4]), "as the panel asks": next_question}
    for name, ask in asks.items():
        means, _ = interview(questions, prior, ask, max(COUNTS), recipe.looks)
        report[name] = {count: told(means[count]) for count in COUNTS}
        few[name] = means[FEW]
    if pictures:
        base, adapter = run.paint(pictures=pictures), recipe.adapter(recipe.world.name)
        for name in ("shipped", *asks):
            own, other = (run.paint(adapter, u.float(), pictures=pictures) for u in (few[name], few[name][run.other]))
            report[name]["painted"] = {
                "wins_vs_base": bootstrap(wins(own.rewards, base.rewards)),
                "own_vs_other": bootstrap(wins(own.rewards, other.rewards)),
            }
    limits = ceilings(recipe, run)
    report["idealised reader at 4"] = {"wins_vs_base": limits["base"], "own_vs_other": limits["other"]}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_picks")
    parser.add_argument("--world", choices=tuple(WORLDS), default="pocket")
    parser.add_argument("--people", type=int, default=200, help="reporting people (default and most: 200)")
    parser.add_argument("--pictures", type=int, default=0, help="of each person, painted after four picks (default: 0)")
    parser.add_argument("--work", type=Path, help="folder of the world's recipe (default: .work, .work-flow)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(f".work{arguments.world.removeprefix('pocket')}")
    recipe = Recipe(work, ROOT / "weights", WORLDS[arguments.world])
    recipe.make("pool")
    report = {
        "settings": {"people": arguments.people, "pictures": arguments.pictures},
        **measure(recipe, arguments.people, arguments.pictures),
    }
    print(json.dumps(report, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
