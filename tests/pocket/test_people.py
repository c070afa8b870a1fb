"""Simulated people: the fixed structure, the unit of reward, the noise of picks, the splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.pocket.people import TEMPERATURE, People, _structure, pick, population, sample_weights

COVARIANCE = torch.eye(6) * 0.9 + 0.04
"""About that of clipped whitened statistics."""

M = (-0.5912, 0.7517, -0.0576, -0.2809, -0.0275, -0.0488)
FIRST_TYPE = (0.188, 0.5913, -0.5382, 0.0992, 0.0681, 0.3994)
"""warmth, saturation, brightness, contrast, outline, texture."""


@pytest.fixture(scope="module")
def people() -> dict[str, People]:
    return population(COVARIANCE)


def test_the_structure_is_the_one_the_model_card_prints():
    m, types = _structure()
    np.testing.assert_allclose(np.linalg.norm(m), 1)
    assert types.shape == (8, 6)
    np.testing.assert_allclose(types.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((types**2).sum(1).mean(), 1)
    np.testing.assert_allclose(m, M, atol=1e-4)
    np.testing.assert_allclose(types[0], FIRST_TYPE, atol=1e-4)


def test_weights_follow_the_formula():
    """w is proportional to .35 m + c_type + .35 e with e ~ N(0, I/6)."""
    weights, types = sample_weights(torch.eye(6), np.random.default_rng(0), 40000)
    m, centers = _structure()
    rng = np.random.default_rng(1)
    for kind in range(8):
        e = rng.normal(size=(20000, 6)) / np.sqrt(6)
        w = 0.35 * m + centers[kind] + 0.35 * e
        expected = (w / np.linalg.norm(w, axis=1, keepdims=True)).mean(0)
        np.testing.assert_allclose(weights[types == kind].mean(0), expected, atol=0.015)


def test_types_are_equally_common_and_matter(people):
    training = people["training"]
    assert torch.bincount(training.types, minlength=8).min() > 90
    within = torch.stack([training.weights[training.types == kind].var(0) for kind in range(8)]).mean(0).sum()
    assert within < 0.45 * training.weights.var(0).sum()


def test_rewards_have_unit_standard_deviation(people):
    for split in people.values():
        variance = ((split.weights @ COVARIANCE) * split.weights).sum(1)
        torch.testing.assert_close(variance, torch.ones(len(variance)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 6, generator=generator) @ torch.linalg.cholesky(COVARIANCE).T
    measured = (x @ people["tuning"].weights.T).std(0)
    assert measured.sub(1).abs().max() < 0.03


def test_splits_are_large_enough_fixed_and_apart(people):
    assert {name: len(split.weights) for name, split in people.items()} == {
        "training": 1000,
        "tuning": 200,
        "reporting": 200,
    }
    again = population(COVARIANCE)
    for name, split in people.items():
        assert torch.equal(split.weights, again[name].weights) and torch.equal(split.types, again[name].types)
    everybody = torch.cat([split.weights for split in people.values()])
    assert len(torch.unique(everybody, dim=0)) == 1400


def test_another_unit_of_reward_makes_the_same_people(people):
    """The population is fixed before the base exists: its covariance scales a person, and changes nobody."""
    other = population(3 * COVARIANCE)["reporting"]
    torch.testing.assert_close(other.weights * 3**0.5, people["reporting"].weights)


def test_rewards_are_of_ones_own_pictures(people):
    statistics = torch.randn(200, 3, 6, generator=torch.Generator().manual_seed(0))
    rewards = people["tuning"].rewards(statistics)
    assert rewards.shape == (200, 3)
    torch.testing.assert_close(rewards[17, 2], statistics[17, 2] @ people["tuning"].weights[17])
    torch.testing.assert_close(people["tuning"].rewards(statistics[:, 0]), rewards[:, 0])


def test_picks_follow_bradley_terry():
    assert TEMPERATURE == 0.38
    a = torch.full((40000,), 0.38)
    share = pick(a, torch.zeros_like(a), np.random.default_rng(0)).double().mean().item()
    assert share == pytest.approx(0.7311, abs=0.01)  # sigmoid(1)
    assert pick(a * 100, torch.zeros_like(a), np.random.default_rng(0)).all()


def test_picks_are_consistent_86_percent_of_the_time():
    """Of rewards of unit standard deviation, as everybody's are: the better one is picked in 86 %, +- 1.5 points."""
    a, b = torch.randn(2, 200000, generator=torch.Generator().manual_seed(0))
    consistent = pick(a, b, np.random.default_rng(1)) == (a > b)
    assert consistent.double().mean().item() == pytest.approx(0.86, abs=0.015)
