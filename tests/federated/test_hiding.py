"""Noise that hides each person: what one person moves, how much noise that takes, and that studios' parts add up."""

from __future__ import annotations

import math
import random

import pytest
import torch

from ppd.federated.hiding import CLIP, LEAST_VARIANCE, WEIGHT, Hiding, clipped
from ppd.federated.sums import added, fit_federated, rows, width
from ppd.privacy import COUNT, Guarantee, noise_multiplier

D = 4


def crowd(people, seed=0):
    """People who agree on the first direction, 12 picks each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(people, 12, D, generator=generator, dtype=torch.float64)
    tastes = torch.tensor([2.0, 0, 0, 0]).double() + torch.randn(people, D, generator=generator, dtype=torch.float64)
    x = torch.where((torch.einsum("pnd,pd->pn", x, tastes) > 0)[..., None], x, -x)
    return [(row, torch.ones(12).double()) for row in x]


@pytest.fixture(scope="module")
def prior():
    return torch.zeros(D).double(), torch.eye(D).double()


def test_one_person_moves_the_sums_by_no_more_than_what_noise_is_made_for(prior):
    clip = 1.5
    most = clip * math.hypot(1, COUNT)
    people = crowd(50)
    people += [(40 * x, y) for x, y in crowd(50, 1)]
    each = clipped(rows(people, prior), D, clip)
    assert float(each.norm(dim=1).max()) <= most + 1e-12
    assert int((each.norm(dim=1) > most - 1e-9).sum()) > 20
    with_all, without = each.sum(0), each[:-1].sum(0)
    assert float((with_all - without).norm()) <= most + 1e-12
    short = rows(people, prior) * 1e-3
    kept = clipped(short, D, clip)
    torch.testing.assert_close(kept[:, :D], short[:, :D])
    torch.testing.assert_close(kept[:, D:-1], WEIGHT * short[:, D:-1])


def test_noise_of_all_rounds_together_is_that_of_one_release(prior):
    """Twelve rounds at sigma are one at sigma / sqrt 12."""
    one, twelve = (Hiding(Guarantee(4.0), 3, rounds) for rounds in (1, 12))
    assert twelve.sigma == pytest.approx(one.sigma * math.sqrt(12))
    assert one.sigma == pytest.approx(noise_multiplier(Guarantee(4.0)) * CLIP * math.hypot(1, COUNT))


def test_the_parts_of_all_studios_are_the_noise_and_no_studio_sends_sums_without(prior):
    hiding, noise, people = Hiding(Guarantee(2.0), 4), random.Random(0), crowd(1)
    exact = clipped(rows(people, prior), D).sum(0)
    parts = torch.stack([hiding.answer(people, prior, noise) - exact for _ in range(4 * 40)])
    assert float(parts.std()) == pytest.approx(hiding.sigma / 2, rel=0.05)
    together = parts.view(40, 4, -1).sum(1)
    assert float(together.std()) == pytest.approx(hiding.sigma, rel=0.1)
    assert abs(float(together.mean())) < 4 * hiding.sigma / math.sqrt(together.numel())


def fitted(people, epsilon, prior, rounds=3, seed=1):
    hiding, noise = Hiding(Guarantee(epsilon), 5, rounds), random.Random(seed)
    for _ in range(rounds):
        prior = hiding.updated(added([hiding.answer(people[s::5], prior, noise) for s in range(5)]), prior)
    return prior


def test_many_people_are_heard_through_the_noise_and_few_are_not(prior):
    """Few leave the prior where it was, rather than anywhere."""
    many, exact = fitted(crowd(800), 8.0, prior), fit_federated([crowd(800)], 3)
    assert float(torch.cosine_similarity(many[0], exact[0], dim=0)) > 0.98
    few = [float(fitted(crowd(5), 0.5, prior, 1, seed)[0].norm()) for seed in range(40)]
    assert few.count(0.0) >= 36 and max(few) <= CLIP


def test_noise_never_leaves_a_direction_without_variance(prior):
    hiding = Hiding(Guarantee(1.0), 1, 1)
    total = torch.zeros(width(D)).double()
    total[D:-1], total[-1] = -1e6, 100 * COUNT * CLIP
    values = torch.linalg.eigvalsh(hiding.updated(total, prior)[1])
    assert float(values.min()) == pytest.approx(LEAST_VARIANCE)


def test_impossible_numbers_of_studios_and_rounds_are_refused():
    for studios, rounds in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one studio and one round"):
            Hiding(Guarantee(1.0), studios, rounds)
