"""Influence of picks: exact sums, refits against deleted rows, and the other way round."""

import math

import pytest
import torch

from ppd.encoders.encoder import Told
from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posterior
from ppd.explain.influence import decided_otherwise, fit, leans, otherwise, parts_of, some, without

from .people import a_prior, picks, some_looks


def mixed(n=12):
    """Picks of which one is a tie, some are faded, and three rows are one choice of the best of four."""
    told = picks(torch.tensor([1.5, -1, 0.5, 0, 0, 0]), n)
    outcomes, weights, choices = told.outcomes.clone(), torch.linspace(0.4, 1, n), told.choices.clone()
    outcomes[2], choices[6:8] = 0.5, 5
    weights[5:8] = 0.8
    return Told(told.differences, outcomes, weights, choices)


def test_one_pick_in_one_dimension_literally():
    """u = sigmoid(-u): all of u is what the one pick adds, its dual coefficient being u itself."""
    told = Told(torch.ones(1, 1), torch.ones(1), torch.ones(1), torch.arange(1))
    one = torch.eye(1)
    found = parts_of(PopulationPrior(torch.zeros(1), one, torch.zeros(1), one, "tower", "0" * 64), told)
    assert (float(found.u), float(found.parts)) == pytest.approx((0.4010581375, 0.4010581375), abs=1e-9)
    assert float(found.pulls) == pytest.approx(1 / (1 + math.exp(0.4010581375)), abs=1e-9)


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_u_is_the_populations_mean_and_what_each_answer_adds(noise):
    """Ties, fading and a choice among four in it; ten answers of twelve rows."""
    prior, told = a_prior(noise=noise), mixed()
    found = parts_of(prior, told)
    assert found.parts.shape == (10, 6)
    torch.testing.assert_close(prior.mean.double() + found.parts.sum(0), found.u, atol=1e-6, rtol=0)
    direct, covariance = fit_posterior(
        told.differences / found.noise, told.outcomes, prior.mean.double(), prior.covariance.double(), *told[2:]
    )
    assert torch.equal(found.u, direct) and torch.equal(found.covariance, covariance)


def test_without_an_answer_is_the_fit_of_the_others():
    prior, told = a_prior(), mixed()
    found = without(prior, told, [0, 5])
    first = some(told, torch.arange(12) > 0)
    assert torch.equal(found[0], fit(prior, first)[0])
    no_choice = some(told, (torch.arange(12) < 5) | (torch.arange(12) > 7))
    assert len(no_choice.differences) == 9 and torch.equal(found[1], fit(prior, no_choice)[0])
    assert without(prior, told, []).shape == (0, 6)


def test_what_picks_add_ranks_them_as_leaving_each_out_does():
    """Spearman over 16 picks, mean of 20 people, of the look that each leans to most."""
    prior, looks, ranks, top = a_prior(), some_looks(), [], []
    lean = leans(looks, prior.noise)
    for seed in range(20):
        told = picks(2 * torch.randn(6, generator=torch.Generator().manual_seed(seed)), 16, seed)
        found = parts_of(prior, told)
        look = int((lean @ found.u).abs().argmax())
        adds = found.parts @ lean[look]
        lost = (found.u - without(prior, told, range(16))) @ lean[look]
        ranks.append(
            float(torch.corrcoef(torch.stack([one.argsort().argsort().double() for one in (adds, lost)]))[0, 1])
        )
        top.append(int(adds.abs().argmax()) in lost.abs().topk(3).indices.tolist())
    assert sum(ranks) / 20 > 0.7 and sum(top) >= 14, (ranks, top)


def test_leans_are_the_looks_own_coefficients():
    """A taste put together from readings is taken apart again; the rest that no look tells counts for nothing."""
    looks = some_looks()
    amounts = torch.tensor([0.7, -1.1, 0.2], dtype=torch.float64)
    rest = torch.linalg.svd(looks.readings.double())[2][3]  # at right angles to all readings
    u = 2.0 * (looks.readings.double().T @ amounts) + rest
    torch.testing.assert_close(leans(looks, 2.0) @ u, amounts)


def test_the_other_way_round_twice_is_what_was_said():
    told = mixed()
    turned = otherwise(told, 0)
    assert torch.equal(turned.differences[0], -told.differences[0])
    assert torch.equal(turned.differences[1:], told.differences[1:])
    chosen, one, two = torch.randn(3, 6).double()
    both = told._replace(differences=torch.stack([chosen - one, chosen - two]), choices=torch.tensor([0, 0]))
    torch.testing.assert_close(otherwise(both, 1).differences, torch.stack([two - one, two - chosen]))
    again = otherwise(otherwise(told, 6), 6).differences
    torch.testing.assert_close(again, told.differences)
    with pytest.raises(ValueError, match="Nothing was preferred in this answer"):
        otherwise(told, 2)


def test_the_share_decided_otherwise_is_the_angle():
    one = torch.tensor([1.0, 0, 0])
    assert decided_otherwise(one, 3 * one) == pytest.approx(0, abs=1e-6)
    assert decided_otherwise(one, torch.tensor([1.0, 1, 0])) == pytest.approx(0.25)
    assert decided_otherwise(one, -one) == pytest.approx(1)
    assert decided_otherwise(one, 0 * one) == 0.5 and decided_otherwise(0 * one, 0 * one) == 0
    u, other = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    x = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(2))
    counted = float(((x @ u > 0) != (x @ other > 0)).float().mean())
    assert decided_otherwise(u, other) == pytest.approx(counted, abs=0.005)
