"""Sorting in the pocket world, on pictures that are rendered, since painting them takes minutes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import sorting
from benchmarks.interview import Painter
from benchmarks.sorting import measure, paint, table
from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import picture_statistics, reward_statistics
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool, draw_support, embed_people

PICTURES, CAPTIONS, PEOPLE = 240, 40, 12


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The shipped weights and a pool of rendered pictures."""
    recipe, rng = Recipe(tmp_path_factory.mktemp("work"), WEIGHTS), np.random.default_rng(0)
    captions = np.arange(PICTURES) % CAPTIONS
    rendered = [
        scenes.render(scenes.TRAINING_CAPTIONS[caption], scenes.random_style(rng), seed)
        for seed, caption in enumerate(captions)
    ]
    pictures = to_tensor(np.stack(rendered))
    features = torch.cat([recipe.encoder.image_tensor_features(part) for part in pictures.split(60)])
    recipe.pool = Pool(captions, reward_statistics(recipe.whitening, picture_statistics(pictures)), features)
    return recipe


@pytest.fixture(scope="module")
def evaluation(recipe: Recipe) -> SimpleNamespace:
    """What `measure` asks of an evaluation, which would paint."""
    everybody, rng = recipe.people["reporting"], np.random.default_rng(1)
    people = People(everybody.weights[:PEOPLE], everybody.types[:PEOPLE])
    support = draw_support(recipe.pool, people, 16, rng)

    def embeddings(pairs: int) -> torch.Tensor:
        return embed_people(recipe.pool, support, recipe.prior, pairs)

    other = (np.arange(PEOPLE) + 5) % PEOPLE
    return SimpleNamespace(recipe=recipe, people=people, embeddings=embeddings, other=other)


def test_the_own_taste_finds_better_pictures_than_chance_and_than_anothers(recipe, evaluation):
    """Twelve people, ten batches of eight each out of the pool."""
    rows = np.random.default_rng(2).permutation(np.tile(np.arange(PICTURES), 4))[: PEOPLE * 80].reshape(PEOPLE, 10, 8)
    report = measure(evaluation, recipe.pool.statistics[rows], recipe.pool.features[rows])
    report = json.loads(json.dumps(report))
    assert set(report) == {"4", "8"}
    for size, best in (("4", 0.875), ("8", 0.9375)):
        found = report[size]
        assert found["the true best"]["wins"]["mean"] == pytest.approx(best, abs=0.01)  # but for a picture drawn twice
        assert 0.7 < found["own, 16 picks"]["wins"]["mean"] < best
        assert found["own, 16 picks"]["gain"]["low"] > 0.4
        assert found["own less another's, 16 picks"]["wins"]["low"] > 0.05
        assert found["own, 4 picks"]["wins"]["mean"] > found["another's, 4 picks"]["wins"]["mean"]
    assert report["8"]["own, 16 picks"]["gain"]["mean"] > report["4"]["own, 16 picks"]["gain"]["mean"]
    assert "The first of 8 against a random one of them" in table({"best_of": report})


def test_everybody_gets_their_own_pictures_of_held_out_captions(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "SIZES", (1, 2))
    statistics, features = paint(Painter(recipe, tmp_path, steps=1), 2)
    assert statistics.shape[:3] == features.shape[:3] == (2, sorting.CAPTIONS, 2)
    assert len(torch.unique(features.flatten(0, 2), dim=0)) == 2 * sorting.CAPTIONS * 2
