"""Latents of many pictures on disk: encoded once, by every process its share, and read row by row.

A process appends rows in half precision to `<size>-<rank>.f16`, and after them the pictures' digests to the .txt of
that name, so that a kill loses the batch under way alone; the next start cuts what it left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..files import write_file
from ..pictures import Picture
from .distributed import processes
from .rows import Stacked

BATCH = 32
DIGEST = 64
"""Letters of a SHA-256."""
Encode = Callable[[Sequence[Picture]], Tensor]


def encoded(pictures: Sequence[Picture], encode: Encode, folder: Path) -> tuple[Stacked, np.ndarray]:
    """Latents of `pictures`, and the row of each [n]; `encode` makes those that `folder` does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    mine, shape = processes(), tuple(encode(pictures[:1]).shape[1:])
    size = "x".join(map(str, shape))
    if mine.is_main_process:
        for path in folder.glob(f"{size}-*.f16"):
            _cut(path, 2 * prod(shape))
    mine.wait_for_everyone()
    held = set(_digests(folder, size))
    mine.wait_for_everyone()
    share = [p for p in pictures if int(p.digest[:8], 16) % mine.num_processes == mine.process_index]
    missing = {picture.digest: picture for picture in share if picture.digest not in held}
    _append(folder / f"{size}-{mine.process_index}.f16", list(missing.values()), encode)
    mine.wait_for_everyone()
    row_of = {digest: row for row, digest in enumerate(_digests(folder, size))}
    parts = tuple(_rows(path, shape) for path in _files(folder, size) if path.stat().st_size)
    return Stacked(parts), np.array([row_of[picture.digest] for picture in pictures])


def _files(folder: Path, size: str) -> list[Path]:
    return sorted(folder.glob(f"{size}-*.f16"), key=lambda path: int(path.stem.rpartition("-")[2]))


def _digests(folder: Path, size: str) -> list[str]:
    """Of all rows, file after file."""
    return [line for path in _files(folder, size) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    names = path.with_suffix(".txt")
    return [line for line in names.read_text().split("\n") if len(line) == DIGEST] if names.exists() else []


def _cut(path: Path, row_bytes: int) -> None:
    """Leave what is whole in both files of a process."""
    whole = _lines(path)[: path.stat().st_size // row_bytes]
    write_file(path.with_suffix(".txt"), "".join(f"{digest}\n" for digest in whole).encode())
    with path.open("rb+") as rows:
        rows.truncate(len(whole) * row_bytes)


def _rows(path: Path, shape: tuple[int, ...]) -> Tensor:
    count = len(_lines(path))
    return torch.from_numpy(np.memmap(path, np.float16, "c", shape=(count, *shape)))  # "c": torch wants it writable


def _append(path: Path, pictures: Sequence[Picture], encode: Encode) -> None:
    with path.open("ab") as rows, path.with_suffix(".txt").open("a") as names:
        for start in tqdm(range(0, len(pictures), BATCH), desc="encoding", mininterval=2.0, disable=not pictures):
            some = pictures[start : start + BATCH]
            rows.write(encode(some).half().contiguous().numpy().tobytes())
            rows.flush()
            names.write("".join(f"{picture.digest}\n" for picture in some))
            names.flush()
