"""HPDv2 (Wu et al. 2023, arXiv 2306.09341) as rows of pairs: its lists train.json and test.json, read entry by entry.

train.json has `prompt`, `file_path` [n] and `human_preference` [n], 1 for the picture that was chosen, of nobody in
particular. test.json has `prompt`, `image_path` [n] and `raw_annotations`, of each person (`user_hash`) the `rank` [n]
of the pictures, the lowest the best. A ranking is a sequence of choices (Plackett 1975): each picture is the best of
itself and those ranked behind it. Pictures lie beside the list, or in the folder `train` or `test` beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeGuard

from .messages import quoted, reason_of
from .pair_files import LONGEST_LINE, Row, Unreadable
from .pictures import PreferenceError

_BLOCK = 1 << 16
_BETWEEN = re.compile(r"[\s,]*")


def rows_of(file: Path) -> Iterator[Row]:
    """The rows that a list says, in TRL's columns; PreferenceError where the file cannot be read on."""
    folder = f"{file.stem}/" if (file.parent / file.stem).is_dir() else ""
    for number, entry in enumerate(_entries(file), 1):
        if not isinstance(entry, dict) or "prompt" not in entry:
            yield Unreadable("is no object with a prompt, as HPDv2's entries are")
        elif "raw_annotations" in entry:
            yield from _rankings(entry, number, folder)
        else:
            yield from _choice(entry, number, folder)


def _choice(entry: dict[str, Any], number: int, folder: str) -> Iterator[Row]:
    names, labels = entry.get("file_path"), entry.get("human_preference")
    if not _are_names(names) or not isinstance(labels, list) or sorted(map(repr, labels)) != _one_of(len(names)):
        yield Unreadable(
            "expected file_path, a list of pictures, and human_preference, a 1 for one and 0 for the others"
        )
        return
    ranks = [1 - label for label in labels]
    yield from _ranked(entry["prompt"], [folder + name for name in names], ranks, str(number), None)


def _rankings(entry: dict[str, Any], number: int, folder: str) -> Iterator[Row]:
    names, rankings = entry.get("image_path"), entry["raw_annotations"]
    if not _are_names(names) or not isinstance(rankings, list):
        yield Unreadable("expected image_path, a list of pictures, and raw_annotations, a list of rankings")
        return
    for place, ranking in enumerate(rankings, 1):
        ranks = ranking.get("rank") if isinstance(ranking, dict) else None
        if not isinstance(ranks, list) or len(ranks) != len(names) or not all(map(_is_number, ranks)):
            yield Unreadable(f"expected rank, {len(names)} numbers, in its raw_annotations")
            continue
        paths = [folder + name for name in names]
        yield from _ranked(entry["prompt"], paths, ranks, f"{number}-{place}", ranking.get("user_hash"))


def _ranked(prompt: Any, paths: Sequence[str], ranks: Sequence[float], name: str, user: Any) -> Iterator[Row]:
    for best, rank in sorted(zip(range(len(paths)), ranks, strict=True), key=lambda one: one[1]):
        behind = [place for place, other in enumerate(ranks) if other > rank]
        for place in behind:
            row = {"prompt": prompt, "chosen": paths[best], "rejected": paths[place], "user": user}
            choice = f"{name}-{best}" if len(behind) > 1 else None
            yield row | {"id": f"{name}-{best}-{place}" if len(paths) > 2 else name, "choice": choice}


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(name, str) for name in value)


def _one_of(count: int) -> list[str]:
    return ["0"] * (count - 1) + ["1"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _entries(file: Path) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as text:
            yield from _entries_in(text, file)
    except OSError as error:
        raise PreferenceError(f"{quoted(file.name)} cannot be read ({reason_of(error)}).") from error


def _entries_in(text: TextIO, file: Path) -> Iterator[Any]:
    """Entries of a list of JSON, of which no more than one and a block are held."""
    decode = json.JSONDecoder().raw_decode
    waiting = text.read(_BLOCK).lstrip()
    if not waiting.startswith("["):
        raise PreferenceError(f"{quoted(file.name)} is no list of JSON: expected HPDv2's train.json or test.json.")
    waiting = waiting[1:]
    while True:
        at = 0
        while (at := _after(waiting, at)) < len(waiting):
            if waiting[at] == "]":
                return
            try:
                entry, at = decode(waiting, at)
            except (ValueError, RecursionError):  # mostly the end of the block
                break
            yield entry
        waiting = waiting[at:]
        more = text.read(max(_BLOCK, len(waiting)))
        if not more or len(waiting) > LONGEST_LINE:
            raise PreferenceError(f"{quoted(file.name)} is damaged JSON: download it again.")
        waiting += more


def _after(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at
