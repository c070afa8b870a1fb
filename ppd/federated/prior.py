"""The federated prior: what a studio answers with, and what the server makes of the sums, round by round of EM."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..encoders.population import Said
from .hiding import Hiding
from .sums import Prior, evidence, rows, start, updated

EVIDENCE, SUMS = 400.0, 16.0
"""The most that one person's part of each number may be, in size; a studio whose sums are larger refuses to answer."""


@dataclass(frozen=True)
class PriorStudio:
    """A studio's people; what hides them is the studio's to say, and it answers as often as that is made for. `noise`
    draws its part of the noise, by default the operating system's."""

    people: Sequence[Said]
    hiding: Hiding | None
    noise: random.Random | None = None

    @property
    def rounds(self) -> int | None:
        """How often it answers in one run, None for always."""
        return None if self.hiding is None else self.hiding.rounds

    def answer(self, asked: Sequence[Tensor]) -> Tensor:
        """By what the server sent: nothing asks for the evidence of each start, a prior for the sums."""
        if not asked:
            if self.hiding is not None:
                raise ValueError("This studio hides its people, and is asked for sums without noise: start at a prior.")
            return evidence(self.people)
        prior = asked[0], asked[1]
        if self.hiding is None:
            return rows(self.people, prior).sum(0)
        return self.hiding.answer(self.people, prior, self.noise)


class FederatedPrior:
    """The server's side of EM: what to ask for next, and what the sums make of it.

    `prior` None is to be found by evidence, without hiding; `most_people` bounds the people of one studio.
    """

    def __init__(self, d: int, rounds: int, most_people: int, prior: Prior | None, hiding: Hiding | None) -> None:
        if hiding is not None and (prior is None or rounds != hiding.rounds):
            raise ValueError(
                "Rounds with noise start at a public prior and are as many as the noise is made for: give both."
            )
        self.d, self.prior, self.hiding, self.most_people = d, prior, hiding, most_people
        self.left = rounds + (prior is None)

    @property
    def studios(self) -> int | None:
        """How many must answer, where they share the noise."""
        return None if self.hiding is None else self.hiding.studios

    @property
    def most(self) -> str:
        """What a studio may have."""
        return f"{self.most_people} people"

    @property
    def range(self) -> float:
        """The most that any number of a studio's may be."""
        if self.prior is None:
            return EVIDENCE * self.most_people
        if self.hiding is None:
            return SUMS * self.most_people
        return self.hiding.clip * self.most_people + 10 * self.hiding.sigma / self.hiding.studios**0.5

    def ask(self) -> list[Tensor]:
        """What studios are sent."""
        return [] if self.prior is None else list(self.prior)

    def take(self, total: Tensor) -> None:
        """A round's sums."""
        if self.prior is None:
            self.prior = start(total, self.d)
        elif self.hiding is None:
            self.prior = updated(total, self.prior)
        else:
            self.prior = self.hiding.updated(total, self.prior)
        self.left -= 1
