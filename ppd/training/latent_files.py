"""Latents of many pictures on disk: encoded once, by every process of a machine its share, and read row by row.

A process appends rows in half precision to `<size>-<rank>.f16`, and after them the pictures' digests to the .txt of
that name, so that a kill loses the batch under way alone; the next start cuts what it left. Where machines share the
folder, each encodes all pictures nevertheless, and rows that are there twice are read once.
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
from ..pictures import Picture, PreferenceError
from .distributed import gathered, own_share, processes
from .rows import Stacked

BATCH = 32
DIGEST = 64
"""Letters of a SHA-256."""
Encode = Callable[[Sequence[Picture]], Tensor]


def encoded(
    pictures: Sequence[Picture], encode: Encode, folder: Path, *, broken: dict[str, PreferenceError] | None = None
) -> tuple[Stacked, np.ndarray]:
    """Latents of `pictures`, and the row of each [n]; `encode` makes those that `folder` does not hold yet.

    A picture that cannot be decoded raises, or with `broken` has row -1 and its error there by digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors: dict[str, PreferenceError] = {}
    shape = _shape(pictures, encode, errors)
    parts: tuple[Tensor, ...] = ()
    row_of: dict[str, int] = {}
    if shape is not None:
        size = "x".join(map(str, shape))
        errors = _fill(folder, size, 2 * prod(shape), pictures, encode)
        row_of = {digest: row for row, digest in enumerate(_digests(folder, size)) if digest not in errors}
        parts = tuple(_rows(path, shape) for path in _files(folder, size) if path.stat().st_size)
    if errors and broken is None:
        raise next(iter(errors.values()))
    if broken is not None:
        broken.update(errors)
    return Stacked(parts), np.array([row_of.get(picture.digest, -1) for picture in pictures])


def _shape(pictures: Sequence[Picture], encode: Encode, broken: dict[str, PreferenceError]) -> tuple[int, ...] | None:
    """Of the latent of the first picture that decodes; those before it are `broken`."""
    for picture in pictures:
        try:
            return tuple(encode([picture]).shape[1:])
        except PreferenceError as error:
            broken[picture.digest] = error
    return None


def _fill(
    folder: Path, size: str, row_bytes: int, pictures: Sequence[Picture], encode: Encode
) -> dict[str, PreferenceError]:
    """Encode what is missing, each process its share, and tell what cannot be decoded."""
    mine, is_own = processes(), own_share()
    if mine.is_local_main_process:
        for path in folder.glob(f"{size}-*.f16"):
            _cut(path, row_bytes)
    mine.wait_for_everyone()
    held = set(_digests(folder, size))
    mine.wait_for_everyone()
    missing = {picture.digest: picture for picture in pictures if is_own(picture.digest)}
    wanted = [picture for digest, picture in missing.items() if digest not in held]
    broken = _append(folder / f"{size}-{mine.process_index}.f16", wanted, encode)
    return dict(gathered(list(broken.items())))  # when all have written theirs


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


def _append(path: Path, pictures: Sequence[Picture], encode: Encode) -> dict[str, PreferenceError]:
    broken: dict[str, PreferenceError] = {}
    with path.open("ab") as rows, path.with_suffix(".txt").open("a") as names:
        for start in tqdm(range(0, len(pictures), BATCH), desc="encoding", mininterval=2.0, disable=not pictures):
            for some, latents in _decodable(pictures[start : start + BATCH], encode, broken):
                rows.write(latents.half().contiguous().numpy().tobytes())
                rows.flush()
                names.write("".join(f"{picture.digest}\n" for picture in some))
                names.flush()
    return broken


def _decodable(
    pictures: Sequence[Picture], encode: Encode, broken: dict[str, PreferenceError]
) -> list[tuple[Sequence[Picture], Tensor]]:
    """Pictures and their latents: together, or one at a time where one of them is broken."""
    try:
        return [(pictures, encode(pictures))]
    except PreferenceError as error:
        if len(pictures) == 1:
            broken[pictures[0].digest] = error
            return []
    return [found for picture in pictures for found in _decodable([picture], encode, broken)]
