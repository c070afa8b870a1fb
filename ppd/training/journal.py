"""What others can read of a run: a progress bar, a progress file, and the figures of all its steps."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ..files import replacing, write_file
from .control import Stopped
from .distributed import processes

log = logging.getLogger(__name__)

SECONDS_BETWEEN = 1.0
"""Between two states of the progress file."""
SMOOTHING = 0.98


class Journal:
    """The records of one run; process 0 keeps them, the others none.

    The progress file is JSON, replaced in one step: `name`, `state` (training, stopped, finished, failed), `message`,
    `step`, `of`, `seconds_per_step` (the mean of this start, but for the first one, which warms up), `seconds_left`,
    `figures` (running means, and the last `held_out`), `skipped`, `pid`, `time` (seconds since 1970). The folder `logs`
    gets log.csv with the figures of each step, and TensorBoard's events in a folder by the run's name where that
    package is installed. What a killed run left there beyond the step `first` is removed: the steps that follow are the
    same. Several runs, the stages of a training, may share both.
    """

    def __init__(self, name: str, first: int, steps: int, *, progress: Path | None, logs: Path | None) -> None:
        main = processes().is_main_process
        self._progress, self._first = progress if main else None, first
        self._state: dict[str, Any] = {"name": name, "state": "training", "message": "", "step": first, "of": steps}
        self._state |= {"seconds_per_step": None, "seconds_left": None, "figures": {}, "skipped": 0, "pid": os.getpid()}
        if main and first:
            log.info("%s: continues at step %d of %d", name, first, steps)
        self._bar = tqdm(desc=name, initial=first, total=steps, mininterval=2.0, disable=not main)
        self._log = _Log(logs, name, first) if main and logs is not None else None
        self._started = self._written = time.monotonic()
        self._timed = 0
        """Steps since `_started`."""

    def __enter__(self) -> Journal:
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        state = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        self._state |= {"state": state, "message": "" if error is None else str(error) or type(error).__name__}
        self._write()
        self._bar.close()
        if self._log is not None:
            self._log.close()

    def record(self, step: int, figures: Mapping[str, float], skipped: int, problem: str, **more: float) -> None:
        """A step is done, `step` of them in all: what its loss told, and `more` that only the log is to have.

        `problem` says why it was skipped, if it was; `skipped` is the number of all such steps.
        """
        if problem and not self._bar.disable:
            log.warning("%s: step %d of %d is skipped, %s.", self._state["name"], step, self._state["of"], problem)
        now = time.monotonic()
        self._timed += 1
        seconds = (now - self._started) / self._timed
        if step == self._first + 1:
            self._started, self._timed = now, 0
        shown: dict[str, float] = self._state["figures"]
        for key, figure in figures.items():
            if math.isfinite(figure):
                shown[key] = SMOOTHING * shown.get(key, figure) + (1 - SMOOTHING) * figure
        self._bar.set_postfix({key: f"{figure:.4g}" for key, figure in shown.items()}, refresh=False)
        self._bar.update()
        self._state |= {"step": step, "skipped": skipped, "seconds_per_step": seconds}
        self._state["seconds_left"] = seconds * (self._state["of"] - step)
        if self._log is not None:
            self._log.add(step, {**figures, **more})
        if now - self._written > SECONDS_BETWEEN:
            self._write()

    def held_out(self, step: int, figure: float) -> None:
        """The held-out figure after `step` steps: shown as it is, and logged."""
        if math.isfinite(figure):
            self._state["figures"]["held_out"] = figure
        if self._log is not None:
            self._log.add(step, {"held_out": figure})

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._progress is None:
            return
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_file(self._progress, json.dumps(self._state | {"time": time.time()}, allow_nan=False).encode())
        except PermissionError:
            log.warning("%s could not be written: another program holds it open.", self._progress)


class _Log:
    """Figures by step, in long form (run, step, figure, value), since not every figure is there in every step."""

    HEADER = ("run", "step", "figure", "value")

    def __init__(self, folder: Path, name: str, first: int) -> None:
        path = folder / "log.csv"
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[list[str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(self.HEADER)][1:]
        self._name = name
        with replacing(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
            kept = csv.writer(file)
            kept.writerow(self.HEADER)
            kept.writerows(row for row in rows if row[0] != name or int(row[1]) <= first)
        self._file: IO[str] = path.open("a", newline="", encoding="utf-8", buffering=1)
        self._csv = csv.writer(self._file)
        self._events = _events(folder / re.sub(r"\W+", "-", name), first)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        for key, figure in figures.items():
            self._csv.writerow((self._name, step, key, f"{figure:.6g}"))
            if self._events is not None:
                self._events.add_scalar(key, figure, step)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _events(folder: Path, first: int) -> Any:
    """TensorBoard's writer into `folder`, or None where that package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=first + 1)
