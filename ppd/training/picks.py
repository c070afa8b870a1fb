"""Picks that a user adapter is trained on: pictures as latents, who preferred which, and the u of each person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class QueryPicks:
    """k picks of P people among n pictures.

    `latents` [n, C, ...] · per pick `person`, `chosen`, `rejected` and `caption` [k], which one of `prompts` ·
    `embeddings` [S, P, d] u of each person from S different supports, disjoint from the picks · `population` [d] ·
    `noise` [n, C, ...] that the pictures were painted from, where that is known · `scores` [P, n] what simulated people
    think of each picture, in logits: P(a over b) = sigmoid(score a - score b) · `certainty` [k] that the chosen one is
    better, a probability, where somebody said so · `shows` [n] which prompt each picture was painted of, where it was.
    """

    latents: Tensor
    person: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    caption: np.ndarray
    embeddings: Tensor
    population: Tensor
    prompts: tuple[str, ...]
    noise: Tensor | None = None
    scores: Tensor | None = None
    certainty: Tensor | None = None
    shows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.person)

    @property
    def people(self) -> int:
        """P."""
        return self.embeddings.shape[1]

    def pictures(self, index: np.ndarray) -> np.ndarray:
        """The chosen ones of the picks `index` [b], then the rejected ones [2b]."""
        return np.concatenate([self.chosen[index], self.rejected[index]])

    def logits(self, index: np.ndarray, person: np.ndarray) -> Tensor | None:
        """What `person` [b] thinks of the picks `index` [b], in logits; None where nobody was simulated."""
        if self.scores is None:
            return None
        of = torch.from_numpy(person)
        chosen, rejected = torch.from_numpy(self.chosen[index]), torch.from_numpy(self.rejected[index])
        return (self.scores[of, chosen] - self.scores[of, rejected]).float()

    def labels(self, index: np.ndarray) -> Tensor:
        """P [b] that the chosen picture is the better one for the picks' own people; 1 for a plain pick."""
        if self.certainty is not None:
            return self.certainty[torch.from_numpy(index)]
        logits = self.logits(index, self.person[index])
        return torch.ones(len(index)) if logits is None else torch.sigmoid(logits)

    def others(self, index: np.ndarray, rng: np.random.Generator, drawn: int = 8) -> np.ndarray:
        """For each pick somebody else [b]: the one of `drawn` who would rather pick the other way; where nobody was
        simulated, anybody."""
        offsets = rng.integers(1, self.people, (drawn, len(index)))
        candidates = (self.person[index] + offsets) % self.people
        if self.scores is None:
            return candidates[0]
        opinions = torch.stack([self.logits(index, each) for each in candidates])  # type: ignore[misc]
        return candidates[opinions.argmin(0).numpy(), np.arange(len(index))]
