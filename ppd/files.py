"""Files written in one step, so that a reader sees the old one or the new one; digests; safetensors with metadata."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .messages import quoted

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds: while they stay, a file is taken for unchanged."""

_digests: dict[Path, tuple[Stamp, str]] = {}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end, or is gone where the writing failed."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write a safetensors file of format `kind` in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, save(ready, metadata={"format": kind, "version": version, **metadata}))


def read_shapes(path: Path, what: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of a safetensors file's tensors, and its metadata, without reading the tensors."""
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}): expected a {what}.") from error


def read_tensors(
    path: Path, kind: str | None, version: str, tensors: tuple[str, ...], metadata: tuple[str, ...], what: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; ValueError unless its format is `kind` and the named ones are there.

    With `kind` None the format is not asked for: what a file holds says what it is.
    """
    if not path.is_file():
        raise ValueError(f"There is no {what} file at {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping, keys() only)
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}): expected a {what}.") from error
    if kind is not None and texts.get("format") != kind:
        raise ValueError(f"{path.name} is no {what}: expected format {kind!r}, got {quoted(texts.get('format'))}.")
    if kind is not None and texts.get("version") != version:
        raise ValueError(
            f"{path.name} is a {what} of version {quoted(texts.get('version'))}, expected {version!r}: "
            "update this software, or make the file again."
        )
    missing = [name for name in tensors if name not in found] + [name for name in metadata if not texts.get(name)]
    if missing:
        raise ValueError(f"{path.name} is an incomplete {what}, it lacks {', '.join(missing)}: make the file again.")
    return found, texts
