"""A federated prior is the pooled one: 20 studios, one that does not answer, one that sends nonsense."""

from __future__ import annotations

import pytest
import torch

from ppd.encoders.choices import numbered
from ppd.encoders.population import fit_population
from ppd.federated.sums import added, averages, evidence, fit_federated, rows, start, updated, width

D, STUDIOS = 6, 20


def somebody(generator, pairs, taste, choices=False):
    x = torch.randn(pairs, D, generator=generator, dtype=torch.float64)
    first = torch.rand(pairs, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ taste)
    x = torch.where(first[:, None], x, -x)
    y = torch.where(torch.arange(pairs) % 7 == 6, 0.5, 1.0).double()
    told = numbered([str(row // 3) for row in range(pairs)]) if choices else torch.arange(pairs)
    return (x, torch.ones(pairs).double(), told) if choices else (x, y)


@pytest.fixture(scope="module")
def studios():
    """20 studios of 1 to 4 people, of 3 to 20 picks, with ties and choices among several."""
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([1.0, -0.5, 0, 0, 0, 0]).double(), torch.tensor([2, 1, 0.5, 0.5, 0.1, 1.5]).double()
    found = []
    for studio in range(STUDIOS):
        tastes = mean + spread * torch.randn(1 + studio % 4, D, generator=generator, dtype=torch.float64)
        found.append([somebody(generator, 3 + 5 * n + studio % 3, t, n == 2) for n, t in enumerate(tastes)])
    return found


@pytest.mark.parametrize("rounds", [0, 1, 6])
def test_twenty_studios_get_the_prior_of_everybody_pooled(studios, rounds):
    pooled = fit_population([person for people in studios for person in people], rounds)
    mean, covariance = fit_federated(studios, rounds)
    torch.testing.assert_close(mean, pooled[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(covariance, pooled[1], rtol=0, atol=1e-9)


def test_the_pooled_prior_is_not_that_of_one_studio(studios):
    assert (fit_federated(studios[3:4], 1)[0] - fit_federated(studios, 1)[0]).norm() > 0.1


def test_a_studio_that_drops_out_leaves_the_prior_of_the_others(studios):
    """In one round only: EM goes on from where all of them had got to."""
    everybody, rest = (
        [person for people in some for person in people] for some in (studios, studios[:7] + studios[8:])
    )
    prior = fit_population(everybody, 3)
    after = updated(added([rows(people, prior).sum(0) for people in studios[:7] + studios[8:]]), prior)
    alone = rows(rest, prior).sum(0)
    torch.testing.assert_close(after[1], updated(alone, prior)[1], rtol=0, atol=1e-9)
    assert alone[-1] == len(rest) == len(everybody) - len(studios[7])


def test_a_studio_that_sends_no_numbers_is_refused_by_its_number(studios):
    prior = start(evidence(studios[0]), D)
    answers = [rows(people, prior).sum(0) for people in studios]
    answers[4] = answers[4].clone()
    answers[4][2] = torch.nan
    with pytest.raises(ValueError, match=r"What studio 5 of 20 sent is no sum over people: expected 28 finite"):
        added(answers)
    with pytest.raises(ValueError, match="studio 2 of 2"):
        added([answers[0], answers[1][:-1]])
    with pytest.raises(ValueError, match="at least one studio"):
        added([])


def test_picks_that_are_no_numbers_never_leave_the_studio(studios):
    x, y = studios[0][0]
    with pytest.raises(ValueError, match="not finite"):
        rows([(x * torch.nan, y)], start(evidence(studios[0]), D))


def test_a_person_without_picks_moves_nothing_but_the_count(studios):
    prior = fit_population(studios[2], 3)
    row = rows([(torch.zeros(1, D).double(), torch.full((1,), 0.5).double())], prior)[0]
    torch.testing.assert_close(row, torch.eye(width(D), dtype=torch.float64)[-1], rtol=0, atol=1e-9)


def test_a_direction_without_variance_stays_without(studios):
    """The covariance has no inverse then."""
    flat = torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 0])).double()
    mean, covariance = updated(
        rows(studios[3], (torch.zeros(D).double(), flat)).sum(0), (torch.zeros(D).double(), flat)
    )
    assert mean[-1] == 0 and float(covariance[-1].abs().max()) == 0
    assert float(mean.norm()) > 0.01


def test_sums_are_unpacked_as_they_were_packed(studios):
    prior = fit_population(studios[3], 2)
    found = rows(studios[3], prior)
    a, moments = averages(found.sum(0), D)
    torch.testing.assert_close(a, found[:, :D].mean(0))
    assert torch.equal(moments, moments.T)
    # the length of a row is that of its mean and moments
    one = averages(found[0], D)
    assert float(found[0, :-1].norm()) == pytest.approx(float((one[0].square().sum() + one[1].square().sum()).sqrt()))
    with pytest.raises(ValueError, match="28 numbers for 6 dimensions"):
        averages(found[0, :-1], D)
