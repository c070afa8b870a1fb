"""What tells whether a preference set has changed, in little time however large it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import horde_ratings
from .files import Stamp
from .messages import quoted, reason_of
from .pair_files import TRL_COLUMNS, Unreadable, files_of, path_inside
from .pairs import rows_in
from .pictures import Picture, PreferenceError, picture_stamp

LARGE = 1 << 24
"""Bytes of a file of pairs: a larger one is told by its size, its time and its ends; hashing it takes too long."""
_END = 1 << 20
MANY = 2000
"""Pictures beside a file: of more, each is told by its size and its time."""

_listings: dict[Path, tuple[Stamp, list[Path]]] = {}


def preference_set_digest(path: Path | str) -> str:
    """sha256 over the set's rows and its pictures' contents, for caching by content.

    Contents are remembered by path, size and modification time, so that a second call only asks the file system. A
    LARGE file, and one of ratings beside DiffusionDB, counts by these and its two ends, among them parquet's index, and
    the pictures beside it do not: it takes milliseconds, whatever the size. Bad rows and pictures count by what is
    there of them: reading reports them.
    """
    total = hashlib.sha256()
    for file in files_of(Path(path)):
        stamp, tables = picture_stamp(file), horde_ratings.metadata_beside(file)
        if stamp[0] > LARGE or tables:
            stamps = [stamp, *map(picture_stamp, tables)]
            total.update(repr(stamps).encode() + _ends(file))
            continue
        total.update(Picture(file).digest.encode())
        known = _listings.get(file)
        if known is None or known[0] != stamp:
            known = _listings[file] = (stamp, list(dict.fromkeys(_picture_paths(file))))
        for picture in known[1]:
            try:
                by_content = len(known[1]) <= MANY
                total.update((Picture(picture).digest if by_content else repr(picture_stamp(picture))).encode())
            except PreferenceError:
                total.update(b"missing")
    return total.hexdigest()


def _ends(file: Path) -> bytes:
    try:
        with file.open("rb") as data:
            head = data.read(_END)
            data.seek(max(0, os.path.getsize(file) - _END))
            return head + data.read()
    except OSError as error:
        raise PreferenceError(f"{quoted(file.name)} cannot be read ({reason_of(error)}).") from error


def _picture_paths(file: Path) -> Iterator[Path]:
    """Paths of all pictures that a pairs file names; pictures stored in the file itself have none."""
    root = file.parent.resolve()
    with suppress(PreferenceError):
        for row in rows_in(file, paths_only=True):
            for role in TRL_COLUMNS[1:]:
                value = None if isinstance(row, Unreadable) else row.get(role)
                value = value[0] if isinstance(value, list) and len(value) == 1 else value
                if isinstance(value, str):
                    with suppress(PreferenceError):
                        yield path_inside(root, value)
