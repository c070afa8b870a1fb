"""Known well enough to paint for: the bar and the picks to come, against people who are asked well."""

from __future__ import annotations

import math

import torch

from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posterior
from ppd.enough import ENOUGH, enough
from ppd.questions import most_telling


def prior_of(d=12):
    covariance = torch.diag(torch.linspace(1.0, 0.01, d).square() * 4)
    return PopulationPrior(torch.zeros(d), covariance, torch.zeros(d), torch.eye(d), "e", "h")


def test_nothing_is_known_of_who_has_not_picked_and_all_where_nothing_varies():
    prior = prior_of()
    assert enough(prior, prior.covariance) == (0.0, ENOUGH)
    assert enough(prior, prior.covariance * 1e-6) == (1.0, 0)


def test_people_who_are_asked_well_are_known_after_about_eight_picks_and_every_pick_counts():
    prior, generator = prior_of(), torch.Generator().manual_seed(1)
    d, mean, covariance = prior.dim, prior.mean.double(), prior.covariance.double()
    bars, left = [], []
    for _ in range(20):
        taste = covariance.sqrt() @ torch.randn(d, generator=generator, dtype=torch.float64)
        pool = math.sqrt(2) * torch.randn(200, d, generator=generator, dtype=torch.float64)
        luck = torch.rand(ENOUGH, generator=generator, dtype=torch.float64)
        asked, m, s, found = [], mean, covariance, []
        for _ in range(ENOUGH):
            asked.append(most_telling(pool, pool[asked], m, s))
            x = pool[asked]
            signs = torch.where(luck[: len(asked)] < torch.sigmoid(x @ taste), 1.0, -1.0)
            m, s = fit_posterior(x * signs[:, None], torch.ones(len(asked)), mean, covariance)
            found.append(enough(prior, s))
        bars.append([share for share, _ in found])
        left.append([more for _, more in found])
    share, more = torch.tensor(bars).mean(0), torch.tensor(left).double().mean(0)
    assert bool((share.diff() > 0).all()) and bool((more.diff() < 0).all())
    assert 0.15 < share[0] < 0.6 and share[-1] > 0.9
    assert more[0] > 4 and more[-1] < 2
