"""What a training will cost, as measured by a rehearsal."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from ..pairs import counted


@dataclass(frozen=True)
class Costs:
    """Seconds of each part; `peak_memory` in bytes, of the GPU's memory where it computes there, else the process's."""

    pictures: int
    picks: int
    real_people: int
    reading_seconds: float
    distillation_seconds: float
    dpo_seconds: float
    peak_memory: int

    @property
    def hours(self) -> float:
        """Of the training alone; the pictures are read by now."""
        return (self.distillation_seconds + self.dpo_seconds) / 3600

    def report(self) -> str:
        """In lines for people."""
        people = f", and of {counted(self.real_people, 'real person')}" if self.real_people else ""
        return "\n".join(
            (
                f"{counted(self.pictures, 'picture')} and {self.picks} picks of simulated people{people} are usable.",
                f"Training: about {self.hours:.1f} hours ({self.distillation_seconds / 60:.0f} minutes of "
                f"self-distillation, {self.dpo_seconds / 60:.0f} of preferences).",
                f"Peak memory: {self.peak_memory / 2**30:.1f} GB. Disk: under 0.1 GB.",
            )
        )


def forget_peak(device: torch.device) -> None:
    """Count `peak_memory` from now on, where it can be: on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes that were in use at most since `forget_peak`, or off CUDA since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
