"""All that a run knows, in one file: a run that was killed goes on from it as if nothing had happened."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..files import replacing
from ..messages import reason_of
from .distributed import processes, shared


class TrainingState:
    """Weights, their average, optimizers, and the run's counters: the next step, skipped steps, the best so far."""

    def __init__(self, model: nn.Module, averaged: AveragedModel, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.model, self.averaged, self.optimizers = model, averaged, optimizers
        self.step = 0
        self.skipped = self.skipped_in_a_row = 0
        self.best, self.best_step = -math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None

    def count(self, skipped: bool) -> None:
        """A step is over."""
        self.step += 1
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def has_peaked(self, patience: int | None) -> bool:
        """Whether the held-out figure has not risen for `patience` steps."""
        return patience is not None and self.best_weights is not None and self.step - self.best_step >= patience

    def keep_if_best(self, figure: float) -> None:
        """Remember the averaged weights if no earlier ones had as high a held-out figure."""
        if figure > self.best:
            self.best, self.best_step = figure, self.step
            self.best_weights = {name: value.clone() for name, value in self.averaged.module.state_dict().items()}

    def weights(self) -> dict[str, Tensor]:
        """What the run is for: the best averaged weights where some were kept, else the averaged ones."""
        return self.averaged.module.state_dict() if self.best_weights is None else self.best_weights

    def save(self, path: Path) -> None:
        """Write the checkpoint; never half of one, whenever the process is killed. Process 0 does it."""
        if not processes().is_main_process:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            torch.save(self._state_dict(), partial)

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint, if there is one; on every process from what process 0 has.

        Also at the start, since devices of different kinds draw different numbers from the same seed.
        """
        alone, found = processes().num_processes == 1, path.exists()
        if alone and not found:
            return
        data = b""
        if processes().is_main_process:
            data = path.read_bytes() if found else self._to_bytes()
        try:
            self._load_state_dict(torch.load(io.BytesIO(shared(data)), map_location="cpu", weights_only=True))
        except Exception as error:  # whatever torch raises over a file that is damaged, or another model's
            raise ValueError(
                f"{path} is no checkpoint that this training can go on from ({reason_of(error)}): give back the "
                "settings that it was made with, or delete it to start from the beginning."
            ) from error

    def _to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(self._state_dict(), buffer)
        return buffer.getvalue()

    def _state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "skipped": [self.skipped, self.skipped_in_a_row],
            "best": [self.best, self.best_step],
            "best_weights": self.best_weights,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step = state["step"]
        if "skipped" in state:  # later than the first form of the file
            self.skipped, self.skipped_in_a_row = state["skipped"]
            self.best, self.best_step = state["best"]
            self.best_weights = state["best_weights"]
