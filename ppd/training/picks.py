"""Picks that a user adapter is trained on: pictures as latents, who preferred which, and the u of each person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .rows import Stacked

MOST_REAL = 0.5
"""Share of real people's picks in a batch, of ENOUGH_PEOPLE and more; of fewer it is smaller in proportion."""
ENOUGH_PEOPLE = 10


@dataclass(frozen=True)
class QueryPicks:
    """k picks of P people among n pictures.

    `latents` [n, C, ...], in memory or on disk · per pick `person`, `chosen`, `rejected` and `caption` [k], which of
    the `prompts` · `embeddings` [S, P, d] u of each person from S different supports, disjoint from the picks ·
    `population` [d] · `noise` [m, C, ...] that the first m pictures were painted from · `scores` [Q, m] what the first
    Q people, simulated ones, think of each of these, in logits: P(a over b) = sigmoid(score a - score b) · `certainty`
    [k], a probability, that the chosen one is better, not a number where that is not known · `shows` [n] which prompt
    each picture was painted of · `real` [k] whether a real person picked, of whom there are `real_people`, and
    `real_share` their share of a batch. What is known of none is None.
    """

    latents: Tensor | Stacked
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
    real: np.ndarray | None = None
    real_people: int = 0
    real_share: float = 0.0

    def __len__(self) -> int:
        return len(self.person)

    @property
    def people(self) -> int:
        """P."""
        return self.embeddings.shape[1]

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Picks [count], real people's in their share."""
        if self.real is None:
            return rng.integers(len(self), size=count)
        of_real = rng.random(count) < self.real_share
        real, simulated = (rng.choice(np.flatnonzero(which), count) for which in (self.real, ~self.real))
        return np.where(of_real, real, simulated)

    def pictures(self, index: np.ndarray) -> np.ndarray:
        """The chosen ones of the picks `index` [b], then the rejected ones [2b]."""
        return np.concatenate([self.chosen[index], self.rejected[index]])

    def logits(self, index: np.ndarray, person: np.ndarray) -> Tensor:
        """What `person` [b] thinks of the picks `index` [b], in logits; not a number where that is not known."""
        found = torch.full((len(index),), torch.nan)
        if self.scores is None:
            return found
        of, chosen, rejected = map(torch.from_numpy, (person, self.chosen[index], self.rejected[index]))
        people, pictures = self.scores.shape
        known = (of < people) & (chosen < pictures) & (rejected < pictures)
        of, chosen, rejected = of[known], chosen[known], rejected[known]
        found[known] = (self.scores[of, chosen] - self.scores[of, rejected]).float()
        return found

    def true_noise(self, pictures: Tensor, otherwise: Tensor) -> Tensor:
        """The noise [b, C, ...] that `pictures` [b] were painted from, or `otherwise` where it is not known."""
        if self.noise is None:
            return otherwise
        known, found = pictures < len(self.noise), otherwise.clone()
        found[known] = self.noise[pictures[known]].to(found)
        return found

    def labels(self, index: np.ndarray) -> Tensor:
        """P [b] that the chosen picture is the better one for the picks' own people; 1 for a plain pick."""
        labels = torch.sigmoid(self.logits(index, self.person[index])).nan_to_num(1.0)
        if self.certainty is None:
            return labels
        said = self.certainty[torch.from_numpy(index)]
        return torch.where(said.isnan(), labels, said)

    def is_plain(self, index: np.ndarray) -> np.ndarray:
        """Whether the picks `index` [b] have no soft label, as nobody said how sure they are."""
        plain = self.logits(index, self.person[index]).isnan()
        if self.certainty is not None:
            plain &= ~(self.certainty[torch.from_numpy(index)] < 1)
        return plain.numpy()

    def others(self, index: np.ndarray, rng: np.random.Generator, drawn: int = 8) -> np.ndarray:
        """For each pick somebody else [b]: the one of `drawn` who would rather pick the other way, as far as that is
        known."""
        candidates = (self.person[index] + rng.integers(1, self.people, (drawn, len(index)))) % self.people
        opinions = torch.stack([self.logits(index, each) for each in candidates]).nan_to_num(0.0)
        return candidates[opinions.argmin(0).numpy(), np.arange(len(index))]

    def with_real(self, real: QueryPicks, share: float | None = None) -> QueryPicks:
        """These of simulated people, and those of real ones, of pictures of the same size; the more real people there
        are, the larger is their share."""
        if self.latents.shape[1:] != real.latents.shape[1:]:
            raise ValueError(
                f"The pictures have latents of {list(self.latents.shape[1:])} and {list(real.latents.shape[1:])}, "
                "expected one size."
            )
        pictures, people = len(self.latents), self.people
        parts = [one.parts if isinstance(one, Stacked) else (one,) for one in (self.latents, real.latents)]
        return QueryPicks(
            Stacked((*parts[0], *parts[1])),
            person=np.concatenate([self.person, real.person + people]),
            chosen=np.concatenate([self.chosen, real.chosen + pictures]),
            rejected=np.concatenate([self.rejected, real.rejected + pictures]),
            caption=np.concatenate([self.caption, real.caption + len(self.prompts)]),
            embeddings=torch.cat([self.embeddings, real.embeddings], 1),
            population=self.population,
            prompts=(*self.prompts, *real.prompts),
            noise=self.noise,
            scores=self.scores,
            certainty=None
            if real.certainty is None
            else torch.cat([torch.full((len(self),), torch.nan), real.certainty]),
            real=np.arange(len(self) + len(real)) >= len(self),
            real_people=real.people,
            real_share=MOST_REAL * min(1.0, real.people / ENOUGH_PEOPLE) if share is None else share,
        )
