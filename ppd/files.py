"""Files written in one step, so that a reader sees the old one or the new one; digests; safetensors with metadata.

A safetensors file is judged when it is read: its format, what must be in it, how much, in which dtypes, and that its
values are numbers. What its shapes must be, a module on the meta device knows (`check_shapes`).
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .messages import quoted, reason_of, shortened

Built = TypeVar("Built")
Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds: while they stay, a file is taken for unchanged."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""safetensors' names of the dtypes that weights come in."""
LARGEST = torch.finfo(torch.float16).max
"""Size of a weight: what half precision holds, in which most models run."""
MOST_NUMBERS = 1 << 30
"""In one file: the largest IP-Adapters have half of it."""
LONGEST_HEADER = 1 << 23
"""Bytes before a file's tensors, its metadata among them."""
TRIES, SECONDS_BETWEEN_TRIES = 20, 0.05
"""Of replacing a file that someone reads."""

_digests: dict[Path, tuple[Stamp, str]] = {}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end, or is gone where the writing failed."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield temporary
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(new: Path, old: Path) -> None:
    """Windows replaces no file while someone reads it: then it is tried for a second."""
    for _ in range(TRIES):
        try:
            return os.replace(new, old)
        except PermissionError:
            time.sleep(SECONDS_BETWEEN_TRIES)
    os.replace(new, old)


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file in one step, that is on the disk afterwards."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if os.name == "posix":  # Windows cannot open a folder, and syncs names with the file
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def stamp(path: Path) -> Stamp:
    """What tells whether a file has changed."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def file_digest(path: Path) -> str:
    """sha256 of a file, remembered by path, size and modification time."""
    now = stamp(path)
    known = _digests.get(path)
    if known is None or known[0] != now:
        total = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
        known = _digests[path] = (now, total.hexdigest())
    return known[1]


def write_tensors(path: Path, kind: str, version: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file of format `kind` in one step: a reader sees the old file or the new one.

    ValueError where the folder or the drive does not take it.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(ready, metadata={"format": kind, "version": version, **metadata})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be written into {path.parent} ({reason_of(error)}): give yourself the right to write "
            "there, or free some space, and try again."
        ) from error


def read_shapes(path: Path, what: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of a safetensors file's tensors, and its metadata, without reading the tensors."""
    with _opened(path, what) as file:
        return {name: tuple(part.get_shape()) for name, part in _parts(path, file, what).items()}, dict(
            file.metadata() or {}
        )


def read_tensors(
    path: Path,
    kind: str | None,
    version: str,
    tensors: tuple[str, ...],
    metadata: tuple[str, ...],
    what: str,
    *,
    prefix: str = "",
    dtypes: Collection[str] = FLOATS,
    most: int = MOST_NUMBERS,
    largest: float = LARGEST,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; ValueError unless its format is `kind`, the named ones are there, and
    all tensors whose names begin with `prefix`, which alone are read, are of `dtypes`, no more than `most` numbers in
    all, and none of these is beyond `largest`, or no number.

    With `kind` None the format is not asked for: what a file holds says what it is.
    """
    with _opened(path, what) as file:
        texts = dict(file.metadata() or {})
        _check_kind(path, texts, kind, version, what)
        parts = {name: part for name, part in _parts(path, file, what).items() if name.startswith(prefix)}
        missing = [name for name in tensors if name not in parts] + [name for name in metadata if not texts.get(name)]
        if missing:
            raise ValueError(
                f"{path.name} is an incomplete {what}, it lacks {', '.join(missing)}: make the file again."
            )
        for name, part in parts.items():
            if part.get_dtype() not in dtypes:
                raise ValueError(
                    f"{path.name} is a damaged {what}: expected {', '.join(sorted(dtypes))} as {quoted(name)}, got "
                    f"{part.get_dtype()}; download it or make it again."
                )
        count = sum(math.prod(part.get_shape()) for part in parts.values())
        if count > most:
            raise ValueError(f"{path.name} is no {what}: expected at most {most:,} numbers in it, got {count:,}.")
        found = {name: file.get_tensor(name) for name in parts}
    for name, tensor in found.items():
        if not (size := _size(tensor)) <= largest:
            raise ValueError(
                f"{path.name} is a damaged {what}: expected numbers of at most {largest:g} as {quoted(name)}, got "
                f"{size:g}; download it or make it again."
            )
    return found, texts


def check_shapes(source: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ValueError unless the tensors of `source` have the names and shapes of a module's state_dict."""
    shapes, got = ({name: list(tensor.shape) for name, tensor in state.items()} for state in (expected, found))
    wrong = min((name for name in shapes.keys() | got.keys() if shapes.get(name) != got.get(name)), default=None)
    if wrong is not None:
        raise ValueError(
            f"{source} does not hold the weights that it says ({quoted(wrong)}: expected {shapes.get(wrong)}, got "
            f"{shortened(str(got.get(wrong)))}): download it or make it again."
        )


def on_meta(source: str, build: Callable[[], Built]) -> Built:
    """What a file's configuration makes, on the meta device: a module's names and shapes at no cost of memory."""
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # whatever a library raises over what it cannot build
        raise ValueError(
            f"{source} has a configuration that nothing can be built of ({reason_of(error)}): download it or make it "
            "again."
        ) from error


def _parts(path: Path, file: Any, what: str) -> dict[str, Any]:
    """What a file tells of its tensors by name; none of them may be without numbers."""
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping, keys() only)
    empty = next((name for name, part in parts.items() if 0 in part.get_shape()), None)
    if empty is not None:
        shape = shortened(str(parts[empty].get_shape()))
        raise ValueError(f"{path.name} is a damaged {what}: expected numbers as {quoted(empty)}, got {shape}.")
    return parts


def _check_kind(path: Path, texts: dict[str, str], kind: str | None, version: str, what: str) -> None:
    if kind is not None and texts.get("format") != kind:
        raise ValueError(f"{path.name} is no {what}: expected format {kind!r}, got {quoted(texts.get('format'))}.")
    if kind is not None and texts.get("version") != version:
        raise ValueError(
            f"{path.name} is a {what} of version {quoted(texts.get('version'))}, expected {version!r}: "
            "update this software, or make the file again."
        )


def _size(tensor: Tensor) -> float:
    """The largest value's size; not a number where one is not."""
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return max(-float(low), float(high))


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    """A safetensors file; whatever is wrong with reading it is told in one sentence."""
    if not path.is_file():
        raise ValueError(f"There is no {what} file at {path}: choose another, or put it there.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(
                f"{path.name} is not a readable safetensors file: expected a {what} whose header is of at most "
                f"{LONGEST_HEADER:,} bytes, got {length:,}."
            )
        with safe_open(str(path), framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} is not a readable safetensors file ({reason_of(error)}): expected a {what}."
        ) from error
