"""The mathematics of a taste encoder: how many directions, what people agree on, and whom simulated people are like."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppd.encoders.making import (
    Picks,
    choose_dims,
    held_out_likelihoods,
    prior_of_looks,
    prior_of_people,
)
from ppd.encoders.population import fit_whitening
from ppd.encoders.simulated import TYPICAL_LOGIT

NAMED: dict[str, Any] = {"encoder": "tiny", "encoder_hash": "a" * 64}


def features(n=240, f=40, strong=8, seed=0):
    """`strong` directions of deviation 3 and weaker, and noise of .3 in all."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(f, strong, generator=generator))[0]
    scores = torch.randn(n, strong, generator=generator) * torch.linspace(3, 1, strong)
    return scores @ directions.T + 0.3 * torch.randn(n, f, generator=generator)


def test_held_out_pictures_tell_how_many_directions_there_are():
    x = features()
    likelihoods = held_out_likelihoods(x)
    assert list(likelihoods) == [2, 4, 8, 12, 16, 24, 32]
    assert choose_dims(x) == max(likelihoods, key=likelihoods.get) == 8
    assert choose_dims(x, most=4) == 4
    with pytest.raises(ValueError, match="at least 16 different pictures .* got 15"):
        choose_dims(x[:15])


def people(x, taste, count=24, pairs=20, own=0.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        a, b = torch.randint(len(x), (2, pairs), generator=generator)
        likes = taste + own * torch.randn(len(taste), generator=generator)
        first = torch.rand(pairs, generator=generator) < torch.sigmoid((x[a] - x[b]) @ likes)
        found.append(Picks(torch.where(first, a, b), torch.where(first, b, a), torch.ones(pairs)))
    return found


def test_the_last_direction_is_what_people_agree_on_beyond_the_strongest():
    x = features()
    center, everything = fit_whitening(x, 40)
    prior = prior_of_people(x, people(x, everything[:, 6] * 3), 4, **NAMED)
    assert torch.allclose(prior.basis[:, :3], everything[:, :3]) and torch.equal(prior.center, center)
    whitened = prior.whiten(x).double()
    assert torch.allclose(torch.cov(whitened.T), torch.eye(4).double(), atol=1e-4)
    seventh = (x - center) @ everything[:, 6]
    assert torch.corrcoef(torch.stack([whitened[:, 3].float(), seventh]))[0, 1] > 0.85
    assert prior.mean[3] > 2 and prior.mean[:3].norm() < 0.7
    again = prior_of_people(x, people(x, everything[:, 6] * 3), 4, **NAMED)
    assert torch.equal(again.basis, prior.basis) and torch.equal(again.mean, prior.mean)


def test_all_directions_are_kept_where_there_are_no_more():
    x = features(f=6, strong=3)
    prior = prior_of_people(x, people(x, torch.ones(6)), 6, **NAMED)
    assert torch.allclose(prior.basis, fit_whitening(x, 6)[1], atol=1e-6)


def test_simulated_people_like_looks():
    center, basis = fit_whitening(features(), 8)
    readings = torch.zeros(2, 8)
    readings[0, 1], readings[1, 2] = 5.0, 0.1
    prior = prior_of_looks(center, basis, readings, **NAMED)
    variances = prior.covariance.diagonal()
    assert torch.equal(prior.mean, torch.zeros(8))
    assert variances.sum() == pytest.approx(TYPICAL_LOGIT**2 / 2, rel=0.1)
    assert variances[1] == pytest.approx(float(variances[2]), rel=0.2)  # however large the step of a look is
    assert (variances[1] + variances[2]) / variances.sum() == pytest.approx(0.85, abs=0.03)
    assert torch.equal(prior.covariance, prior_of_looks(center, basis, readings, **NAMED).covariance)


def test_without_looks_they_like_what_pictures_vary_in():
    center, basis = fit_whitening(features(), 8)
    variances = prior_of_looks(center, basis, None, **NAMED).covariance.diagonal()
    assert variances[0] > 2 * variances[7] > 0
