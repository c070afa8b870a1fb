"""`python -m ppd train adapter`: a user adapter for an own checkpoint, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .control import STOP, Stopped
from .run import Run
from .runs import PICTURES, TEXTS
from .settings import Settings, settings_of

LEAST_BATCH = 1


def command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, rehearse or stop; figures for --json."""
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"Expected a .safetensors file as --out, got {arguments.out.name}: let it end so.")
    folder = arguments.work or arguments.out.with_suffix(".training")
    if arguments.stop:
        return stop(folder)
    missing = [name for name in ("base", "studies", "encoder") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"An adapter needs {' and '.join(f'--{name}' for name in missing)}: name them.")
    if arguments.out.exists() and not arguments.dry_run:
        raise ValueError(f"There is a file {arguments.out.name} already: name another one as --out.")
    run = opened(arguments, folder, settings_of(arguments))
    if arguments.dry_run:
        costs = run.rehearse()
        print(costs.report())
        return vars(costs)
    if arguments.vram is not None:
        run = fitted(run, arguments.vram)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figures = run.train(arguments.out)
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    print(f"{arguments.out}: user adapter; {folder / 'report.html'} says what it is worth")
    return {"file": str(arguments.out), **figures}


def stop(folder: Path) -> dict[str, Any]:
    """Ask the run in a folder to stop."""
    if not (folder / "progress.json").is_file():
        raise ValueError(f"There is no run in {folder}: name its folder with --work.")
    (folder / STOP).touch()
    print(f"Asked the run in {folder} to stop after its step.")
    return {"folder": str(folder)}


def fitted(run: Run, vram: float) -> Run:
    """The run with its batch halved, and as many more of them a step, until a rehearsal fits into so many GB."""
    if run.base.denoiser.device.type != "cuda":
        raise ValueError("How much memory a batch takes can be told on CUDA alone: give --batch in place of --vram.")
    while True:
        peak = run.rehearse().peak_memory / 2**30
        if peak <= vram:
            return run
        batch = run.settings.batch // 2
        if batch < LEAST_BATCH:
            raise ValueError(
                f"One pair at a time takes {peak:.1f} GB, more than {vram:g}: use --gradient-checkpointing, smaller "
                "studies, or a checkpoint in 8 bits."
            )
        print(f"A batch of {run.settings.batch} takes {peak:.1f} GB: going on with {batch}.", file=sys.stderr)
        run = replace(run, settings=replace(run.settings, batch=batch, accumulate=2 * run.settings.accumulate))


def opened(arguments: argparse.Namespace, folder: Path, settings: Settings) -> Run:
    """Everything that the run reads."""
    from ..encoders.encoder import TasteEncoder
    from ..hosts.comfyui_base import find_comfyui, load_checkpoint, load_parts, use_comfyui
    from ..studies import open_studies
    from .distributed import processes
    from .real_picks import pairs_in
    from .text_files import TextFiles

    studies, made = open_studies(arguments.studies), TasteEncoder.load(arguments.encoder)
    comfyui = arguments.comfyui or find_comfyui()
    processes()  # gives each its own GPU, which ComfyUI then takes
    use_comfyui(comfyui)
    from ..hosts.comfyui_checkpoint import ComfyUICheckpoint
    from ..hosts.comfyui_towers import open_tower

    add_folders({} if arguments.folders is None else json.loads(arguments.folders.read_text()))
    if arguments.text_encoder:
        loaded = load_parts(comfyui, arguments.base, arguments.text_encoder, arguments.text_type, arguments.vae)
    else:
        loaded = load_checkpoint(comfyui, arguments.base)
    keep = TextFiles(folder / TEXTS)
    base = ComfyUICheckpoint(loaded, studies, checkpointing=arguments.gradient_checkpointing, keep=keep)
    encoder = made.open(open_tower(made.tower, arguments.encoder), arguments.cache)
    pairs, held_out = pairs_in(arguments.pairs, settings.most_pairs, folder / PICTURES, solo=arguments.solo)
    return Run(base, encoder, studies, folder, settings, pairs, held_out, arguments.solo, arguments.licence)


def add_folders(folders: Mapping[str, Sequence[str]]) -> None:
    """Model folders beside ComfyUI's own."""
    import folder_paths

    for kind, paths in folders.items():
        for path in paths:
            folder_paths.add_model_folder_path(kind, path)
