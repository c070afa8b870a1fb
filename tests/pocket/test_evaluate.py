"""The figures: ceilings in the order they must have, and looks made of constructed statistics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.pocket import evaluate as evaluation
from ppd.pocket import scenes
from ppd.pocket.evaluate import (
    Evaluation,
    Look,
    _contrast,
    _share,
    _within,
    ceilings,
    evaluate,
    look_figures,
    mirror,
    steering,
)
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import STATISTICS, picture_statistics
from ppd.pocket.taste import SUPPORT_COUNTS, Pool


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """100 reporting people over whitened statistics drawn from a normal distribution; nothing is painted."""
    recipe = Recipe(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("weights"))
    world = {"mean": torch.zeros(6), "matrix": torch.eye(6), "covariance": torch.eye(6)}
    save_file(world, recipe.weights / "pocket_world.safetensors")
    captions = np.random.default_rng(0).permutation(np.resize(np.arange(60), 900))
    statistics = torch.randn(900, 6, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    recipe.pool = Pool(captions, statistics, statistics)
    return Evaluation(recipe, 100)


def look(run: Evaluation, scores: torch.Tensor) -> Look:
    return Look(run.people, scores, np.zeros((*scores.shape[:2], 3)))


def test_the_setting_is_the_reporting_peoples(run):
    assert torch.equal(run.people.weights, run.recipe.people["reporting"].weights[:100])
    assert run.captions.shape == (100, 4) and set(run.captions.flat) <= set(scenes.HELD_OUT_CAPTIONS)
    assert len(set(run.seeds.flat)) == 400
    assert (run.other != np.arange(100)).all()
    again = Evaluation(run.recipe, 100)
    assert (again.captions == run.captions).all() and (again.other == run.other).all()
    assert (again.support.chosen == run.support.chosen).all()


def test_what_minus_u_paints_is_told_against_what_u_paints(run):
    base = torch.zeros(100, 1, 6)
    shift = torch.randn(100, 1, 6, generator=torch.Generator().manual_seed(1))
    told = mirror(look(run, base), look(run, shift), look(run, -0.5 * shift))
    assert all(value == pytest.approx(-1) for value in told["shifts"].values())
    lost = (run.people.rewards(-0.5 * shift.clamp(-4, 4)) > 0).double().mean().item()
    assert told["wins_vs_base"]["mean"] == pytest.approx(lost, abs=0.02)


def test_a_share_of_no_gain_is_not_told():
    assert _share(0.3, 0.4) == pytest.approx(0.75)
    assert _share(-0.1, 0.4) == pytest.approx(-0.25)
    assert _share(-0.1, -0.4) is None and _share(0.1, 0.0) is None


def test_ceilings_are_in_the_right_order(run):
    limits = ceilings(run.recipe, run, sample=4000)
    reader = [limits["reader"][n] for n in SUPPORT_COUNTS]
    assert reader == sorted(reader)
    assert 0.3 < reader[0] < reader[2] < 0.8 < reader[-1] < 1.0
    assert limits["base"] == limits["by_pairs"][4]
    assert limits["by_pairs"][1] < limits["by_pairs"][4] < limits["by_pairs"][32] <= 1.0
    assert limits["base"] >= limits["population"] > 0.7
    assert limits["base"] > limits["other"] > 0.7


def test_rewards_and_wins_are_the_owners(run):
    raw = torch.zeros(100, 4, 6)
    raw[:, 0] = 0.1 * run.people.weights
    rewards = look(run, raw).rewards
    expected = 0.1 * run.people.weights.square().sum(1)
    np.testing.assert_allclose(rewards[:, 0], expected, rtol=1e-5)
    assert (rewards[:, 1:] == 0).all()


def test_rewards_are_clipped_and_out_of_range_is_counted(run):
    raw = torch.zeros(100, 4, 6)
    raw[:, :, 0] = 2.0
    at_the_limit = look(run, raw.clone())
    raw[:, 1, 0] = 50.0
    beyond = look(run, raw)
    assert (beyond.rewards == at_the_limit.rewards).all()
    assert (at_the_limit.out_of_range, beyond.out_of_range) == (0.0, 0.25)


def test_invented_objects_are_those_not_named(run):
    counts = np.tile(np.array([[1, 1, 2], [2, 3, 2], [0, 1, 1], [2, 2, 2]], dtype=float), (100, 1, 1))
    assert Look(run.people, torch.zeros(100, 4, 6), counts).invented == pytest.approx(0.5)


def test_the_first_pictures_of_everybody(run):
    scores = torch.randn(100, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = Look(run.people, scores, np.arange(1200.0).reshape(100, 4, 3))
    first = whole.first(2)
    assert torch.equal(first.scores, scores[:, :2])
    assert (first.rewards == whole.rewards[:, :2]).all() and (first.counts == whole.counts[:, :2]).all()


def test_steering_of_constructed_shifts(run):
    """Warmth follows the person, saturation runs against, brightness moves alike for everybody plus a little noise."""
    base = look(run, torch.zeros(100, 4, 6))
    shift = 0.01 * torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    shift[:, 0] = 0.3 * run.people.weights[:, 0]
    shift[:, 1] = 1 - 0.3 * run.people.weights[:, 1]
    found = steering(run, base, look(run, shift[:, None].expand(-1, 4, -1)))
    assert list(found) == list(STATISTICS)
    assert found["warmth"] == pytest.approx(1.0)
    assert found["saturation"] == pytest.approx(-1.0)
    assert abs(found["brightness"]) < 0.35


def test_the_contrast_of_two_people_falls_from_one_to_the_other(run):
    other = run.people.weights[run.other]
    blends = [torch.lerp(run.people.weights, other, weight)[:, None].expand(-1, 4, -1) for weight in (0.0, 0.5, 1.0)]
    a, middle, b = (_contrast(run, look(run, 0.2 * raw))["mean"] for raw in blends)
    assert a > middle > b
    assert a == pytest.approx(-b, rel=1e-3) and abs(middle) < 0.1 * a


def test_one_person_has_nobody_to_be_compared_with(run):
    with pytest.raises(ValueError, match="at least 2 people.*got 1"):
        evaluate(run.recipe, people=1)


def test_values_within_captions_are_less_their_captions_mean():
    values = torch.tensor([[1.0], [5.0], [3.0], [7.0], [2.0]])
    within = _within(values, np.array([8, 3, 8, 3, 5]))
    assert within.flatten().tolist() == [-1.0, -1.0, 1.0, 1.0, 0.0]


def test_looks_of_constructed_features_tell_people_as_far_as_their_picks_do(run, monkeypatch):
    """Features that are the statistics themselves: each look is its statistic, so that effects are true weights, better
    known with each pick."""
    monkeypatch.setattr(evaluation, "HELD_OUT_PICTURES", 100)
    pool, eye = run.recipe.pool, torch.eye(6)
    recipe = Recipe(run.recipe.work, run.recipe.weights)
    recipe.pool, recipe.painted = pool, {"statistics": pool.statistics}
    prior = PopulationPrior(torch.zeros(6), eye, torch.zeros(6), eye, "statistics", "hash")
    looks = Looks(STATISTICS, STATISTICS, STATISTICS, eye, eye.clone(), torch.ones(6))
    recipe.taste_encoder = TasteEncoder({"name": "statistics", "hash": "hash"}, prior, looks)
    tower: Any = SimpleNamespace(image_tensor_features=picture_statistics)
    recipe.encoder = tower
    figures = look_figures(recipe, run)
    assert all(value == pytest.approx(1) for value in figures["pictures"]["statistic"].values())
    assert all(value == pytest.approx(1) for value in figures["pictures"]["painted_statistic_within_captions"].values())
    assert figures["pictures"]["style"]["brightness"] < 1
    few, some, many = (figures["people"][str(n)] for n in (4, 16, 32))
    for name in STATISTICS:
        assert few["correlation"][name] < many["correlation"][name] > 0.7
        assert many["idealised_reader"][name] > 0.85
    assert few["sure"] < some["sure"] < many["sure"] and many["sure_and_right"] > 0.95


def test_people_can_be_cut(run):
    few = Evaluation(run.recipe, 7)
    assert few.count == 7 and isinstance(few.people, People)
