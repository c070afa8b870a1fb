"""How slow the machine is just now, for tests that bound a time: a limit in seconds alone fails where others work."""

from __future__ import annotations

import time

import torch

WORK = 0.01
"""Seconds of a processor that `_work` takes on the two cores that the limits were written for."""


def slowness() -> float:
    """How many times longer than there some fixed work takes here and now, at least 1."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        _work()
        seconds.append(time.process_time() - start)
    return max(1.0, min(seconds) / WORK)


def _work() -> None:
    """What the bounded calls do: rows of small values in Python, and small matrices."""
    rows = [(f"{number}", number) for number in range(30_000)]
    assert len({name for name, number in rows if isinstance(number, int)}) == 30_000
    x = torch.ones(128, 128)
    for _ in range(50):
        x = x @ x / 128
