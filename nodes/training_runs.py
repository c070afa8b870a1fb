"""Trainings in ComfyUI's user folder: one runs at a time, and somebody's picks that it keeps are erased with them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths
from server import PromptServer

from ..ppd.files import write_file
from ..ppd.training.runs import LATENTS, PICTURES, TEXTS, Training, trainings
from . import folders
from .forgetting import erases

DRY_RUN = "dry run"
"""The folder of a training's rehearsal, in its own."""
FOLDERS_FILE = "folders.json"
"""Of a training: ComfyUI's folders of towers, which another process knows only by that."""
TOWER_FOLDERS = ("clip_vision", "open_clip", "text_encoders", "vlm", "embeddings")
PATIENCE = 20.0
"""Seconds that a training of somebody who is erased has to end well."""
_starting = threading.Lock()


def begin(training: Training, folder: Path, arguments: list[str], person: str | None) -> None:
    """Start a training, or its rehearsal, of a folder with the picks of a `person`, as they were at the first start;
    ComfyUI then drops its models. Nothing is written before all is known that could be refused."""
    with alone(training):
        state = training.state()
        if state.is_active:  # a second press
            return
        is_over = state.state == "finished"  # its file was deleted, or the costs are asked for again
        if not is_over:
            training.check(arguments)
        fresh = None if person is None else fresh_picks(person, folder)
        if is_over:
            training.clear()
        folder.mkdir(parents=True, exist_ok=True)
        known = {name: folder_paths.get_folder_paths(name) for name in TOWER_FOLDERS}
        write_file(folder / FOLDERS_FILE, json.dumps(known).encode())
        if fresh is not None:
            kept = folder / str(person)
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        training.start(arguments, comfyui=Path(folder_paths.__file__).parent)
        drop_models()


def begin_anew(training: Training) -> None:
    """Forget what a half-done training has learned and how it was started; what was made of its pictures stays."""
    with _starting:
        if training.state().is_active:
            raise ValueError(f"The training {training.folder.name!r} is running: stop it first.")
        if training.is_half_done:
            training.forget()


def fresh_picks(person: str, folder: Path) -> Path | None:
    """Somebody's picks of the taste store, exported beside those that are kept for a training; None where it goes on
    with the latter."""
    if (folder / person).exists() and Training(folder).is_half_done:
        return None
    fresh = folder / f"{person} now"
    shutil.rmtree(fresh, ignore_errors=True)
    folders.taste_store().export(person, fresh)
    return fresh


def drop_models() -> None:
    """Have the thread that runs prompts forget, once none runs, its models and what it keeps of the last prompt, which
    holds them in main memory: another process is to load them."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:  # tools run nodes without one
        for flag in ("unload_models", "free_memory"):
            server.prompt_queue.set_flag(flag, True)


@contextmanager
def alone(training: Training) -> Iterator[None]:
    """Within it nobody else starts one; ValueError where another training than this one runs."""
    with _starting:
        busy = running()
        if busy is not None and busy.folder != training.folder:
            raise ValueError(f"The training {name_of(busy)!r} is running: stop it, or wait for its end.")
        yield


def running() -> Training | None:
    """The training that runs."""
    root = folders.trainings_folder()
    every = [*trainings(root), *trainings(root, DRY_RUN)]
    return next((one for one in every if one.state().is_active), None)


def name_of(training: Training) -> str:
    """What a training is called, and a dry run of it."""
    return training.folder.relative_to(folders.trainings_folder()).as_posix()


def newest(folder: Path) -> Training:
    """A training or its dry run, whichever was started last."""
    return max(Training(folder), Training(folder / DRY_RUN), key=lambda one: one.state().started)


@erases
def erase(person: str) -> None:
    """Erase the picks that were kept for trainings, and what was made of their pictures and prompts; a training on them
    is ended first, since Windows erases no file that is read."""
    for path in folders.trainings_folder().glob(f"*/{person}*"):  # also what a kill left of an export
        for run in (path.parent, path.parent / DRY_RUN):
            Training(run).end(PATIENCE)
            for made in (LATENTS, PICTURES, TEXTS):
                if (run / made).exists():
                    shutil.rmtree(run / made)
        shutil.rmtree(path)
