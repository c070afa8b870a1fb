"""A painter whose strengths people judge, each wanting what another does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from ppd.encoders.simulated import SimulatedPeople
from ppd.encoders.towers import open_tower
from ppd.pocket.studio import ENCODER, WEIGHTS
from ppd.training.strength import picked_by_gain

from .study_sets import encoder_of, paint_studies, scene


class Known(nn.Module):
    """In place of an adapter: how strong it is."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def scaled(self, gain: float) -> Known:
        return Known(self.gain.item() * gain)


class Judged:
    """Somebody who likes bright pictures and somebody who likes dark ones, as an encoder made of studies in a `folder`
    reads them, and a painter who overshoots beyond .5, where all is dark; `painted` are prompts, seeds, gains and u."""

    def __init__(self, folder: Path) -> None:
        studies = paint_studies(folder, prompts=10)
        self.encoder = encoder_of(studies, open_tower({"kind": "folder"}, WEIGHTS / ENCODER))
        assert self.encoder.looks is not None
        light = self.encoder.looks.readings[self.encoder.looks.names.index("dark-bright")].double()
        self.people = SimulatedPeople(torch.stack([light, -light]), torch.zeros(2, 2))
        of_four = torch.tensor([[0.0], [0.0], [1.0], [0.0], [0.0]])[..., None] * torch.tensor([1.0, -1.0])[:, None]
        person, caption = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 0])
        self.picks: Any = SimpleNamespace(prompts="abc", person=person, caption=caption, embeddings=of_four)
        self.painted: list[tuple[Any, ...]] = []

    def paint(self, prompt, seed, adapter=None, u=None):
        gain, sign = (0.0, 0.0) if adapter is None else (adapter.gain.item(), u.item())
        self.painted.append((prompt, seed, round(gain, 3), sign))
        return scene(seed, -0.2 if gain > 0.5 else 0.5 * gain * sign).open()

    def picked(
        self,
        folder: Path,
        on_picture: Callable[[int, int], None] = lambda done, of: None,
        *,
        whole: float = 1.0,
        paint: Callable[..., Any] | None = None,
    ) -> dict[float, tuple[float, float]] | None:
        """Of four pictures, for a run in `folder` whose adapter is so strong as a whole."""
        self.painted.clear()
        base: Any = SimpleNamespace(paint=paint or self.paint)
        adapter: Any = Known(whole)
        return picked_by_gain(base, adapter, self.people, self.picks, self.encoder, 4, folder, on_picture)


def no_room(*_: object) -> None:
    raise torch.OutOfMemoryError
