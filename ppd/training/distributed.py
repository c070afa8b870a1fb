"""One process or many: which of them this is, and the few things that they tell each other.

`accelerate launch` starts the processes; started without it, a process is alone and nothing here costs anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor, nn

Value = TypeVar("Value")

# One process may prepare what all others wait for, such as pictures; NCCL's own limit is ten minutes.
TIMEOUT = timedelta(hours=2)


def is_one_of_several() -> bool:
    """Whether a launcher started this process."""
    return "LOCAL_RANK" in os.environ


def processes() -> PartialState:
    """This process among all: `process_index` (rank), `num_processes`, `device`, `is_main_process`."""
    if not is_one_of_several():
        return PartialState()
    no_gpu = not (torch.cuda.is_available() or torch.xpu.is_available())
    cpu = no_gpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    without_nccl = torch.cuda.is_available() and not torch.distributed.is_nccl_available()  # Windows
    state = PartialState(cpu=cpu, backend="gloo" if cpu or without_nccl else None, timeout=TIMEOUT)
    if state.backend == "gloo":
        _part_at_exit()
    return state


@cache
def _part_at_exit() -> None:
    """Take leave of the others before the interpreter ends: one of gloo's threads that then still runs aborts it, after
    all work is done. NCCL has no such thread, and would wait for others that a failure holds up."""
    atexit.register(lambda: PartialState().destroy_process_group())


def own_share() -> Callable[[str], bool]:
    """Tells which pieces of work, each named by a SHA-256, are this process's among those of its machine. Machines need
    share no folder, so that each of them does all of the work."""
    here = processes()
    count = int(os.environ.get("LOCAL_WORLD_SIZE", here.num_processes))
    return lambda digest: int(digest[:8], 16) % count == here.local_process_index


def default_device() -> torch.device:
    """Where `fit` trains: the accelerator that accelerate finds, else the CPU."""
    return processes().device


def shared(value: Value) -> Value:
    """Process 0's `value`, on every process."""
    return broadcast_object_list([value])[0]


def gathered(values: Sequence[Value]) -> list[Value]:
    """The `values` of all processes, in the order of their ranks."""
    return list(gather_object(list(values)))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the mean over all of them of each parameter's gradient, in one message.

    By hand and not by DistributedDataParallel, whose hooks run in the forward of the module that it wraps: losses
    reach an adapter from inside the denoiser that it acts on, and never call that wrapper. What is trained is small (a
    few million numbers), so that a single message after the backward costs next to nothing.

    A parameter keeps no gradient where no process has one, as in a process that is alone.
    """
    count = processes().num_processes
    if count == 1:
        return
    device = parameters[0].device
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    total = torch.cat([present, *(part.flatten().float() for part in parts)])
    if torch.distributed.get_backend() == "gloo":  # not every build of it takes tensors of a GPU
        total = total.cpu()
    torch.distributed.all_reduce(total)
    sums: tuple[Tensor, ...] = total.to(device).split([len(parts), *(part.numel() for part in parts)])
    anywhere = sums[0].tolist()
    for parameter, gradient, there in zip(parameters, sums[1:], anywhere, strict=True):
        parameter.grad = (gradient / count).view(parameter.shape).to(parameter.dtype) if there else None
