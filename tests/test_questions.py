"""Which question to ask: the information against its definition, and that asking by it beats asking at random."""

from __future__ import annotations

import math
import time

import pytest
import torch

from ppd.encoders.posterior import fit_posterior
from ppd.questions import asked_already, information, most_telling


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_information_is_that_of_its_definition(scale):
    """Mutual information of a Bradley-Terry pick and theta, by draws: the probit errs by .03 bits."""
    mean, root = draw(3, seed=1), draw(3, 3, seed=2)
    x = draw(6, 3, seed=3) * scale
    p = torch.sigmoid((mean + draw(300_000, 3, seed=4) @ root.T) @ x.T)

    def bits(p):
        return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)

    wanted = bits(p.mean(0)) - bits(p).mean(0)
    torch.testing.assert_close(information(x, mean, root @ root.T), wanted, rtol=0, atol=0.04)


def test_what_is_known_tells_nothing():
    mean, x = draw(4, seed=1), draw(5, 4, seed=2)
    assert information(x, mean, torch.zeros(4, 4)).abs().max() < 0.01
    assert information(torch.zeros(1, 4), mean, torch.eye(4)).abs().max() < 1e-9


def test_the_unknown_direction_is_asked_for_first():
    x, covariance = torch.eye(3), torch.diag(torch.tensor([0.1, 4.0, 1.0]))
    assert most_telling(x, torch.zeros(0, 3), torch.zeros(3), covariance) == 1
    assert most_telling(x, -x[1:2], torch.zeros(3), covariance) == 2
    assert most_telling(x, x, torch.zeros(3), covariance) is None
    assert most_telling(x[:0], x, torch.zeros(3), covariance) is None


def test_near_duplicates_either_way_round():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.02], [0.9, 0.0], [0.0, 1.0]])
    assert asked_already(x, torch.tensor([[1.0, 0.0]])).tolist() == [True, True, False, False]


def test_asking_well_needs_fewer_picks_than_asking_at_random():
    """40 simulated people in 12 dimensions, a pool of 200 pairs: alignment of the posterior mean with the taste."""
    d, people, pool = 12, 40, draw(200, 12, seed=5)
    covariance = torch.diag(torch.linspace(4.0, 0.1, d, dtype=torch.float64))
    mean = torch.zeros(d, dtype=torch.float64)
    tastes = draw(people, d, seed=6) @ covariance.sqrt()
    luck = torch.rand(people, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(8)

    def alignment(asks_well):
        found = []
        for taste, chance in zip(tastes, luck, strict=True):
            order, m, s = torch.randperm(200, generator=generator).tolist(), mean, covariance
            asked = []
            for number in range(6):
                choice = most_telling(pool, pool[asked], m, s) if asks_well else order[number]
                asked.append(choice)
                x = pool[asked]
                signs = torch.where(chance[asked] < torch.sigmoid(x @ taste), 1.0, -1.0)
                m, s = fit_posterior(x * signs[:, None], torch.ones(len(asked)), mean, covariance)
            found.append(torch.cosine_similarity(m, taste, dim=0))
        return float(torch.stack(found).mean())

    random, well = alignment(False), alignment(True)
    assert well > random + 0.08  # .62 against .48


def test_ten_thousand_candidates_take_no_time():
    x, covariance = draw(10_000, 48, seed=1), torch.eye(48)
    most_telling(x, x[:100], torch.zeros(48), covariance)
    start = time.process_time()
    most_telling(x, x[:100], torch.zeros(48), covariance)
    assert time.process_time() - start < 0.1
