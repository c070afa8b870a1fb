"""`python -m ppd train adapter`: a user adapter for an own checkpoint, from the command line."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from ..encoders.encoder import TasteEncoder
from ..files import write_file
from ..hosts.comfyui_base import find_comfyui, load_checkpoint, load_parts, use_comfyui
from ..messages import reason_of
from ..studies import open_studies
from .control import AGAIN, STOP, Stopped, stop_if_asked
from .distributed import is_one_of_several, processes, shared
from .real_picks import pairs_in
from .run import Run
from .runs import PICTURES, PROGRESS, TEXTS, read_json
from .settings import Settings, settings_of
from .text_files import TextFiles

LEAST_BATCH = 1
FITTED = "vram.json"


def command(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Train, rehearse or stop; figures for --json, of several processes by the first one."""
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"Expected a .safetensors file as --out, got {arguments.out.name}: let it end so.")
    folder = arguments.work or arguments.out.with_suffix(".training")
    if arguments.stop:
        return stop(folder)
    missing = [name for name in ("base", "studies", "encoder") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"An adapter needs {' and '.join(f'--{name}' for name in missing)}: name them.")
    if arguments.solo and not arguments.pairs:
        raise ValueError("Training for one person needs their picks: name their folder with --pairs.")
    if arguments.out.exists() and not arguments.dry_run:
        raise ValueError(f"There is a file {arguments.out.name} already: name another one as --out.")
    settings = settings_of(arguments)
    try:
        with interruptible():
            run = opened(arguments, folder, settings)
            figures, told = done(run, arguments)
    except Stopped as stopped:
        tell(folder, "stopped")
        raise SystemExit(str(stopped)) from None
    except KeyboardInterrupt:
        if not is_one_of_several():  # whose others may be gone
            tell(folder, "stopped")
        raise SystemExit(f"Interrupted; what was done is saved in {folder}. {AGAIN}") from None
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The GPU's memory does not suffice ({reason_of(error)}): choose a smaller batch or gradient "
            "checkpointing, and it goes on from what it saved."
        ) from error
    if not processes().is_main_process:
        return None
    print(told)
    return figures


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, wherever no step is under way. In the main thread alone; one of
    several processes, which may be waiting for the others, ends at once."""
    if is_one_of_several():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def done(run: Run, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Figures of a training or a rehearsal, and a sentence."""
    if arguments.vram is not None:
        run = fitted(run, arguments.vram, arguments.gradient_checkpointing)
    if arguments.dry_run:
        costs = run.rehearse()
        return vars(costs), costs.report()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {"file": str(arguments.out), **run.train(arguments.out)}
    return figures, f"{arguments.out}: user adapter; {run.folder / 'report.html'} says what it is worth"


def stop(folder: Path) -> dict[str, Any]:
    """Ask the run in a folder to stop."""
    told = read_json(folder / PROGRESS)
    if not told:
        raise ValueError(f"There is no run in {folder}: name its folder with --work.")
    if told["state"] == "stopped" or not psutil.pid_exists(told["pid"]):
        raise ValueError(f"No run is going on in {folder}: there is nothing to stop.")
    (folder / STOP).touch()
    print(f"Asked the run in {folder} to stop after its step.")
    return {"folder": str(folder)}


def tell(folder: Path, state: str) -> None:
    """Say in the progress file where a run is that takes no steps; where it was stays there. Process 0 does it."""
    if processes().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        told = read_json(folder / PROGRESS) | {"state": state, "pid": os.getpid(), "time": time.time()}
        write_file(folder / PROGRESS, json.dumps(told).encode())


def fitted(run: Run, vram: float, checkpointing: bool = False) -> Run:
    """The run with its batch halved, and as many more of them a step, until a rehearsal fits into so many GB; its
    folder remembers with which."""
    if run.base.denoiser.device.type != "cuda":
        raise ValueError("How much memory a batch takes can be told on CUDA alone: give --batch in place of --vram.")
    batch, accumulate = run.settings.batch, run.settings.accumulate
    pairs = batch * accumulate
    asked = {**run.inputs(), "vram": vram, "checkpointing": checkpointing, "batch": batch, "accumulate": accumulate}
    file = run.folder / FITTED
    found = shared(read_json(file))
    if found.get("asked") == asked:
        return replace(run, settings=replace(run.settings, **found["fits"]))
    while (peak := rehearsed(run)) > vram:
        batch, taken = run.settings.batch // 2, "more than there is" if peak == math.inf else f"{peak:.1f} GB"
        if batch < LEAST_BATCH:
            raise ValueError(
                f"One pair at a time takes {taken}, and {vram:g} GB are allowed: use --gradient-checkpointing, smaller "
                "studies, or a checkpoint in 8 bits."
            )
        print(f"A batch of {run.settings.batch} takes {taken}: going on with {batch}.", file=sys.stderr)
        run = replace(run, settings=replace(run.settings, batch=batch, accumulate=math.ceil(pairs / batch)))
    if processes().is_main_process:
        run.folder.mkdir(parents=True, exist_ok=True)
        fits = {"batch": run.settings.batch, "accumulate": run.settings.accumulate}
        write_file(file, json.dumps({"asked": asked, "fits": fits}).encode())
    return run


def rehearsed(run: Run) -> float:
    """GB that a run takes; infinite where it does not fit at all."""
    try:
        return run.rehearse().peak_memory / 2**30
    except torch.OutOfMemoryError:
        if processes().num_processes > 1:  # the others wait for this one: their launcher ends all
            raise
        return math.inf


def opened(arguments: argparse.Namespace, folder: Path, settings: Settings) -> Run:
    """Everything that the run reads; the checkpoint last, which takes longest."""
    studies, read = open_studies(arguments.studies), TasteEncoder.load(arguments.encoder)
    made: Path = arguments.made or folder
    comfyui = arguments.comfyui or find_comfyui()
    tell(folder, "preparing")  # gives each process its own GPU, too, which ComfyUI then takes
    if not processes().is_main_process:
        logging.disable(logging.WARNING)  # each reads all pairs, and would say the same of them

    def ask(rows: int) -> None:
        stop_if_asked(folder, "reading pairs")

    pairs, held_out = pairs_in(arguments.pairs, settings.most_pairs, made / PICTURES, solo=arguments.solo, progress=ask)
    use_comfyui(comfyui)
    from ..hosts.comfyui_checkpoint import ComfyUICheckpoint
    from ..hosts.comfyui_towers import open_tower

    add_folders({} if arguments.folders is None else json.loads(arguments.folders.read_text()))
    encoder = read.open(open_tower(read.tower, arguments.encoder), arguments.cache)
    if arguments.text_encoder:
        loaded = load_parts(comfyui, arguments.base, arguments.text_encoder, arguments.text_type, arguments.vae)
    else:
        loaded = load_checkpoint(comfyui, arguments.base)
    keep = TextFiles(made / TEXTS, folder)
    base = ComfyUICheckpoint(loaded, studies, checkpointing=arguments.gradient_checkpointing, keep=keep)
    return Run(base, encoder, studies, folder, settings, pairs, held_out, arguments.solo, arguments.licence, made)


def add_folders(folders: Mapping[str, Sequence[str]]) -> None:
    """Model folders beside ComfyUI's own."""
    import folder_paths

    for kind, paths in folders.items():
        for path in paths:
            folder_paths.add_model_folder_path(kind, path)
