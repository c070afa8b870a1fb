"""The best of several is one observation: Plackett-Luce's likelihood, its derivatives, and what a fit makes of it."""

import math

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from ppd.encoders.choices import Choices, numbered
from ppd.encoders.posterior import fit_posterior, fit_posteriors, fit_with_noise
from ppd.encoders.statements import asked_of, statements
from tests.encoders.test_posterior import random_prior
from tests.encoders.test_statements import looks_of

INDEX = torch.tensor([0, 1, 1, 0, 4, 0, 1])
"""Rows 0, 3, 5 are the best of four, 1, 2, 6 another, and 4 a pick or a tie."""


def log_likelihood(theta, x, y, w, index):
    """By its definition, a choice at a time."""
    total = x.new_zeros(())
    for number in index.unique():
        rows = index == number
        z = x[rows] @ theta
        total = total - w[rows].mean() * (torch.log1p((-z).exp().sum()) + ((1 - y[rows]) * z).sum())
    return total


def some_rows(seed=0, d=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(INDEX), d, generator=generator, dtype=torch.float64)
    y = torch.tensor([1.0, 1, 1, 1, 0.5, 1, 1], dtype=torch.float64)
    w = torch.tensor([0.7, 1.0, 1.0, 0.7, 0.4, 0.7, 1.0], dtype=torch.float64)
    return x, y, w, torch.randn(d, generator=generator, dtype=torch.float64)


def test_rows_are_numbered_by_the_first_of_their_choice():
    assert numbered(["a", None, "b", "a", None, "b"]).tolist() == [0, 1, 2, 0, 4, 2]
    assert numbered([]).tolist() == []


def test_derivatives_are_those_of_the_definition():
    x, y, w, theta = some_rows()
    said = Choices(y[None], w[None], INDEX[None])
    z = (x @ theta)[None]

    def by_theta(at):
        return log_likelihood(at, x, y, w, INDEX)

    torch.testing.assert_close(said.loss(z)[0], -log_likelihood(theta, x, y, w, INDEX))
    torch.testing.assert_close(said.slope(z)[0] @ x, -jacobian(by_theta, theta))
    r = said.root(z, x[None])[0]
    torch.testing.assert_close(r.T @ r, -hessian(by_theta, theta))


def test_one_choice_among_three_in_one_dimension_literally():
    """Differences 1 and 2 under N(0, 1): the mode solves a = (e^-a + 2 e^-2a) / (1 + e^-a + e^-2a)."""
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    prior = torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    mean, covariance = fit_posterior(x, torch.ones(2), *prior, choices=torch.tensor([0, 0]))
    a = 0.6142890
    q = [math.exp(-a) / (1 + math.exp(-a) + math.exp(-2 * a)), math.exp(-2 * a) / (1 + math.exp(-a) + math.exp(-2 * a))]
    assert float(mean) == pytest.approx(a, abs=1e-6) and a == pytest.approx(q[0] + 2 * q[1], abs=1e-6)
    assert float(covariance) == pytest.approx(1 / (1 + q[0] + 4 * q[1] - (q[0] + 2 * q[1]) ** 2), abs=1e-6)


def test_rows_that_are_each_their_own_choice_are_picks_of_two_whatever_their_numbers():
    x, y, w, _ = some_rows()
    prior = random_prior(3)
    plain = fit_posterior(x, y, *prior, w)
    for index in (torch.arange(7), torch.arange(7).flip(0)):
        for found, expected in zip(fit_posterior(x, y, *prior, w, index), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_batched_is_one_by_one_and_padding_is_in_no_choice():
    prior = random_prior(3)
    x, y, w, index = torch.randn(2, 9, 3, dtype=torch.float64), torch.ones(2, 9), torch.zeros(2, 9), torch.zeros(2, 9)
    people = [some_rows(seed) for seed in (0, 1)]
    for person, (own, outcomes, weights, _) in enumerate(people):
        x[person, 1:8], y[person, 1:8], w[person, 1:8] = own, outcomes, weights
        index[person, 1:8] = INDEX + 1
    index[:, [0, 8]] = 2  # the number of a choice, but these rows weigh nothing
    means, covariances = fit_posteriors(x, y, w, *prior, index.long())
    for person, (own, outcomes, weights, _) in enumerate(people):
        mean, covariance = fit_posterior(own, outcomes, *prior, weights, INDEX)
        torch.testing.assert_close(means[person], mean)
        torch.testing.assert_close(covariances[person], covariance)


def test_order_of_rows_does_not_matter():
    x, y, w, _ = some_rows()
    prior, order = random_prior(3), torch.tensor([5, 2, 4, 0, 6, 1, 3])
    names = [f"choice {number}" if number < 4 else None for number in INDEX.tolist()]
    mean, _ = fit_posterior(x[order], y[order], *prior, w[order], numbered([names[row] for row in order]))
    torch.testing.assert_close(mean, fit_posterior(x, y, *prior, w, INDEX)[0])


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_far_apart_pictures_stay_finite(scale):
    x, y, w, _ = some_rows()
    mean, covariance = fit_posterior(x * scale, y, *random_prior(3), w, INDEX)
    assert mean.isfinite().all() and covariance.isfinite().all()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 1, 0, 0, 0, 1], "one chosen picture in a choice among several, got a tie"),
        ([0, 1, 1, 0, 4, 0, 7], r"the number of a choice per difference, \[1, 7\] from 0 to 6"),
        ([0, 1, 1, 0, 4, 0], r"the number of a choice per difference, \[1, 7\]"),
    ],
)
def test_impossible_choices_are_refused(index, message):
    x, y, w, _ = some_rows()
    with pytest.raises(ValueError, match=message):
        fit_posterior(x, y, *random_prior(3), w, torch.tensor(index))


def choosers(people, choices, shown, d, seed=0):
    """Tastes [P, d] ~ N(0, I), and differences [P, choices * (shown - 1), d] of what they chose, by Gumbel's noise."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(people, d, generator=generator, dtype=torch.float64)
    phi = torch.randn(people, choices, shown, d, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(torch.rand(people, choices, shown, generator=generator, dtype=torch.float64)))
    order = (torch.einsum("pcsd,pd->pcs", phi, theta) + gumbel).argsort(-1, descending=True)
    phi = phi.gather(2, order[..., None].expand_as(phi))
    return theta, (phi[:, :, :1] - phi[:, :, 1:]).flatten(1, 2)


def test_what_is_said_of_a_taste_is_as_sure_as_it_is_right_and_pairs_would_be_too_sure():
    """400 people, ten choices of the best of nine: the mean of the squared error in standard deviations, over d. By
    Laplace's approximation it is 1.12 to 1.18 after 40 and 10 picks of two, too."""
    theta, x = choosers(400, 10, 9, 4)
    index = (8 * torch.arange(10)).repeat_interleave(8).expand(400, -1)
    ones, prior = torch.ones(400, 80), (torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))

    def surprise(choices):
        means, covariances = fit_posteriors(x, ones, ones, *prior, choices)
        error = (theta - means)[..., None]
        return float((error.mT @ torch.linalg.solve(covariances, error)).mean() / 4), means

    chosen, means = surprise(index)
    as_pairs, naive = surprise(None)
    assert 0.9 < chosen < 1.2 and as_pairs > 2.5
    assert (means - theta).norm() < 0.95 * (naive - theta).norm()


def test_choices_that_contradict_each_other_are_noise():
    _, x = choosers(1, 10, 4, 3)
    index, prior = (3 * torch.arange(10)).repeat_interleave(3), random_prior(3)
    agreed = fit_with_noise(x[0], torch.ones(30), *prior, choices=index)[2]
    turned = torch.where(index[:, None] % 2 == 0, -x[0], x[0])
    assert agreed == 1 and fit_with_noise(turned * 4, torch.ones(30), *prior, choices=index)[2] > 1


def test_a_choice_asks_of_a_look_once():
    """One picture of the looks' middle is chosen from nine; the others are one step away from it in one look. Asked
    as one choice the Fisher information at indifference is the variance of the look over the nine pictures."""
    x = torch.zeros(8, 4)
    x[:4, 0], x[4:, 0] = 1.0, -1.0
    one = torch.zeros(8, dtype=torch.long)
    assert float(asked_of(looks_of(), x, choices=one)[0]) == pytest.approx(8 / 9)
    assert float(asked_of(looks_of(), x)[0]) == pytest.approx(8 / 4)


def test_statements_of_a_choice_are_less_sure_than_of_as_many_picks():
    """Twice the best of nine, always the highest in the first look: two picks' worth, not sixteen."""
    generator = torch.Generator().manual_seed(2)
    phi = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    order = phi[..., 0].argsort(1, descending=True)
    phi = phi.gather(1, order[..., None].expand_as(phi))
    x = (phi[:, :1] - phi[:, 1:]).flatten(0, 1)
    index = torch.tensor([0, 8]).repeat_interleave(8)
    chosen, pairs = (statements(looks_of(), x, choices=choices)[0] for choices in (index, None))
    assert chosen.prefers in ("", "more 0") and pairs.state == "sure"
    assert 0.5 < chosen.probability_high < pairs.probability_high - 0.02
    assert chosen.asked < pairs.asked
    single = [statements(looks_of(), x, choices=choices)[1] for choices in (torch.arange(16), torch.arange(16).flip(0))]
    assert single[0].probability_high == pytest.approx(single[1].probability_high, abs=1e-9)


def test_of_many_looks_a_choice_finds_the_one_that_decided():
    """Thirty looks, of which subsets grow one at a time: 24 times the best of four by the fifth."""
    readings = torch.eye(30)
    generator = torch.Generator().manual_seed(3)
    phi = torch.randn(24, 4, 30, generator=generator, dtype=torch.float64)
    order = phi[..., 5].argsort(1)
    phi = phi.gather(1, order[..., None].expand_as(phi))
    found = statements(
        looks_of(readings),
        (phi[:, :1] - phi[:, 1:]).flatten(0, 1),
        choices=(3 * torch.arange(24)).repeat_interleave(3),
    )
    assert [one.name for one in found if one.state == "sure"] == ["look 5"]
    assert found[5].prefers == "less 5" and found[5].most < 0
