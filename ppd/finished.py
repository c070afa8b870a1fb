"""Finished pictures in a folder: which there are, the newest first, and what each was asked to be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .files import Stamp, stamp
from .graph_prompts import prompt_of_graph, prompt_of_parameters
from .metadata import PARAMETERS, PROMPT, texts_of
from .pictures import ENDINGS

_prompts: dict[Path, tuple[Stamp, str]] = {}


@dataclass(frozen=True, order=True)
class Finished:
    """A picture's file: its modification time in nanoseconds, its path inside the folder with "/", its size in bytes.
    In order the oldest comes first."""

    modified: int
    name: str
    size: int


def finished_pictures(root: Path, below: str = "") -> list[Finished]:
    """All pictures of a folder, or of the one at a path `below` it, and of the folders in that, the newest first;
    hidden ones and links are left out, and folders that cannot be read."""
    return sorted(_below(str(root / below), f"{below}/" if below else ""), reverse=True)


def finished_picture(path: Path, name: str) -> Finished:
    """The picture of a file under its path inside the folder; OSError where it is gone."""
    size, modified = stamp(path)
    return Finished(modified, name, size)


def prompt_of(path: Path) -> str:
    """The prompt that a picture's file tells, "" where it tells none; remembered by path, size and modification time.

    A1111's lines go first where a file has both: they are what was asked for, the graph may have drawn words by lot.
    """
    now = stamp(path)
    known = _prompts.get(path)
    if known is None or known[0] != now:
        texts = texts_of(path)
        prompt = prompt_of_parameters(texts.get(PARAMETERS, ""))
        prompt = prompt or prompt_of_graph(texts.get(PROMPT, ""), path.name)
        known = _prompts[path] = (now, prompt)
    return known[1]


def forget_prompts() -> None:
    """Drop the prompts that are remembered."""
    _prompts.clear()


def _below(folder: str, prefix: str) -> Iterator[Finished]:
    found, deeper = [], []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.isprintable():  # no browser could ask for the latter
                continue
            if entry.is_dir(follow_symlinks=False):
                deeper.append(entry)
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # gone meanwhile
                    status = entry.stat(follow_symlinks=False)
                    found.append(Finished(status.st_mtime_ns, prefix + entry.name, status.st_size))
    yield from found
    for one in deeper:
        yield from _below(one.path, f"{prefix}{one.name}/")
