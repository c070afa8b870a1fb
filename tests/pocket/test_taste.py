"""From picks to user embeddings: pairs of one caption, nested supports, the population user at zero pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posterior
from ppd.pocket.people import population
from ppd.pocket.taste import SUPPORT_COUNTS, Pool, draw_support, embed_people, fit_prior

CAPTIONS = 40


@pytest.fixture(scope="module")
def people():
    return population(torch.eye(6))["tuning"]


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Features that show the six statistics among others."""
    generator = torch.Generator().manual_seed(0)
    captions = np.random.default_rng(0).permutation(np.resize(np.arange(CAPTIONS), 400))
    statistics = torch.randn(400, 6, generator=generator).clamp(-2, 2)
    features = torch.cat([statistics + 0.3 * torch.randn(400, 6, generator=generator), torch.randn(400, 4)], 1)
    return Pool(captions, statistics, features)


@pytest.fixture(scope="module")
def prior(pool, people) -> PopulationPrior:
    support = draw_support(pool, people, 32, np.random.default_rng(5))
    return fit_prior(pool, support, pool.features.mean(0), torch.eye(10), "features", "hash")


def test_pairs_are_two_pictures_of_the_caption(pool):
    captions = np.arange(CAPTIONS).repeat(5)
    a, b = pool.draw_pairs(captions, np.random.default_rng(0))
    assert (a != b).all()
    assert (pool.captions[a] == captions).all() and (pool.captions[b] == captions).all()


def test_only_captions_with_two_pictures_can_be_drawn():
    pool = Pool(np.array([0, 2, 2, -1, 3, 3, 3, -1]), torch.zeros(8, 6), torch.zeros(8, 2))
    assert pool.drawable.tolist() == [2, 3]


def test_supports_never_show_a_caption_twice(pool, people):
    support = draw_support(pool, people, 32, np.random.default_rng(1))
    assert support.chosen.shape == support.rejected.shape == (200, 32)
    captions = pool.captions[support.chosen]
    assert (captions == pool.captions[support.rejected]).all()
    assert all(len(set(row)) == 32 for row in captions)


def test_supports_are_determined_by_the_generator(pool, people):
    one, two = (draw_support(pool, people, 8, np.random.default_rng(2)) for _ in range(2))
    assert (one.chosen == two.chosen).all() and (one.rejected == two.rejected).all()


def test_the_chosen_picture_is_the_owners_taste(pool, people):
    support = draw_support(pool, people, 32, np.random.default_rng(3))
    chosen, rejected = (people.rewards(pool.statistics[x]) for x in (support.chosen, support.rejected))
    assert (chosen > rejected).double().mean() == pytest.approx(0.86, abs=0.02)


def test_no_pairs_are_the_population_user(pool, people, prior):
    support = draw_support(pool, people, 1, np.random.default_rng(4))
    u = embed_people(pool, support, prior, 0)
    assert u.shape == (200, prior.dim)
    assert torch.equal(u, prior.mean.expand(200, -1))


def test_supports_are_nested(pool, people, prior):
    """The n-pair embedding is that of the first n pairs, whatever else was picked later."""
    support = draw_support(pool, people, max(SUPPORT_COUNTS), np.random.default_rng(6))
    for n in (1, 4, 16):
        u = embed_people(pool, support, prior, n)
        person = 11
        x = prior.differences(pool.features[support.chosen[person, :n]], pool.features[support.rejected[person, :n]])
        expected, _ = fit_posterior(x, torch.ones(n), prior.mean, prior.covariance)
        torch.testing.assert_close(u[person], expected.float(), rtol=1e-3, atol=1e-3)


def test_more_pairs_know_the_person_better(pool, people, prior):
    support = draw_support(pool, people, 32, np.random.default_rng(7))
    known = [
        torch.cosine_similarity(embed_people(pool, support, prior, n)[:, :6], people.weights).mean().item()
        for n in (0, 1, 4, 16, 32)
    ]
    assert known == sorted(known)
    assert known[2] > 0.5 and known[-1] > 0.8


def test_the_prior_is_the_populations(pool, people, prior):
    """Its mean points where the people's mean does, and it varies where people do, not along the useless features."""
    assert torch.cosine_similarity(prior.mean[:6], people.weights.mean(0), dim=0) > 0.7
    variances = prior.covariance.diagonal()
    assert variances[:6].mean() > 3 * variances[6:].mean()
    assert (prior.encoder, prior.encoder_hash) == ("features", "hash")
