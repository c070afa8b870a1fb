"""`python -m benchmarks.federated_adapter`: an adapter of twenty studios that keep their picks, beside a pooled one.

The world pocket flow. STUDIOS studios of PEOPLE training people each, whose u is read from SUPPORT picks and who have
QUERIES more, all among rendered pictures and each of another caption. *Federated*: ROUNDS rounds of federated
averaging, in each of which every studio takes its Local.steps steps of its Local.batch picks. *Pooled*: the same picks
in one place, as many steps, each of as many picks as all studios' together. Both start at the same weights.

Judged by picks of JUDGES reporting people that nobody trained on (ppd/training/measure.py). Means with 95 % bootstrap
intervals over people.

The studios' answers are added up here: what Flower and its masks add is a rounding, see tests/federated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ppd.adapters import UserAdapter
from ppd.federated.adapter import AdapterStudio, FederatedAdapter, Local, begin
from ppd.federated.sums import added
from ppd.pocket import scenes
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import draw_support, embed_people
from ppd.pocket.world import POCKET_FLOW
from ppd.training.adapter import train_adapter
from ppd.training.measure import measure
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

from .privacy import Rendered

PICTURES = 1500
STUDIOS, PEOPLE, SUPPORT, QUERIES = 20, 5, 8, 24
ROUNDS = 3
LOCAL = Local(
    steps=3, batch=8, learning_rate=2e-3, objective=Objective(beta=POCKET_FLOW.beta, contrast=0.0, soft_labels=False)
)
JUDGES = 40


def some(people: People, first: int, count: int) -> People:
    """So many people from a place on."""
    which = slice(first, first + count)
    return People(people.weights[which], people.types[which])


def picks_of(recipe: Recipe, rendered: Rendered, people: People, seed: int) -> QueryPicks:
    """QUERIES picks of each person, and the u of SUPPORT others: no caption is in both."""
    count, names = len(people.weights), [scene.caption for scene in scenes.SCENES]
    numbers = np.array([names.index(caption) for caption in scenes.TRAINING_CAPTIONS])
    drawn = draw_support(rendered.pool, people, SUPPORT + QUERIES, np.random.default_rng(seed))
    chosen, rejected = (side[:, SUPPORT:].flatten() for side in (drawn.chosen, drawn.rejected))
    return QueryPicks(
        rendered.latents,
        person=np.repeat(np.arange(count), QUERIES),
        chosen=chosen,
        rejected=rejected,
        caption=numbers[rendered.pool.captions[chosen]],
        embeddings=embed_people(rendered.pool, drawn, recipe.prior, SUPPORT)[None],
        population=recipe.prior.mean,
        prompts=tuple(names),
    )


def new_adapter(recipe: Recipe) -> UserAdapter:
    """At the weights that the server starts at."""
    config = {"encoder": recipe.prior.encoder, "encoder_hash": recipe.posterior.weight_hash}
    adapter = recipe.world.new_adapter(
        recipe.model, **config, embedding_dim=recipe.prior.dim, end_percent=recipe.world.end_percent
    )
    begin(adapter, recipe.prior)
    return adapter


@lru_cache(maxsize=1)
def world(work: Path) -> tuple[Recipe, Rendered]:
    """What all have: the model, and pictures to pick among."""
    recipe = Recipe(work, WEIGHTS, POCKET_FLOW)
    return recipe, Rendered.of(recipe, PICTURES)


@cache
def studio(work: Path, number: int) -> AdapterStudio:
    """One with people of its own."""
    recipe, rendered = world(work)
    people = some(recipe.people["training"], PEOPLE * number, PEOPLE)
    return AdapterStudio(recipe.model, new_adapter(recipe), picks_of(recipe, rendered, people, 361 + number), LOCAL)


def federated(work: Path) -> UserAdapter:
    """What the rounds make."""
    task = FederatedAdapter(new_adapter(world(work)[0]), ROUNDS, LOCAL)
    while task.left:
        asked = task.ask()
        task.take(added([studio(work, number).answer(asked) for number in tqdm(range(STUDIOS), leave=False)]))
    return task.adapter.eval()


def pooled(work: Path) -> UserAdapter:
    """What training on everybody's picks in one place makes."""
    recipe, _ = world(work)
    with TemporaryDirectory() as folder:
        return train_adapter(
            recipe.model,
            new_adapter(recipe),
            together([studio(work, number).picks for number in range(STUDIOS)]),
            Path(folder) / "pooled.pt",
            steps=ROUNDS * LOCAL.steps,
            objective=LOCAL.objective,
            batch=LOCAL.batch * STUDIOS,
            learning_rate=LOCAL.learning_rate,
            name="pooled",
            fresh=False,
            warmup=0,
            ema=0.0,
        ).eval()


def together(parts: Sequence[QueryPicks]) -> QueryPicks:
    """Picks among the same pictures as those of one place."""
    before = np.cumsum([0, *(part.people for part in parts)])
    return replace(
        parts[0],
        chosen=np.concatenate([part.chosen for part in parts]),
        rejected=np.concatenate([part.rejected for part in parts]),
        caption=np.concatenate([part.caption for part in parts]),
        person=np.concatenate([part.person + first for part, first in zip(parts, before, strict=False)]),
        embeddings=torch.cat([part.embeddings for part in parts], 1),
    )


def judged(work: Path, adapter: UserAdapter) -> dict[str, Any]:
    """How often the adapter sides with reporting people's picks, under their own u and under another's."""
    recipe, rendered = world(work)
    picks = picks_of(recipe, rendered, some(recipe.people["reporting"], 0, JUDGES), 381)
    found = measure(recipe.model, adapter, picks, people=JUDGES, batch=16)
    return {name: found[name] for name in ("own", "anothers", "own_minus_anothers")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated_adapter")
    parser.add_argument("--work", type=Path, default=Path(".work-privacy"), help="folder for the rendered pictures")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {"pooled": judged(arguments.work, pooled(arguments.work))}
    figures["federated"] = judged(arguments.work, federated(arguments.work))
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
