"""`python -m ppd train adapter`: a user adapter for an own checkpoint, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..limits import parsed
from ..messages import quoted
from .control import Stopped
from .objective import Objective
from .run import Run, Settings

STOP = "STOP"
NUMBERS = ("distillation_steps", "steps", "batch", "accumulate", "rank", "seed")
LEAST_BATCH = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    base = parser.add_argument_group("the checkpoint")
    base.add_argument("--base", type=Path, help="checkpoint file, or diffusion model with --text-encoder and --vae")
    base.add_argument("--text-encoder", type=Path, nargs="+", default=[], help="of a diffusion model: its files")
    base.add_argument("--text-type", default="stable_diffusion", help="what Load CLIP calls its type: qwen_image, flux")
    base.add_argument("--vae", type=Path, help="of a diffusion model")
    base.add_argument("--comfyui", type=Path, help="ComfyUI's folder (default: COMFYUI_PATH, or the one around us)")
    base.add_argument("--folders", type=Path, help="JSON of more model folders by kind, such as clip_vision")

    data = parser.add_argument_group("what it learns from")
    data.add_argument("--studies", type=Path, help="folder that Paint Studies made with this checkpoint")
    data.add_argument("--encoder", type=Path, help="folder of the taste encoder that was made of them")
    data.add_argument("--pairs", type=Path, nargs="+", default=[], help="preference sets of real people, beside them")
    data.add_argument("--solo", action="store_true", help="for the one person of --pairs: half of each batch is theirs")
    data.add_argument("--cache", type=Path, help="folder that keeps what the tower saw")

    parser.add_argument("--out", type=Path, required=True, help="the file: models/user_adapters/<name>.safetensors")
    parser.add_argument("--work", type=Path, help="folder of the run (default: <out>.training)")
    parser.add_argument("--config", type=Path, help="JSON file with any of the settings below, by their names")
    parser.add_argument("--dry-run", action="store_true", help="check everything, take two steps, say what it costs")
    parser.add_argument("--stop", action="store_true", help="ask the run in --work to stop after its step")
    parser.add_argument("--vram", type=float, help="GB that may be used: the batch is halved until it fits")

    how = parser.add_argument_group("settings")
    for number in NUMBERS:
        default = getattr(Settings(), number)
        how.add_argument(f"--{number.replace('_', '-')}", type=int, help=f"(default: {default})")
    how.add_argument("--learning-rate", type=float, help=f"(default: {Settings().learning_rate:g})")
    how.add_argument("--end-percent", type=float, help=f"of the schedule (default: {Settings().end_percent:g})")
    how.add_argument("--kind", choices=["low_rank", "cross_attention"], help="(default: the family's own)")
    how.add_argument("--gradient-checkpointing", action="store_true", help="a third slower, with far less memory")


def command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, rehearse or stop; figures for --json."""
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"Expected a .safetensors file as --out, got {arguments.out.name}: let it end so.")
    folder = arguments.work or arguments.out.with_suffix(".training")
    if arguments.stop:
        return stop(folder)
    missing = [name for name in ("base", "studies", "encoder") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"An adapter needs {' and '.join(f'--{name}' for name in missing)}.")
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


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of --config, and over them those of the command line."""
    said = {} if arguments.config is None else parsed(arguments.config.name, arguments.config.read_bytes())
    if not isinstance(said, dict):
        raise ValueError(f'{arguments.config.name} holds no names and values: write {{"steps": 400}}, for example.')
    objective = checked(Objective, said.pop("objective", {}), "objective")
    settings = checked(Settings, {**said, "objective": Objective(**objective)}, "settings")
    given = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    chosen = Settings(**{**settings, **{name: value for name, value in given.items() if value is not None}})
    for name in NUMBERS:
        least = 0 if name in ("seed", "steps", "distillation_steps") else 1
        if getattr(chosen, name) < least:
            raise ValueError(f"Expected {name} of at least {least}, got {getattr(chosen, name)}.")
    if not 0 < chosen.end_percent <= 1 or not 0 < chosen.learning_rate < 1:
        raise ValueError(
            "Expected end_percent above 0 and up to 1 and learning_rate between 0 and 1, got "
            f"{chosen.end_percent:g} and {chosen.learning_rate:g}."
        )
    return chosen


def checked(kind: type, said: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Names and values that a dataclass takes."""
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ValueError(f"There is no {quoted(unknown[0])} among the {what}: use {', '.join(known)}.")
    return dict(said)


def fitted(run: Run, vram: float) -> Run:
    """The run with its batch halved, and as many more of them a step, until a rehearsal fits into so many GB."""
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
    from ..pairs import read_pairs
    from ..studies import open_studies
    from .real_picks import people_in

    studies, made = open_studies(arguments.studies), TasteEncoder.load(arguments.encoder)
    comfyui = arguments.comfyui or find_comfyui()
    use_comfyui(comfyui)
    from ..hosts.comfyui_checkpoint import ComfyUICheckpoint
    from ..hosts.comfyui_towers import open_tower

    add_folders({} if arguments.folders is None else json.loads(arguments.folders.read_text()))
    if arguments.text_encoder:
        loaded = load_parts(comfyui, arguments.base, arguments.text_encoder, arguments.text_type, arguments.vae)
    else:
        loaded = load_checkpoint(comfyui, arguments.base)
    base = ComfyUICheckpoint(loaded, studies, checkpointing=arguments.gradient_checkpointing)
    encoder = made.open(open_tower(made.tower, arguments.encoder), arguments.cache)
    pairs, judges = [], []
    for path in arguments.pairs:
        taught, apart = (list(read_pairs(path)), []) if arguments.solo else people_in(path)
        pairs += taught
        judges += apart
    return Run(base, encoder, studies, folder, settings, pairs, judges, arguments.solo)


def add_folders(folders: Mapping[str, Sequence[str]]) -> None:
    """Model folders beside ComfyUI's own."""
    import folder_paths

    for kind, paths in folders.items():
        for path in paths:
            folder_paths.add_model_folder_path(kind, path)
