"""One training loop for every stage, on one device or many: EMA, checkpoints that resume exactly, guards, early stop.

A stage supplies `loss(model, rng, step)`, which is called once for each microbatch. The random generators are seeded by
(seed, step, microbatch), so that a run that was killed and started again sees the batches that an uninterrupted run
would have seen, and n processes those of one that accumulates n microbatches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..messages import quoted, shortened
from ..precision import has_bfloat16
from .control import MOST_IN_A_ROW, NotFiniteError, Stopped, StopRequest
from .distributed import average_gradients, default_device, gathered, processes
from .journal import Journal
from .optimizer import muon_and_adamw
from .schedules import cosine_with_warmup, warm_average
from .state import TrainingState

Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[Model, np.random.Generator, int], tuple[Tensor, Mapping[str, float | str]]]
"""(model, generator, step) -> loss and figures to show. A text among them, "where", says what the microbatch was made
of: it names the microbatch that broke."""
Precision = Literal["bf16", "no"]


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are, and its inputs belong."""
    return next(model.parameters()).device


def fit(
    name: str,
    model: Model,
    loss: Loss[Model],
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    seed: int = 0,
    warmup: int = 100,
    ema: float = 0.999,
    save_every: float = 60.0,
    muon: bool = False,
    accumulate: int = 1,
    precision: Precision | None = None,
    on_step: Callable[[Model, int], None] | None = None,
    validate: Callable[[Model, int], float] | None = None,
    validate_every: int = 100,
    patience: int | None = None,
    progress: Path | None = None,
    logs: Path | None = None,
) -> Model:
    """Train `model`'s trainable parameters for `steps` steps and return it with the averaged (EMA) weights.

    The optimizer is AdamW, or `muon`: Muon for the matrices, AdamW for the rest (for what trains from nothing). A step
    averages the gradients of `accumulate` microbatches on each process. `precision` is bfloat16 ("bf16") or float32
    ("no"), by default what the device is fast in.

    `checkpoint` is written every `save_every` seconds and removed by nobody: a second call continues from it, and
    returns at once when it holds a finished run. `on_step(averaged model, step)` runs after each step, on process 0.

    `validate(averaged model, step)` gives a held-out figure every `validate_every` steps and at the end; it runs on
    every process, the mean counts, and the best averaged weights are returned. The run ends early when the figure has
    not risen for `patience` steps.

    A step whose loss or gradient is not finite changes nothing, and `MOST_IN_A_ROW` of them raise NotFiniteError. By a
    file STOP beside the checkpoint, Ctrl-C or SIGTERM the run ends after the step under way: Stopped is raised once all
    is saved. The file `progress` and the folder `logs` are for others to read, see `Journal`.
    """
    device, rank = default_device(), processes().process_index
    bfloat16 = _uses_bfloat16(precision, device)
    parameters = [p for p in model.to(device).parameters() if p.requires_grad]
    if muon:
        optimizers = muon_and_adamw(parameters, learning_rate)
    else:
        optimizers = [torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)]
    averaged = AveragedModel(model, multi_avg_fn=warm_average(ema))
    state = TrainingState(model, averaged, optimizers)
    state.resume(checkpoint)
    first = state.step

    def microbatches() -> Iterator[_Microbatch]:
        """This process's microbatches of the step; their gradients add up."""
        for index in range(rank * accumulate, (rank + 1) * accumulate):
            rng = np.random.default_rng([seed, state.step, index])  # index 0 is the stream of [seed, step]
            torch.manual_seed(int(rng.integers(2**31)))
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                value, figures = loss(model, rng, state.step)
            if value.requires_grad:  # not where all of the microbatch are null users, who get the frozen base itself
                (value / accumulate).backward()
            yield _Microbatch(value.item(), figures, watch.by())

    def move() -> None:
        factor = cosine_with_warmup(state.step, steps, warmup)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            optimizer.step()
        averaged.update_parameters(model)

    def held_out(validate: Callable[[Model, int], float]) -> float:
        return float(np.mean(gathered([validate(cast(Model, averaged.module), state.step)])))

    watch = StopRequest(checkpoint, watch_file=rank == 0)
    model.train()
    saved = time.monotonic()
    with watch, Journal(name, first, steps, progress=progress, logs=logs) as journal:
        while state.step < steps and not state.has_peaked(patience):
            done = gathered(list(microbatches()))
            average_gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters, 1.0).item()
            problem = _problem(done, norm)
            if not problem:
                move()
            model.zero_grad(set_to_none=True)
            state.count(skipped=bool(problem))
            journal.record(state.step, _means(done), state.skipped, problem, gradient_norm=norm)
            if on_step is not None and rank == 0:
                on_step(cast(Model, averaged.module), state.step)
            if validate is not None and (state.step % validate_every == 0 or state.step == steps):
                state.keep_if_best(figure := held_out(validate))
                journal.held_out(state.step, figure)

            asked = next((part.stop for part in done if part.stop), "")
            broken = state.skipped_in_a_row >= MOST_IN_A_ROW
            if asked or broken or time.monotonic() - saved > save_every:
                state.save(checkpoint)
                saved = time.monotonic()
            if broken:
                raise NotFiniteError.after(name, state.step, steps, problem, checkpoint)
            if asked:
                raise Stopped.by(name, state.step, steps, asked, checkpoint)
        if state.step > first:
            state.save(checkpoint)
    model.load_state_dict(state.weights())
    return model.eval()


class _Microbatch(NamedTuple):
    """What each process tells the others of a microbatch; `stop`: who asked that process to stop, or ""."""

    loss: float
    figures: Mapping[str, float | str]
    stop: str


def _uses_bfloat16(precision: Precision | None, device: torch.device) -> bool:
    if precision not in (None, "bf16", "no"):
        raise ValueError(f'Expected "bf16" or "no" (float32) as precision, got {quoted(precision)}.')
    return has_bfloat16(device) if precision is None else precision == "bf16"


def _means(done: Sequence[_Microbatch]) -> dict[str, float]:
    """Means of the figures over the microbatches of a step, those of all processes."""
    figures: dict[str, list[float]] = {}
    for part in done:
        for key, figure in part.figures.items():
            if not isinstance(figure, str):
                figures.setdefault(key, []).append(float(figure))
    return {key: float(np.mean(values)) for key, values in figures.items()}


def _problem(done: Sequence[_Microbatch], norm: float) -> str:
    """What is not finite in a step, and in which of its microbatches; "" where all is well."""
    broken = [part for part in done if not math.isfinite(part.loss)]
    if not broken and math.isfinite(norm):
        return ""
    where = "; ".join(str(part.figures["where"]) for part in broken or done if "where" in part.figures)
    what = f"its loss is {broken[0].loss}" if broken else f"its gradient's norm is {norm}"
    return f"{what} ({shortened(where, 400)})" if where else what
