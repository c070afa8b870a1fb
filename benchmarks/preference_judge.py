"""A judge of pictures for one person: a preference fit on pairs that no embedding was made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ppd.encoders.posterior import fit_posteriors
from ppd.evaluation import Array, wins
from ppd.pairs import PreferencePair, disjoint

REDRAWN = 1000
TASTE_SCALE = 3.0
"""Prior standard deviation of taste along any direction of unit features, the pick noise being 1. Where two pictures'
features lie .8 apart, people then pick what they prefer 80 times in 100. Chosen, not fitted."""


def split(
    pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair] | None, support: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Support pairs, for embeddings, and the held-out pairs that share nothing with them, for the judge.

    Without a set of held-out pairs the first `support` pairs are the support, and the others are held out.
    """
    if held_out is None:
        pairs, held_out = pairs[:support], pairs[support:]
    apart = disjoint(pairs, held_out)
    for what, given in (("support", pairs), ("held-out", apart)):
        picks = sum(not pair.tie for pair in given)
        if picks < 2:
            raise ValueError(
                f"There are {picks} picks among the {what} pairs, expected 2 or more: give more pairs. Held-out pairs "
                "that share a picture or a caption with a support pair do not count, nor do ties."
            )
    return list(pairs), apart


def fit_judges(chosen: Tensor, rejected: Tensor, outcomes: Tensor, redrawn: int = REDRAWN) -> Tensor:
    """Tastes [1 + redrawn, f] on unit features: fitted to all pairs, then to pairs drawn anew.

    chosen, rejected [n, f]; outcomes [n], 1 for a pick and .5 for a tie. The fit is done in the span of differences,
    where the posterior mean lies, the prior being the same in all directions.
    """
    differences = F.normalize(chosen.double(), dim=1) - F.normalize(rejected.double(), dim=1)
    span, coordinates = torch.linalg.qr(differences.T)
    n, dim = len(outcomes), span.shape[1]
    drawn = torch.randint(n, (redrawn, n), generator=torch.Generator().manual_seed(0))
    counts = torch.cat([torch.ones(1, n), F.one_hot(drawn, n).sum(1)]).double()
    identity = torch.eye(dim, dtype=torch.float64)
    means, _ = fit_posteriors(
        coordinates.T.expand(len(counts), n, dim),
        outcomes.double().expand(len(counts), n),
        counts,
        identity.new_zeros(dim),
        identity * TASTE_SCALE**2,
    )
    return means @ span.T


def scores(judges: Tensor, features: Tensor) -> Array:
    """What each of the judges [1 + redrawn, f] makes of pictures [..., f]: [1 + redrawn, ...]."""
    found: NDArray[np.float64] = (F.normalize(features.double(), dim=-1) @ judges.T).movedim(-1, 0).numpy()
    return found


def win_rate(ours: Array, theirs: Array) -> dict[str, float]:
    """{mean, low, high, n}: how often ours is preferred, by scores [1 + redrawn, n, pictures]; ties count half.

    The mean is the first judge's. Each round of the 95 % interval has a judge of its own and draws the n rows anew,
    since the pictures of one prompt belong together.
    """
    won = wins(ours, theirs)
    rng, n = np.random.default_rng(0), won.shape[1]
    low, high = np.percentile([row[rng.integers(n, size=n)].mean() for row in won[1:]], [2.5, 97.5])
    return {"mean": float(won[0].mean()), "low": float(low), "high": float(high), "n": n}
