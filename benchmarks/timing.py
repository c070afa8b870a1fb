"""Times and ratios of runs in ComfyUI, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np


class Stopwatch:
    """The processor's seconds within the functions it is put around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        return timed

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Within `around`, what does not count."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds -= time.process_time() - start

        return timed


def median(values: list[float]) -> dict[str, float]:
    """Median with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    low, high = np.percentile([np.median(rng.choice(values, len(values))) for _ in range(2000)], [2.5, 97.5])
    return {"ratio": float(np.median(values)), "low": float(low), "high": float(high), "n": len(values)}


def ratio_of_medians(ours: Any, theirs: Any) -> dict[str, float]:
    """Overheads are differences of noisy numbers, so that single rounds' ratios mean nothing."""
    rng, n = np.random.default_rng(0), len(ours)
    drawn = []
    for _ in range(2000):
        index = rng.integers(n, size=n)
        drawn.append(np.median(ours[index]) / np.median(theirs[index]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"ratio": float(np.median(ours) / np.median(theirs)), "low": float(low), "high": float(high), "n": n}


def sampling(
    patched: Any, conditions: list[Any], noise: Any, sampler: Any, steps: int, cfg: float = 4.0
) -> Callable[[], Any]:
    """A run, ready to go."""
    import comfy.samplers
    import torch

    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(*conditions)
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "normal", steps)
    return partial(guider.sample, noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)


def seconds(device: Any, work: Callable[[], Any]) -> float:
    """How long `work` takes; on a CPU the processor's time, which other programs disturb less."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    _wait(device)
    start = clock()
    work()
    _wait(device)
    return clock() - start


def device_name(device: Any) -> str:
    """What figures were measured on."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, processor time"


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
