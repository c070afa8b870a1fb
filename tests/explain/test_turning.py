"""One look turned: its lean moves by what was asked, the others stay, and people stay likely."""

import pytest
import torch

from ppd.explain.influence import leans
from ppd.explain.turning import directions, strip, turned
from ppd.user_embedding import UserEmbedding

from .people import a_prior, some_looks


def somebody(d=6):
    u = torch.randn(1, d, generator=torch.Generator().manual_seed(4))
    return UserEmbedding(u, "tower", "0" * 64, 8, "2026-01-01", torch.eye(d))


@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_the_look_moves_by_standard_deviations_and_the_others_stay(noise):
    prior, looks, person = a_prior(noise=noise), some_looks(), somebody()
    lean = leans(looks, noise)
    deviation = ((lean @ prior.covariance.double()) * lean).sum(1).sqrt()
    less, same, more = turned(person, prior, looks, "look 1", [-2.0, 0.0, 1.5])
    moved = [lean @ (one.u[0].double() - person.u[0].double()) / deviation for one in (less, more)]
    torch.testing.assert_close(moved[0], torch.tensor([0, -2.0, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[1], torch.tensor([0, 1.5, 0]).double(), atol=1e-6, rtol=0)
    assert same is person and less.covariance_factor is None and less.pairs == person.pairs


def test_it_is_the_likeliest_way_among_people():
    """Any other way that moves the same lean alone is farther in the metric of the population's covariance."""
    prior, looks = a_prior(), some_looks()
    step, inverse = directions(prior, looks)[0], torch.linalg.inv(prior.covariance.double())
    aside = torch.linalg.svd(leans(looks, 1.0))[2][3:]  # what moves no lean
    for direction in aside:
        assert abs(float(step @ inverse @ direction)) < 1e-6
        for size in (-0.1, 0.1):
            other = step + size * direction
            assert float(other @ inverse @ other) > float(step @ inverse @ step)


def test_more_looks_than_can_be_told_apart_still_turn():
    """Of one look's standard deviation as much as is not the others' too: its leverage."""
    prior, looks = a_prior(), some_looks(k=9)
    (more,) = turned(somebody(), prior, looks, "look 8", [1.0])
    among_people = leans(looks, 1.0) @ torch.linalg.cholesky(prior.covariance.double())
    leverage = torch.linalg.qr(among_people).Q[8].square().sum()
    moved = leans(looks, 1.0) @ (more.u - somebody().u)[0].double()
    torch.testing.assert_close(moved[8], leverage * among_people[8].norm(), rtol=1e-5, atol=0)
    assert 0.1 < leverage < 0.9


def test_a_strip_goes_evenly_from_less_to_more():
    assert strip(2.0, 5) == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert strip(1.5, 2) == [-1.5, 1.5]
    with pytest.raises(ValueError, match="at least 2 pictures in a strip, from less to more, got 1"):
        strip(2.0, 1)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="no look 'grain': choose one of look 0, look 1, look 2"):
        turned(somebody(), a_prior(), some_looks(), "grain", [1.0])
    with pytest.raises(ValueError, match="a user embedding of 6 dimensions, as its looks have, got 5"):
        turned(somebody(5), a_prior(), some_looks(), "look 1", [1.0])
