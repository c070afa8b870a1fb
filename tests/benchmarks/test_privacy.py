"""What the figures of benchmarks/privacy.py are made of, on pictures that are drawn as numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.privacy import FRESH, SUPPORT, Crowd, _strongest, accuracy, auc, bound, membership, retrieval
from ppd.pocket import scenes
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool
from ppd.pocket.world import POCKET_FLOW

PICTURES = 30


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return Recipe(tmp_path_factory.mktemp("work"), WEIGHTS, POCKET_FLOW)


@pytest.fixture(scope="module")
def pool(recipe):
    """Pictures whose whitened features hold their statistics, and the rest noise."""
    prior, rng = recipe.prior, torch.Generator().manual_seed(0)
    count = PICTURES * len(scenes.TRAINING_CAPTIONS)
    statistics = torch.randn(count, 6, generator=rng).clamp(-2, 2)
    strongest = torch.linalg.eigh(prior.covariance)[1][:, -6:]
    phi = torch.randn(count, prior.dim, generator=rng) * 0.3 + statistics @ strongest.T
    features = prior.center + phi @ torch.linalg.pinv(prior.basis)
    return Pool(np.arange(count) % len(scenes.TRAINING_CAPTIONS), statistics, features)


@pytest.fixture(scope="module")
def crowd(recipe, pool):
    everybody = recipe.people["reporting"]
    return Crowd(recipe, pool, People(everybody.weights[:12], everybody.types[:12]), 0)


def test_fresh_pairs_are_of_one_caption_and_of_pictures_never_shown(crowd, pool):
    assert crowd.support.chosen.shape == (12, SUPPORT) and crowd.fresh.chosen.shape == (12, FRESH)
    assert np.array_equal(pool.captions[crowd.fresh.chosen], pool.captions[crowd.fresh.rejected])
    for person in range(12):
        shown = {*crowd.support.chosen[person], *crowd.support.rejected[person]}
        fresh = {*crowd.fresh.chosen[person], *crowd.fresh.rejected[person]}
        assert not shown & fresh and (crowd.fresh.chosen[person] != crowd.fresh.rejected[person]).all()


def test_auc_counts_pairs_and_ties_by_halves():
    assert auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert auc(np.array([0.0, 3.0]), np.array([1.0])) == 0.5


def test_more_noise_tells_less_to_everybody(crowd):
    told = accuracy(crowd)
    means = [told["64"][name]["mean"] for name in ("1", "4", "16", "exact")]
    assert means == sorted(means) and means[0] < means[-1] - 0.1
    attacked = membership(crowd)
    strongest = [attacked[name]["knows_all_other_picks"]["mean"] for name in ("1", "2", "4", "8", "16")]
    assert strongest == sorted(strongest) and 0.5 < strongest[0] < 0.6 and strongest[-1] > 0.8
    assert attacked["exact"]["likelihood"]["mean"] > attacked["1"]["likelihood"]["mean"]
    assert attacked["1"]["likelihood"]["mean"] < 0.6
    ranks = retrieval(crowd)
    assert ranks["exact"]["shown"]["mean"] < 0.5 and ranks["1"]["shown_in_first_ten"]["mean"] < 0.05


def test_no_attack_does_better_than_the_guarantee_lets_it(crowd):
    """Of two hypotheses with (epsilon, 0) the AUC is at most e^epsilon / (1 + e^epsilon)."""
    for epsilon in (0.5, 1.0, 2.0):
        assert _strongest(crowd, epsilon)["mean"] < np.exp(epsilon) / (1 + np.exp(epsilon))


def test_the_bound_holds_for_everybody(recipe, pool):
    found = bound(recipe, pool)
    assert found["people"] == 1400 and found["violations"] == 0
    assert 0.3 * found["proven_most"] < found["clipped"]["most"] <= found["proven_most"] < found["as read"]["most"]
