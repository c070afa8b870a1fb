"""Asking well: which candidate pair tells most about a person (BALD, Houlsby et al. 2011, arXiv 1112.5745)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAMBDA = math.pi / 8
"""sigmoid(x) is about Phi(sqrt(LAMBDA) x) (MacKay 1992)."""
SPREAD = math.pi * math.log(2) / 2
"""H(Phi(x)) is about exp(-x^2 / (2 SPREAD)) in bits' shape: Houlsby's C squared."""
ALIKE = 0.05
"""Differences that are apart by less than this share of their length, either way round, are one question."""


def information(differences: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Expected information about theta ~ N(mean [d], covariance [d, d]), in bits [n], of asking for each difference
    [n, d] of phi(first) - phi(second) over the pick noise."""
    x, m, s = differences.double(), mean.double(), covariance.double()
    a = math.sqrt(LAMBDA) * (x @ m)
    v = LAMBDA * ((x @ s) * x).sum(-1).clamp_min(0)
    p = torch.special.ndtr(a / (1 + v).sqrt())
    entropy = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)
    expected = (SPREAD / (v + SPREAD)).sqrt() * torch.exp(-a.square() / (2 * (v + SPREAD)))
    return entropy - expected


def asked_already(differences: Tensor, asked: Tensor) -> Tensor:
    """Which of the differences [n, d] repeat one of those asked [m, d], the pictures either way round: bool [n]."""
    if not len(asked):
        return torch.zeros(len(differences), dtype=torch.bool)
    x, y = differences.double(), asked.double()
    apart = torch.minimum(torch.cdist(x, y), torch.cdist(x, -y))
    return (apart <= ALIKE * x.norm(dim=-1, keepdim=True)).any(-1)


def most_telling(differences: Tensor, asked: Tensor, mean: Tensor, covariance: Tensor) -> int | None:
    """The index of the candidate to ask next, None where all have been asked; of equals the first."""
    if not len(differences):
        return None
    bits = information(differences, mean, covariance)
    bits[asked_already(differences, asked)] = -math.inf
    best = int(bits.argmax())
    return None if bits[best] == -math.inf else best
