"""Simulated people with known looks, for the tests of explanations."""

from __future__ import annotations

import torch

from ppd.encoders.encoder import Told
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior


def a_prior(d=6, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=generator) / d**0.5
    mean, eye = 0.3 * torch.randn(d, generator=generator), torch.eye(d)
    return PopulationPrior(mean, root @ root.T + 0.2 * eye, torch.zeros(d), eye, "tower", "0" * 64, noise)


def some_looks(k=3, d=6, seed=1):
    """Looks whose readings go together."""
    readings = torch.eye(max(k, d))[:k, :d] + 0.3 * torch.randn(k, d, generator=torch.Generator().manual_seed(seed))
    names, low, high = (tuple(f"{word} {number}" for number in range(k)) for word in ("look", "less", "more"))
    return Looks(names, low, high, steps=readings, readings=readings, reliability=torch.ones(k))


def picks(taste, n=None, seed=0, spread=1.4):
    """What somebody of a taste [d], or of one at each pick [n, d], says of n random pairs."""
    generator = torch.Generator().manual_seed(seed)
    tastes = taste.double().expand(n, -1) if n else taste.double()
    x = torch.randn(tastes.shape, generator=generator, dtype=torch.float64) * spread
    first = torch.rand(len(x), generator=generator) < torch.sigmoid((x * tastes).sum(1))
    return Told(torch.where(first[:, None], x, -x), torch.ones(len(x)), torch.ones(len(x)), torch.arange(len(x)))
