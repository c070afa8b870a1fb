"""What ends a run before its last step, in good order: somebody asks, or the numbers break."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
STOP = "STOP"
"""A file of this name beside the checkpoint asks a run to stop."""
MOST_IN_A_ROW = 3
BEGAN = psutil.Process().create_time()
"""When this process began."""


AGAIN = "Start it again in the same way, and it goes on from there."


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A run that was asked to stop and has saved its state; the message says how to go on."""

    @classmethod
    def by(cls, name: str, step: int, steps: int, who: str, checkpoint: Path) -> Stopped:
        return cls(f"{name}: stopped by {who} after step {step} of {steps}, all is saved in {checkpoint}. {AGAIN}")


class NotFiniteError(ValueError):
    """A run whose loss or gradient was no finite number for several steps in a row; its last good state is saved."""

    @classmethod
    def after(cls, name: str, step: int, steps: int, problem: str, checkpoint: Path) -> NotFiniteError:
        return cls(
            f"{name}: stopped at step {step} of {steps}, {MOST_IN_A_ROW} steps in a row were not finite numbers and "
            f"were skipped (the last: {problem}). {checkpoint} holds the weights before them: leave out what broke "
            "it, or delete that file and start again with a lower learning rate."
        )


class StopRequest:
    """Whether someone asks the run to stop: by the file STOP beside its checkpoint, Ctrl-C or SIGTERM.

    The file works on every system and from any process, and already while this process prepares the run. One from
    before that was meant for an earlier run: it is removed, as is one that was obeyed. A second signal of the same kind
    does what it would do without us.
    """

    def __init__(self, checkpoint: Path, *, watch_file: bool) -> None:
        self._file = checkpoint.with_name(STOP) if watch_file else None
        self._signal: str | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopRequest:
        if self._file is not None and self._file.exists() and not _is_new(self._file):
            self._file.unlink()
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            self._previous = {number: signal.signal(number, self._asked) for number in WORDS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._file is not None and kind is Stopped:
            self._file.unlink(missing_ok=True)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._signal = WORDS[signal.Signals(number)]
        signal.signal(number, self._previous[number])

    def by(self) -> str:
        """Who asks, in a word; "" while nobody does."""
        if self._signal is not None:
            return self._signal
        return "the file STOP" if self._file is not None and self._file.exists() else ""


def stop_if_asked(folder: Path, doing: str) -> None:
    """Raise Stopped where a file STOP asks a run for it between two pieces of what it does before or after its steps.

    The file stays, so that every process of the run sees it.
    """
    if (file := folder / STOP).exists() and _is_new(file):
        raise Stopped(f"Stopped by the file STOP while {doing}; what was done is saved in {folder}. {AGAIN}")


def _is_new(file: Path) -> bool:
    """Whether it is meant for this process."""
    return file.stat().st_mtime >= BEGAN
