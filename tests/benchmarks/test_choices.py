"""Grids and moodboards in the pocket world, small, on pictures that are rendered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import choices
from benchmarks.choices import ideal, measure, meet, rendered_pool, table
from ppd.encoders.posterior import fit_posterior
from ppd.pocket import scenes
from ppd.pocket.people import TEMPERATURE, People
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool

CAPTIONS, EACH = 12, 10


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return Recipe(tmp_path_factory.mktemp("work"), WEIGHTS)


@pytest.fixture(scope="module")
def pool(recipe) -> Pool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "TRAINING_CAPTIONS", scenes.TRAINING_CAPTIONS[:CAPTIONS])
        return rendered_pool(recipe, CAPTIONS * EACH)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(choices, "ANSWERS", (4,))
    monkeypatch.setattr(choices, "LOOKED_AT", (36,))
    monkeypatch.setattr(choices, "LOVED", (1, 3))
    monkeypatch.setattr(choices, "BACKGROUNDS", (8,))


def some(people: People, count: int) -> People:
    return People(people.weights[:count], people.types[:count])


@pytest.fixture
def person(recipe, pool):
    return meet(pool, some(recipe.people["reporting"], 1), recipe.prior, 0)


@pytest.mark.parametrize("shown", [2, 4, 9])
def test_grids_are_of_one_caption_and_held_out_pairs_of_others(pool, person, shown):
    answers = person.grids(shown, 6, np.random.default_rng(0))
    assert answers.shape == (6, shown) and len(np.unique(answers)) == answers.size
    captions = pool.captions[answers]
    assert (captions == captions[:, :1]).all() and len(set(captions[:, 0])) == 6
    assert (pool.captions[person.fresh[:, 0]] == pool.captions[person.fresh[:, 1]]).all()
    assert not set(pool.captions[np.concatenate(person.asked)]) & set(pool.captions[person.fresh].flat)
    again = person.grids(shown, 3, np.random.default_rng(0))
    assert (pool.captions[again[:, 0]] == captions[:3, 0]).all()


def test_the_best_is_chosen_as_luces_axiom_says(person):
    """3,000 answers to one grid of four: shares of each picture against softmax(reward / TEMPERATURE)."""
    grid = person.asked[0][:4]
    answers = person.ranked(np.tile(grid, (3000, 1)), np.random.default_rng(1))[:, 0]
    shares = [(answers == picture).mean() for picture in grid]
    expected = torch.softmax(torch.from_numpy(person.rewards[grid] / TEMPERATURE), 0)
    np.testing.assert_allclose(shares, expected, atol=0.03)


def test_what_is_judged_is_the_fit_of_the_choices(recipe, person):
    prior, answers = recipe.prior, person.grids(4, 5, np.random.default_rng(0))
    x, numbers = person.told(answers)
    assert x.shape == (15, prior.dim) and numbers.tolist() == [0] * 3 + [3] * 3 + [6] * 3 + [9] * 3 + [12] * 3
    torch.testing.assert_close(x[4], person.phi[answers[1, 0]] - person.phi[answers[1, 2]])
    mean, _ = fit_posterior(x, torch.ones(15), prior.mean.double(), prior.covariance.double(), choices=numbers)
    fresh = person.phi[person.fresh[:, 0]] - person.phi[person.fresh[:, 1]]
    truly = torch.from_numpy(person.rewards[person.fresh[:, 0]] > person.rewards[person.fresh[:, 1]])
    accuracy, loss, covered = person.judged(prior, x, numbers)
    assert accuracy == pytest.approx(float((((fresh @ mean) > 0) == truly).double().mean()))
    assert 0 < loss < 2 and 0 <= covered <= 1


def test_a_moodboard_is_of_the_liked_and_never_against_itself(person):
    answers = person.moodboard(3, 20, np.random.default_rng(0))
    assert answers.shape == (3, 21) and len(np.unique(answers)) == 23
    rewards = [person.rewards[person.moodboard(3, 20, np.random.default_rng(seed))] for seed in range(20)]
    assert np.mean([some[:, 0] for some in rewards]) > np.mean([some[:, 1:] for some in rewards]) + 0.7


def test_the_ideal_reader_knows_tastes_by_their_moments(recipe, pool):
    seen, prior = ideal(pool, recipe.people["training"])
    assert torch.equal(seen.features, pool.statistics)
    torch.testing.assert_close(prior.mean, recipe.people["training"].weights.mean(0) / TEMPERATURE)
    assert torch.equal(prior.whiten(seen.features), pool.statistics)


def test_grids_teach_more_than_pairs_and_the_report_has_its_figures(recipe, pool):
    report = measure(pool, some(recipe.people["reporting"], 10), recipe.people["training"], recipe.prior)
    report = json.loads(json.dumps(report))
    assert set(report) == {"population", "choices", "moodboard", "ideal reader"}
    grids = {"pairs", "best of 4", "best of 4, read as pairs", "best of 9", "best of 9, read as pairs"}
    assert set(report["choices"]) == set(report["ideal reader"]) == grids
    assert set(report["choices"]["pairs"]) == {"4", "18"} and set(report["choices"]["best of 9"]) == {"4"}
    assert set(report["choices"]["pairs"]["4"]["covered"]) == {"mean", "low", "high", "n"}
    ideal_nine, ideal_pairs = (report["ideal reader"][arm]["4"]["accuracy"]["mean"] for arm in ("best of 9", "pairs"))
    assert ideal_nine > ideal_pairs + 0.03
    less = report["choices"]["best of 9"]["4"]["less_pairs"]["mean"]
    nine, pairs = (report["choices"][arm]["4"]["accuracy"]["mean"] for arm in ("best of 9", "pairs"))
    assert less == pytest.approx(nine - pairs)
    assert set(report["moodboard"]) == {"against 64 others", "against 8 others"}
    liked = report["moodboard"]["against 64 others"]["3"]["accuracy"]["mean"]
    assert liked > report["population"]["mean"]
    assert "best of 9, read as pairs" in table(report) and "against 8 others" in table(report)
