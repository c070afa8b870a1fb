"""Latents of many pictures on disk: encoded once, by every process its share, and read row by row.

A process appends rows in half precision to `<rank>.f16`, and after them the pictures' digests to `<rank>.txt`, so that
a kill at any moment loses the batch under way alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..pictures import Picture
from .distributed import processes
from .rows import Stacked

BATCH = 32
DIGEST = 64
"""Letters of a SHA-256."""


def encoded(
    pictures: Sequence[Picture], encode: Callable[[Sequence[Picture]], Tensor], folder: Path
) -> tuple[Stacked, np.ndarray]:
    """Latents of `pictures`, and the row of each [n]; `encode` makes those that `folder` does not hold yet.

    ValueError where the folder holds latents of another size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = processes()
    held = set(_digests(folder))
    share = [p for p in pictures if int(p.digest[:8], 16) % mine.num_processes == mine.process_index]
    missing = {picture.digest: picture for picture in share if picture.digest not in held}
    _append(folder / f"{mine.process_index}.f16", list(missing.values()), encode)
    mine.wait_for_everyone()
    shape = tuple(encode(pictures[:1]).shape[1:])
    row_of = {digest: row for row, digest in enumerate(_digests(folder))}
    parts = tuple(_rows(path, shape) for path in _files(folder) if path.stat().st_size)
    return Stacked(parts), np.array([row_of[picture.digest] for picture in pictures])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.f16"), key=lambda path: int(path.stem))


def _digests(folder: Path) -> list[str]:
    """Of all rows, file after file; a line that a kill cut is none."""
    return [line for path in _files(folder) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    names = path.with_suffix(".txt")
    return [line for line in names.read_text().split("\n") if len(line) == DIGEST] if names.exists() else []


def _rows(path: Path, shape: tuple[int, ...]) -> Tensor:
    count, size = len(_lines(path)), path.stat().st_size
    if size != count * 2 * int(np.prod(shape)):
        raise ValueError(f"{path} holds latents of another size than {list(shape)}: delete that folder.")
    return torch.from_numpy(np.memmap(path, np.float16, "c", shape=(count, *shape)))  # "c": torch wants it writable


def _append(path: Path, pictures: Sequence[Picture], encode: Callable[[Sequence[Picture]], Tensor]) -> None:
    done = _lines(path)
    path.with_suffix(".txt").write_text("".join(f"{digest}\n" for digest in done))
    with path.open("ab") as rows, path.with_suffix(".txt").open("a") as names:
        for start in tqdm(range(0, len(pictures), BATCH), desc="encoding", mininterval=2.0, disable=not pictures):
            some = pictures[start : start + BATCH]
            values = encode(some).half().contiguous().numpy()
            rows.truncate(len(done) * values[0].nbytes)  # what a kill left of rows without digests
            rows.write(values.tobytes())
            rows.flush()
            names.write("".join(f"{picture.digest}\n" for picture in some))
            names.flush()
            done += [picture.digest for picture in some]
