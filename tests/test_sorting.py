"""Pictures sorted by a user embedding: order, scores, and how sure."""

from __future__ import annotations

import math

import torch

from ppd.encoders.population import PopulationPrior
from ppd.sorting import rank
from ppd.user_embedding import UserEmbedding, null_user


def a_prior(noise=1.0):
    """Two features that are their own coordinates, around (1, 1)."""
    return PopulationPrior(torch.zeros(2), torch.eye(2), torch.ones(2), torch.eye(2), "tower", "0" * 64, noise)


def an_embedding(factor=None, noise=1.0):
    return UserEmbedding(torch.tensor([[2.0, 0.0]]), "tower", "0" * 64, 4, "2026-01-01", factor, noise)


FEATURES = torch.tensor([[1.0, 5.0], [3.0, 1.0], [0.0, 1.0], [1.0, 1.0]])


def test_order_and_scores_are_log_odds_against_the_mean_picture():
    found = rank(FEATURES, an_embedding(), a_prior())
    assert found.order == [1, 0, 3, 2]  # of equals the first comes first
    torch.testing.assert_close(found.scores, torch.tensor([4.0, 0.0, 0.0, -2.0], dtype=torch.float64))
    assert found.spread is None and found.preferred is None
    quieter = rank(FEATURES, an_embedding(noise=2.0), a_prior(noise=2.0))
    torch.testing.assert_close(quieter.scores, found.scores / 4)


def test_how_sure_is_the_posteriors_spread_of_the_difference():
    factor = torch.tensor([[0.5, 0.0], [0.0, 2.0]])
    found = rank(FEATURES, an_embedding(factor), a_prior())
    # 1 against 0 differ by (2, -4), 0 against 3 by (0, 4), 3 against 2 by (1, 0)
    expected = torch.tensor([math.hypot(1.0, 8.0), 8.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.spread, expected)
    apart = torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found.preferred, torch.sigmoid(apart / (1 + math.pi / 8 * expected**2).sqrt()))
    assert found.preferred[1] == 0.5


def test_the_probability_is_the_mean_over_the_posterior():
    """Against drawing theta: the probit approximation is within .015 here."""
    factor = torch.tensor([[0.8, 0.0], [0.3, 0.6]])
    embedding = an_embedding(factor)
    found = rank(FEATURES[1:3], embedding, a_prior())
    theta = embedding.u + torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) @ factor.T
    drawn = torch.sigmoid(theta @ (FEATURES[1] - FEATURES[2])).mean()
    assert abs(float(found.preferred[0]) - float(drawn)) < 0.015


def test_one_picture_and_nobodys_taste():
    one = rank(FEATURES[:1], an_embedding(torch.eye(2)), a_prior())
    assert one.order == [0] and one.spread.shape == one.preferred.shape == (0,)
    assert rank(FEATURES, null_user(an_embedding()), a_prior()).order == [0, 1, 2, 3]
