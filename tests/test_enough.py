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
    nobody, known = enough(prior, prior.covariance), enough(prior, prior.covariance * 1e-6)
    assert (nobody.share, nobody.more, nobody.told()) == (0.0, ENOUGH, "0 % known: about 8 more picks to go.")
    assert (known.share, known.more, known.told()) == (1.0, 0, "Known well enough to paint in this taste.")


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
        bars.append([known.share for known in found])
        left.append([known.more for known in found])
    share, more = torch.tensor(bars).double().mean(0), torch.tensor(left).double().mean(0)
    assert bool((share.diff() > 0).all()) and bool((more.diff() < 0).all())
    assert more[0] > 4 and more[-1] < 2
    # The bar and the picks to come are one number
    assert torch.allclose(share, 1 - more / ENOUGH, atol=1 / ENOUGH) and share[-1] > 0.9


def test_the_last_pick_counts_by_the_part_of_it_that_is_needed():
    """Between two posteriors that a good pick lies between, the bar goes on and never back."""
    prior = prior_of()
    shares = [enough(prior, prior.covariance * part).share for part in torch.linspace(1, 0.02, 40)]
    assert shares == sorted(shares) and len(set(shares)) > 25
