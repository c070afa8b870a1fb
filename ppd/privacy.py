"""Pick-level differential privacy of u: a user embedding that says next to nothing of any single pick.

(epsilon, delta) (Dwork and Roth 2014): for two sets of picks of which one has a pick more, or one answer turned round,
and for any set S of what may be released, P(S | one) <= exp(epsilon) P(S | other) + delta.

**How much one pick moves.** In the prior's coordinates theta = mean + root @ a, root root' = covariance, the mode is
the minimum of F(a) = sum_i l_i(z_i) + |a|^2 / 2 with z_i = x_i . theta, so F is 1-strongly convex. Each x_i is clipped
so that |root' x_i| <= C. A pick's gradient in a is (sigmoid(z_i) - y_i) root' x_i with y_i in 0..1, a tie being .5;
that of a choice among several is minus the sum of its rows' root' x_ij, each times the probability of a rejected
picture, which sum to 1 at most. So |grad l_i| <= C everywhere. Let a be the mode of F and b that of F + l: then
grad F(b) = -grad l(b), and |b - a| <= |grad F(b)| <= C by strong convexity. An answer turned round, between two
pictures, changes the gradient by (sigmoid(-z) + sigmoid(z)) root' x, again C at most. One pick put in another's place
moves a by 2 C.

What else depends on picks is held still: the scale of pick noise is the population's and not inferred (posterior.py,
fit_with_noise), and picks do not fade, since a newer pick would move the weights of all older ones. The number of
picks is released with the same noise, as one more coordinate. Prior, whitening and tower are taken as public: made
without this person. What is not covered: pictures rated or loved in the library, each of which counts in several
comparisons; several releases, whose epsilons and deltas add up; and the last bits of floating point (Mironov 2012).

**The mechanism.** a + N(0, sigma^2 I) with the least sigma that gives (epsilon, delta): the analytic Gaussian
mechanism (Balle and Wang 2018, theorem 8). What is done afterwards costs nothing: a is shrunk by 1 / (1 + sigma^2),
its mean given what is released if a is N(0, I), so that with much noise the average person is left.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

CLIP = 0.3
"""C, in the prior's metric, where a pick's length is 2 on the pockets: long picks say no more than short ones then, so
that little noise is enough (benchmarks/privacy.py compares others)."""
COUNT = 0.25
"""What one pick is in the coordinate of their number, in units of C: it makes the noise 3 % larger, and that on the
number of picks 4 times the multiplier."""
DELTA = 1e-5
LEAST_EPSILON, LEAST_DELTA = 0.01, 1e-12
MOST_EPSILON = 100.0
"""Where noise is a tenth of what one pick moves: more is no protection to speak of."""


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta) for one pick of one release; both in ranges that mean something, else ValueError."""

    epsilon: float
    delta: float = DELTA

    def __post_init__(self) -> None:
        if not LEAST_EPSILON <= self.epsilon <= MOST_EPSILON:
            raise ValueError(
                f"Expected an epsilon of {LEAST_EPSILON:g} to {MOST_EPSILON:g}, got {self.epsilon:g}: 4 is usual."
            )
        if not LEAST_DELTA <= self.delta < 0.1:
            raise ValueError(
                f"Expected a delta of {LEAST_DELTA:g} to below 0.1, got {self.delta:g}: {DELTA:g} is usual."
            )

    @property
    def told(self) -> str:
        """For people to read."""
        return f"noise hides each single pick (epsilon {self.epsilon:g}, delta {self.delta:g})"


@dataclass(frozen=True, eq=False)
class ClippedTaste:
    """A mode that one pick moves by CLIP at most, in theta's coordinates [d]; prior `mean` [d] and `root` [d, d]; the
    number of picks. Not to be released without noise."""

    mode: Tensor
    mean: Tensor
    root: Tensor
    picks: int


def clipped(differences: Tensor, root: Tensor, most: float = CLIP) -> Tensor:
    """Differences [..., d], shortened where |root' x| is above `most`."""
    length = (differences.to(root) @ root).norm(dim=-1, keepdim=True)
    return differences.to(root) * (most / length.clamp_min(most))


@cache
def noise_multiplier(guarantee: Guarantee) -> float:
    """sigma over what one pick moves at most: the least that gives the guarantee, by bisection (theorem 8)."""
    low, high = 1e-3, 1e6  # more than the least epsilon and delta take
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _delta(middle, guarantee.epsilon) > guarantee.delta else (low, middle)
    return high


def _delta(multiplier: float, epsilon: float) -> float:
    """The least delta at an epsilon: Phi(1/2m - epsilon m) - exp(epsilon) Phi(-1/2m - epsilon m), m the multiplier."""
    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    a, b = torch.special.log_ndtr(torch.tensor([half - shift, -half - shift], dtype=torch.float64)).tolist()
    return math.exp(a) - math.exp(epsilon + b)


def noised(taste: ClippedTaste, guarantee: Guarantee, noise: random.Random) -> tuple[Tensor, int]:
    """u [d] and a number of picks that may be released: the mechanism. `noise` draws it."""
    sigma = noise_multiplier(guarantee) * CLIP * math.hypot(1, COUNT)
    *drawn, of_count = (noise.gauss(0, sigma) for _ in range(len(taste.mean) + 1))
    moved = taste.mode - taste.mean + taste.root @ torch.tensor(drawn, dtype=taste.root.dtype)
    return taste.mean + moved / (1 + sigma**2), max(1, round(taste.picks + of_count / (COUNT * CLIP)))
