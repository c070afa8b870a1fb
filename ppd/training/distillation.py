"""Self-distillation: an adapter learns how to move a picture from the checkpoint's own obedience to words.

For somebody who likes the looks k by theta_k, the target is the reference's prediction moved as their words move it:

    eps*(x_t, p) = eps(x_t, p) + sum_k theta_k (eps(x_t, p + high words of k) - eps(x_t, p + low words of k))

as Concept Sliders (arXiv 2311.12092) teach one direction to a LoRA. No judge and no pairs are needed. At strength 1 the
adapter moves a picture as far as the words do.

u is that of endless picks, which tells theta, since u of a few tells little of it: most of the error would then be what
no adapter can learn. What moves by u in proportion moves by u of a few picks as far as these let expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..encoders.simulated import SimulatedPeople
from ..hosts.denoiser import Denoiser, PersonalHost, Texts
from .dpo import denoising_error
from .picks import QueryPicks

Sides = Sequence[Sequence[tuple[str, str]]]
"""By prompt and look: the prompt with the look's low words, and with its high words."""


@dataclass(frozen=True)
class Distillation:
    """The loss of teaching a host's adapter, on pictures of the first `prompts` of the picks, for `people` with the
    `embeddings` [P, d]; `texts` are those of `wordings`."""

    denoiser: Denoiser
    host: PersonalHost
    picks: QueryPicks
    people: SimulatedPeople
    embeddings: Tensor
    texts: Texts
    prompts: int
    end_percent: float

    def loss(self, rng: np.random.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error against the moved prediction, as a share of how far that moves."""
        picks, device = self.picks, self.denoiser.device
        assert picks.shows is not None
        index = rng.choice(np.flatnonzero(picks.shows < self.prompts), batch)
        caption = picks.shows[index]
        person = rng.integers(len(self.people), size=batch)
        u = self.embeddings[torch.from_numpy(person)]
        latents = picks.latents[torch.from_numpy(index)].to(device, torch.float32)
        noise = torch.randn(latents.shape) if picks.noise is None else picks.noise[torch.from_numpy(index)].float()
        noise = noise.to(device)
        t = self.denoiser.draw_timesteps(rng, batch, self.end_percent).to(device)
        x = self.denoiser.noised(latents, noise, t)
        with torch.no_grad():
            plain = self.denoiser.predict(x, t, self.texts[caption]).float()
            moved = self._moved(x, t, caption, self.people.looks[torch.from_numpy(person)])
        with self.host.personalized(u[:, None]):
            predicted = self.denoiser.predict(x, t, self.texts[caption])
        error = denoising_error(predicted, plain + moved).mean()
        whole = moved.square().mean()
        value = error / whole
        return value, {"loss": value.item(), "moved": whole.sqrt().item()}

    def _moved(self, x: Tensor, t: Tensor, caption: np.ndarray, looks: Tensor) -> Tensor:
        """How the liked looks' words move the predictions [b, C, ...]; looks [b, k], 0 for most."""
        row, look = (each.numpy() for each in looks.nonzero(as_tuple=True))
        count = looks.shape[1]
        first = self.prompts + 2 * (caption[row] * count + look)
        rows = torch.from_numpy(row).to(x.device)
        low, high = (self.denoiser.predict(x[rows], t[rows], self.texts[first + side]).float() for side in (0, 1))
        weight = looks[looks != 0].to(x).view(-1, *[1] * (x.ndim - 1))
        return torch.zeros_like(x).index_add_(0, rows, weight * (high - low))


def wordings(prompts: Sequence[str], sides: Sides) -> list[str]:
    """All texts of a distillation: the prompts that have sides, then each with each look's low and high words."""
    return [*prompts[: len(sides)], *(text for looks in sides for pair in looks for text in pair)]
