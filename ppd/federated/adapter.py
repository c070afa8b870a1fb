"""A user adapter of several studios by federated averaging (McMahan et al. 2017): nobody's picks leave their studio.

In a round the server sends the adapter's weights w. A studio trains it from there, a few steps of user-DPO on its own
picks, and answers with

    n / most * [ w' - w, no longer than `longest`; longest ]

n its picks, `most` as many as one may have. The server divides the sums by each other and goes on from w plus the mean
change, by picks. Under masks (flower.py) it learns neither one studio's change nor how many picks that has. What the
sum of all tells of a person is not bounded: see docs/privacy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..adapters import UserAdapter
from ..encoders.population import PopulationPrior
from ..hosts.denoiser import Denoiser
from ..training.adapter import train_adapter
from ..training.picks import QueryPicks
from ..training.settings import Objective

LONGEST = 10.0
"""Length of a studio's change of the weights in one round: some times what few steps make."""


@dataclass(frozen=True)
class Local:
    """What a studio does in a round, the same in all of them: `steps` of `batch` picks, of `most_picks` that it may
    have, and a change no longer than `longest`."""

    steps: int = 6
    batch: int = 8
    learning_rate: float = 1e-3
    objective: Objective = field(default_factory=Objective)
    most_picks: int = 2000
    longest: float = LONGEST
    seed: int = 0


@dataclass(frozen=True)
class AdapterStudio:
    """A studio: its `denoiser`, an `adapter` of the layout that all have agreed on, and its people's `picks`."""

    denoiser: Denoiser
    adapter: UserAdapter
    picks: QueryPicks
    local: Local
    rounds: int | None = None

    def answer(self, asked: Sequence[Tensor]) -> Tensor:
        """What training changes of the weights `asked[0]` in the round of number `asked[1]`, weighted by its picks."""
        local, (before, number) = self.local, asked
        if len(self.picks) > local.most_picks:
            raise ValueError(
                f"This studio has {len(self.picks)} picks, and {local.most_picks} are agreed on: agree on more."
            )
        put(self.adapter, before)
        with TemporaryDirectory() as folder:
            trained = train_adapter(
                self.denoiser,
                self.adapter,
                self.picks,
                Path(folder) / "round.pt",
                steps=local.steps,
                objective=local.objective,
                seed=1000 * local.seed + int(number),
                batch=local.batch,
                learning_rate=local.learning_rate,
                name=f"round {int(number) + 1}",
                fresh=False,
                warmup=0,
                ema=0.0,
            )
        change = vector(trained) - before
        change *= min(1.0, local.longest / max(float(change.norm()), 1e-12))
        return torch.cat([change, change.new_tensor([local.longest])]) * (len(self.picks) / local.most_picks)


class FederatedAdapter:
    """The server's side: the weights of `adapter`, which it starts at and holds what came of all rounds in the end."""

    studios: int | None = None

    def __init__(self, adapter: UserAdapter, rounds: int, local: Local) -> None:
        self.adapter, self.left, self.local, self._rounds = adapter, rounds, local, rounds

    @property
    def most(self) -> str:
        """What a studio may have."""
        return f"{self.local.most_picks} picks"

    @property
    def range(self) -> float:
        """The most that any number of a studio's may be."""
        return self.local.longest

    def ask(self) -> list[Tensor]:
        """The weights, and the round's number."""
        return [vector(self.adapter), torch.tensor([self._rounds - self.left])]

    def take(self, total: Tensor) -> None:
        """A round's sums."""
        mean = total[:-1] * (self.local.longest / total[-1])
        put(self.adapter, vector(self.adapter) + mean)
        self.left -= 1


def begin(adapter: UserAdapter, prior: PopulationPrior, seed: int = 0) -> None:
    """New weights: the base, ready for u of the size that the prior's people have. Before the first round, by the
    server alone."""
    torch.manual_seed(seed)
    adapter.reset_parameters()
    adapter.start_at((prior.mean.square() + prior.covariance.diagonal()).sqrt())


def vector(adapter: UserAdapter) -> Tensor:
    """All weights [n] in float64."""
    return parameters_to_vector(adapter.parameters()).detach().cpu().double()


def put(adapter: UserAdapter, weights: Tensor) -> None:
    """Weights [n] in their places; ValueError where the layout is another."""
    count = sum(one.numel() for one in adapter.parameters())
    if weights.shape != (count,):
        raise ValueError(
            f"The server's adapter has {weights.numel()} weights and this studio's {count}: agree on one layout."
        )
    first = next(adapter.parameters())
    vector_to_parameters(weights.to(first), adapter.parameters())
