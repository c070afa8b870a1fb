"""Simulated people: which looks they like, and the u that tells all of their taste."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ppd.encoders.making import prior_of_looks
from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posterior
from ppd.encoders.simulated import LIKED, OTHERWISE, TYPICAL_LOGIT, people_of, simulate

DIMS = 6
BASIS = torch.randn(12, DIMS, generator=torch.Generator().manual_seed(0))
READINGS = torch.eye(4, DIMS, dtype=torch.float64)


def test_they_like_up_to_three_looks_and_a_little_of_anything():
    people = simulate(BASIS, READINGS, 2000, seed=1)
    counts = (people.looks != 0).sum(1)
    assert counts.min() == 1 and counts.max() == LIKED and len(people) == 2000
    assert people.looks.norm(dim=1).allclose(torch.ones(2000, dtype=torch.float64))
    length = people.tastes.pow(2).sum(1).mean().sqrt().item()
    assert length == pytest.approx(TYPICAL_LOGIT / 2**0.5, rel=0.02)
    off_looks = (people.tastes[:, 4:].pow(2).sum(1) / people.tastes.pow(2).sum(1)).mean().item()
    assert off_looks == pytest.approx(OTHERWISE * 2 / DIMS, rel=0.2)


def test_their_embeddings_are_those_of_endless_picks():
    """u of picks comes as near as picks are many, at any pick noise of the prior."""
    people, noise = simulate(BASIS, READINGS, 3, seed=2), 2.5
    embeddings = people.embeddings(noise)
    generator = torch.Generator().manual_seed(3)
    differences = torch.randn(20_000, DIMS, generator=generator)
    for taste, u in zip(people.tastes, embeddings, strict=True):
        picks = (torch.rand(20_000, generator=generator) < torch.sigmoid(differences @ taste.float())).float()
        found, _ = fit_posterior(differences / noise, picks, torch.zeros(DIMS), 100 * torch.eye(DIMS))
        assert F.cosine_similarity(found, u, dim=0) > 0.998
        assert found.norm().item() == pytest.approx(u.norm().item(), rel=0.05)


def test_they_share_what_the_people_of_a_prior_share():
    """Besides their looks all like its mean, in logits at its pick noise; nothing where it met nobody."""
    mean = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.0, 0.25])
    prior = PopulationPrior(mean, 0.01 * torch.eye(DIMS), torch.zeros(12), BASIS, "tower", "hash", noise=2.0)
    people, alone = people_of(prior, READINGS, 50, seed=1), simulate(BASIS, READINGS, 50, seed=1)
    torch.testing.assert_close(people.tastes - alone.tastes, (mean / 2).double().expand(50, -1))
    torch.testing.assert_close(people.embeddings(2.0) - alone.embeddings(2.0), mean.expand(50, -1))
    assert torch.equal(people.looks, alone.looks)
    met_nobody = prior_of_looks(torch.zeros(12), BASIS, READINGS, encoder="tower", encoder_hash="hash")
    assert torch.equal(people_of(met_nobody, READINGS, 50, seed=6).tastes, simulate(BASIS, READINGS, 50, seed=6).tastes)
