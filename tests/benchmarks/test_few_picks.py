"""Types of people as a prior, on people who are of two types."""

from __future__ import annotations

import torch

from benchmarks import few_picks
from benchmarks.few_picks import Mixture, mixture_of
from ppd.encoders.population import PopulationPrior

DIMS = 3


def picks(tastes: torch.Tensor, count: int) -> torch.Tensor:
    """Differences [P, n, d], chosen first, of people with these tastes [P, d]."""
    generator = torch.Generator().manual_seed(len(tastes) + count)
    x = torch.randn(len(tastes), count, DIMS, generator=generator, dtype=torch.float64)
    likes = torch.sigmoid((x * tastes[:, None]).sum(-1))
    sign = torch.where(torch.rand(likes.shape, generator=generator, dtype=torch.float64) < likes, 1.0, -1.0)
    return x * sign[..., None]


def people(count: int) -> torch.Tensor:
    """Half like the first direction, half its opposite."""
    tastes = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]], dtype=torch.float64)
    return tastes.repeat(count // 2, 1)


def test_two_types_are_found_and_few_picks_say_more_with_them(monkeypatch):
    monkeypatch.setattr(few_picks, "TYPES", 2)
    prior = PopulationPrior(torch.zeros(DIMS), 6 * torch.eye(DIMS), torch.zeros(DIMS), torch.eye(DIMS), "tower", "hash")
    found = mixture_of(picks(people(200), 24), prior)
    assert sorted(round(mean) for mean in found.means[:, 0].tolist()) == [-4, 4]
    torch.testing.assert_close(found.shares, torch.full((2,), 0.5, dtype=torch.float64), atol=0.05, rtol=0)
    alone = Mixture(prior.mean.double()[None], prior.covariance.double(), torch.ones(1, dtype=torch.float64))
    strangers = people(100)
    x = picks(strangers, 2)
    errors = [(one.embed(x) - strangers).norm(dim=1).mean().item() for one in (found, alone)]
    assert errors[0] < 0.75 * errors[1]
