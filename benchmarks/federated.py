"""`python -m benchmarks.federated`: what a population prior of several studios costs when it hides each person.

The training people of the world pocket flow, in STUDIOS studios, PICKS picks each among pictures rendered in random
styles. By their number and by epsilon (delta 1e-5, for each person over all rounds): the accuracy of the federated
prior on 200 reporting people, that is the share of FRESH pairs, never shown, of which u prefers what they do, u being
read by that prior from 0 picks (its mean) and from READ; and the distance of its mean from that of all 1,000 training
people pooled, as a share of their typical distance from it.

`public` is the prior that rounds with noise start at, which nobody's picks made; `exact` is EM without noise. Means
over SEEDS draws of noise, with 95 % bootstrap intervals over people.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppd.encoders.population import Said
from ppd.encoders.posterior import fit_posteriors
from ppd.evaluation import Array, bootstrap
from ppd.federated.hiding import Hiding
from ppd.federated.sums import Prior, added, fit_federated
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool, draw_support
from ppd.pocket.world import POCKET_FLOW
from ppd.privacy import Guarantee

from .privacy import Rendered

PICTURES, STUDIOS, PICKS, FRESH = 2500, 10, 16, 64
COUNTS = (50, 200, 1000)
EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0)
READ = 4
SEEDS = 3
EM_ROUNDS = 30
PUBLIC_VARIANCE = 0.1
"""Of each whitened direction in the prior that nobody's picks made."""


class Studios:
    """Everybody's picks, and the accuracy of a prior on reporting people."""

    def __init__(self, recipe: Recipe, pool: Pool) -> None:
        self.phi = recipe.prior.whiten(pool.features).double()
        everybody, rng = recipe.people["training"], np.random.default_rng(351)
        self.training: list[Said] = [
            (row, torch.ones(len(row)).double()) for row in self._picks(pool, everybody, PICKS, rng)
        ]
        reporting = self._picks(pool, recipe.people["reporting"], READ + FRESH, np.random.default_rng(352))
        self.shown, self.fresh = reporting[:, :READ], reporting[:, READ:]
        self.public = torch.zeros(self.d).double(), PUBLIC_VARIANCE * torch.eye(self.d).double()

    @property
    def d(self) -> int:
        return self.phi.shape[1]

    def _picks(self, pool: Pool, people: People, count: int, rng: np.random.Generator) -> Tensor:
        """Differences [P, count, d]."""
        picks = draw_support(pool, people, count, rng)
        return self.phi[picks.chosen] - self.phi[picks.rejected]

    def first(self, people: int) -> list[list[Said]]:
        """The first so many training people, dealt to the studios."""
        return [self.training[studio:people:STUDIOS] for studio in range(STUDIOS)]

    def accuracy(self, prior: Prior) -> tuple[Array, Array]:
        """Each reporting person's [P] without a pick, and after READ."""
        ones = torch.ones(self.shown.shape[:2]).double()
        read = fit_posteriors(self.shown, ones, ones, *prior)[0]
        tastes = (prior[0].expand(len(read), -1), read)
        margins = (torch.einsum("pnd,pd->pn", self.fresh, u) for u in tastes)
        without, after = ((0.5 + 0.5 * margin.sign()).mean(1).numpy() for margin in margins)
        return without, after

    def hidden(self, people: int, hiding: Hiding, seed: int) -> Prior:
        """By rounds with noise."""
        noise, prior, studios = random.Random(seed), self.public, self.first(people)
        for _ in range(hiding.rounds):
            prior = hiding.updated(added([hiding.answer(some, prior, noise) for some in studios]), prior)
        return prior


def measure(studios: Studios) -> dict[str, Any]:
    """Figures by the number of people and by epsilon."""
    best = fit_federated(studios.first(max(COUNTS)), EM_ROUNDS)
    typical = float(best[1].trace().sqrt())

    def told(priors: list[Prior]) -> dict[str, Any]:
        without, after = (np.mean(rows, 0) for rows in zip(*map(studios.accuracy, priors), strict=True))
        apart = np.mean([float((mean - best[0]).norm()) / typical for mean, _ in priors])
        return {"no_picks": bootstrap(without), f"after_{READ}": bootstrap(after), "mean_off_by": round(apart, 3)}

    report: dict[str, Any] = {"public": told([studios.public])}
    for people in tqdm(COUNTS, desc="studios"):
        exact = best if people == max(COUNTS) else fit_federated(studios.first(people), EM_ROUNDS)
        report[str(people)] = {"exact": told([exact])}
        for epsilon in EPSILONS:
            hiding = Hiding(Guarantee(epsilon), STUDIOS)
            priors = [studios.hidden(people, hiding, seed) for seed in range(SEEDS)]
            report[str(people)][f"{epsilon:g}"] = told(priors)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated")
    parser.add_argument("--work", type=Path, default=Path(".work-privacy"), help="folder for the rendered pictures")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(arguments.work, WEIGHTS, POCKET_FLOW)
    figures = measure(Studios(recipe, Rendered.of(recipe, PICTURES).pool))
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
