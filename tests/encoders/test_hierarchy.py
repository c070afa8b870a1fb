"""The prior from few people: what it finds, and that it reads somebody new better than plain EM does."""

from __future__ import annotations

import math

import pytest
import torch

from ppd.encoders.choices import numbered
from ppd.encoders.hierarchy import fit_hierarchy
from ppd.encoders.population import fit_population
from ppd.encoders.posterior import fit_posteriors

DIM = 16


def tastes(count, generator, own=0.1):
    """People who share a taste of length 2 and differ by `own` in each direction."""
    shared = 2 * torch.nn.functional.normalize(torch.arange(1.0, DIM + 1).double(), dim=0)
    return shared + own * torch.randn(count, DIM, generator=generator, dtype=torch.float64), shared


def picks(theta, pairs, generator):
    x = torch.randn(len(theta), pairs, DIM, generator=generator, dtype=torch.float64)
    chosen = torch.rand(len(theta), pairs, generator=generator) < torch.sigmoid(torch.einsum("pnd,pd->pn", x, theta))
    return x, chosen.double()


def test_few_people_read_somebody_new_better_than_plain_em():
    generator = torch.Generator().manual_seed(0)
    theta, shared = tastes(30, generator)
    x, y = picks(theta, 16, generator)
    people = list(zip(x, y, strict=True))
    fitted = fit_hierarchy(people)
    assert torch.nn.functional.cosine_similarity(fitted.mean, shared, dim=0) > 0.9
    new, _ = tastes(200, generator)
    support, fresh = picks(new, 8, generator), picks(new, 200, generator)

    def accuracy(mean, covariance):
        u = fit_posteriors(support[0], support[1], torch.ones(support[1].shape), mean, covariance)[0]
        return float(((torch.einsum("pnd,pd->pn", fresh[0], u) > 0) == fresh[1].bool()).double().mean())

    ours, plain = accuracy(fitted.mean, fitted.covariance), accuracy(*fit_population(people))
    assert ours == pytest.approx(0.765, abs=0.01) and ours > plain + 0.005


def test_swapped_picks_mirror_the_mean_and_keep_the_covariance():
    generator = torch.Generator().manual_seed(1)
    x, y = picks(tastes(12, generator)[0], 10, generator)
    one = fit_hierarchy(list(zip(x, y, strict=True)))
    other = fit_hierarchy(list(zip(-x, y, strict=True)))
    assert torch.allclose(other.mean, -one.mean, atol=1e-6)
    assert torch.allclose(other.covariance, one.covariance, atol=1e-6)
    assert other.evidence == pytest.approx(one.evidence, abs=1e-6)


def test_picks_at_random_say_that_nobody_likes_anything():
    generator = torch.Generator().manual_seed(2)
    x, _ = picks(tastes(40, generator)[0], 20, generator)
    y = (torch.rand(40, 20, generator=generator) < 0.5).double()
    fitted = fit_hierarchy(list(zip(x, y, strict=True)))
    assert fitted.mean.norm() < 0.3 and fitted.covariance.diagonal().max() < 0.05


def test_the_best_of_nine_at_random_is_one_observation_of_nine_equals():
    """30 people, ten choices each: nobody likes anything, and the evidence is 300 times log(1 / 9)."""
    generator = torch.Generator().manual_seed(3)
    phi = torch.randn(30, 10, 9, 3, generator=generator, dtype=torch.float64)
    x, numbers = (phi[:, :, :1] - phi[:, :, 1:]).flatten(1, 2), numbered([f"{i // 8}" for i in range(80)])
    people = [(row, torch.ones(80), numbers) for row in x]
    fitted = fit_hierarchy(people)
    assert fitted.covariance.diagonal().max() < 0.05
    assert fitted.evidence / 300 == pytest.approx(-math.log(9), abs=0.02)
    assert fit_population(people, rounds=5)[1].diagonal().max() < 0.05


def test_choices_of_two_are_picks_whatever_their_numbers():
    generator = torch.Generator().manual_seed(4)
    x, y = picks(tastes(10, generator)[0], 8, generator)
    plain = list(zip(x, y, strict=True))
    turned = [(*one, torch.arange(8).flip(0)) for one in plain]
    for fit in (fit_population, lambda people: (fit_hierarchy(people).mean, fit_hierarchy(people).covariance)):
        for found, expected in zip(fit(turned), fit(plain), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_spread_tells_where_people_differ():
    generator = torch.Generator().manual_seed(3)
    x, y = picks(tastes(20, generator)[0], 12, generator)
    spread = torch.ones(DIM)
    spread[-4:] = 1e-3
    fitted = fit_hierarchy(list(zip(x, y, strict=True)), spread)
    assert fitted.mean[-4:].abs().max() < 1e-2 * fitted.mean.abs().max()


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([], "Expected at least one person"),
        ([(torch.zeros(3, DIM), torch.ones(3))], "pictures do not differ in these features"),
    ],
)
def test_nobody_or_no_difference_is_said(people, message):
    with pytest.raises(ValueError, match=message):
        fit_hierarchy(people)
