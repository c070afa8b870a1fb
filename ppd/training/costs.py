"""What a training will cost, as measured by a rehearsal, and what it has cost."""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import write_file
from ..messages import duration
from ..pairs import counted

SPENT = "spent.json"
SECONDS_BETWEEN = 60.0


@dataclass(frozen=True)
class Costs:
    """Pictures and picks of the studies, and of real people; seconds of each part; `peak_memory` in bytes, of the GPU's
    memory where it computes there, else the process's, at so many pairs a `batch`; `disk`, bytes that the run keeps.
    `measuring_seconds`: of figures and pictures, in between and at the end."""

    pictures: int
    picks: int
    real_people: int
    reading_seconds: float
    distillation_seconds: float
    dpo_seconds: float
    peak_memory: int
    real_pictures: int = 0  # this and what follows: a rehearsal of before they were told may be shown
    real_picks: int = 0
    disk: int = 0
    batch: int = 0
    measuring_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the whole training, but for what is read before."""
        return self.distillation_seconds + self.dpo_seconds + self.measuring_seconds

    def report(self) -> str:
        """In lines for people."""
        real = ""
        if self.real_people:
            people = "1 real person" if self.real_people == 1 else f"{self.real_people} real people"
            real = f", and {counted(self.real_pictures, 'picture')} and {self.real_picks} picks of {people}"
        parts = {"self-distillation": self.distillation_seconds, "preferences": self.dpo_seconds}
        parts["figures and pictures"] = self.measuring_seconds
        told = ", ".join(f"{duration(seconds)} of {name}" for name, seconds in parts.items() if seconds)
        return "\n".join(
            (
                f"{counted(self.pictures, 'picture')} and {self.picks} picks of simulated people{real} are usable.",
                f"Training: about {duration(self.seconds)} ({told}).",
                f"Peak memory: {self.peak_memory / 2**30:.1f} GB with a batch of {self.batch}. Disk: "
                f"{self.disk / 2**20:.0f} MB.",
            )
        )


class Spent:
    """Hours and peak memory of all starts of a run together, kept in its folder once a minute of its steps; of
    several processes one `writes`."""

    def __init__(self, folder: Path, device: torch.device, *, writes: bool = True) -> None:
        self._file, self._device, self._writes = folder / SPENT, device, writes
        self._before: dict[str, Any] = {"hours": 0.0, "peak_memory": 0}
        if self._file.exists():
            self._before = json.loads(self._file.read_text())
        self._started = self._kept = time.monotonic()

    def __enter__(self) -> Spent:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()

    def told(self) -> dict[str, Any]:
        """{hours, peak_memory} until now."""
        hours = self._before["hours"] + (time.monotonic() - self._started) / 3600
        return {
            "hours": round(hours, 4),
            "peak_memory": max(self._before["peak_memory"], peak_memory(self._device)),
        }

    def keep(self) -> None:
        """A step is done."""
        if time.monotonic() - self._kept > SECONDS_BETWEEN:
            self._kept = time.monotonic()
            self._write()

    def _write(self) -> None:
        if self._writes:
            write_file(self._file, json.dumps(self.told()).encode())


def bytes_below(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget_peak(device: torch.device) -> None:
    """Count `peak_memory` from now on, where it can be: on CUDA."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # else what is kept for reuse counts
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes that were in use at most since `forget_peak`, or off CUDA since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # also what lies between the tensors
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
