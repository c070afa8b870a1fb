"""The likelihood of a choice, one picture among several: Luce's choice axiom (1959), which is the first position of
Plackett's model of rankings (1975).

A person with taste theta chooses a picture with probability softmax(theta . phi) over all that are shown, which is
1 / (1 + sum_j exp(-z_j)) with z_j = theta . (phi(chosen) - phi(rejected j)). Among two that is Bradley and Terry's
model. So each rejected picture is a row, and the rows of one choice are one observation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def numbered(names: Sequence[str | None]) -> Tensor:
    """For each row the first row of its choice, [n]: rows of one name are one choice, a row without one is its own."""
    first: dict[str, int] = {}
    rows = (row if name is None else first.setdefault(name, row) for row, name in enumerate(names))
    return torch.tensor(list(rows), dtype=torch.long)


class Choices:
    """What P people said, as a function of z [P, n]: how improbable it is, and its first two derivatives.

    `outcomes` [P, n] is 1 where the chosen picture won and .5 for a tie; `weights` [P, n] scales log-likelihoods, 0 for
    padding, and a choice weighs what its rows do on average. Rows with the same number in `index` [P, n], of 0..n-1,
    are one choice; without it every row is one.
    """

    def __init__(self, outcomes: Tensor, weights: Tensor, index: Tensor | None = None) -> None:
        people, n = weights.shape
        own = torch.arange(n).expand(people, n)
        index = own if index is None else index.detach().cpu()
        if index.shape != weights.shape or not bool(((index >= 0) & (index < n)).all()):
            raise ValueError(f"Expected the number of a choice per difference, [{people}, {n}] from 0 to {n - 1}.")
        self.outcomes = outcomes
        self._choice: Tensor | None = None
        if not torch.equal(index, own):
            self._choice = torch.where(weights > 0, index, n) + (n + 1) * torch.arange(people)[:, None]
        rows = self._sum(torch.ones_like(weights))
        if bool(((rows > 1) & (weights > 0) & (outcomes != 1)).any()):
            raise ValueError("Expected one chosen picture in a choice among several, got a tie.")
        self.weights = self._sum(weights) / rows
        self._share = self.weights / rows

    def loss(self, z: Tensor) -> Tensor:
        """Minus everybody's log-likelihood, [P]."""
        return (self._share * self._odds(z)[0] + self.weights * (1 - self.outcomes) * z).sum(-1)

    def slope(self, z: Tensor) -> Tensor:
        """The derivative of `loss` by z, [P, n]."""
        return self.weights * (1 - self.outcomes - self._odds(z)[1])

    def root(self, z: Tensor, design: Tensor) -> Tensor:
        """R [P, n, d] with R' R the Hessian of `loss` where z = design @ theta, design [P, n, d].

        Of a choice the Hessian is D' (diag(q) - q q') D with q the rejected pictures' probabilities, and
        diag(q) - q q' = B B' with B = diag(sqrt q) - q sqrt(q)' / (1 + sqrt(q_0)), q_0 the chosen one's.
        """
        total, q = self._odds(z)
        if self._choice is None:
            return design * (self.weights * q * (-total).exp()).sqrt()[..., None]
        middle = self._sum(q[..., None] * design) / (1 + (-total / 2).exp())[..., None]
        return (design - middle) * (self.weights * q).sqrt()[..., None]

    def _odds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row's choice log(1 + sum_j exp(-z_j)), and the probability of the row's own picture: both [P, n]."""
        if self._choice is None:
            total = F.softplus(-z)
        else:
            none = z.new_zeros(len(z) * (z.shape[1] + 1))  # the chosen picture's own logit
            top = none.scatter_reduce(0, self._choice.flatten(), -z.flatten(), "amax")[self._choice]
            total = top + ((-top).exp() + self._sum((-z - top).exp())).log()
        return total, (-z - total).exp()

    def _sum(self, rows: Tensor) -> Tensor:
        """Rows [P, n, ...] to the sums over their choices, in each row of them."""
        if self._choice is None:  # mostly, and then it is far faster
            return rows
        people, n = self._choice.shape
        sums = rows.new_zeros(people * (n + 1), *rows.shape[2:])
        return sums.index_add(0, self._choice.flatten(), rows.flatten(0, 1))[self._choice]
