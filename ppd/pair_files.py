"""The files of a preference set and their rows, as far as they can be read: what a row means is for `pairs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from .messages import quoted, reason_of
from .pictures import PreferenceError

PAIRS_FILE = "pairs.jsonl"
HPDV2_FILES = ("train.json", "test.json")
DIFFUSIONDB_FILES = ("metadata.parquet", "metadata-large.parquet")
"""What DiffusionDB tells of its pictures, which ratings of them lie beside: no pairs."""
ENDINGS = (".jsonl", ".parquet", ".json")
TRL_COLUMNS = ("prompt", "chosen", "rejected")
PICK_A_PIC_COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
LONGEST_LINE = 1 << 24
"""Letters of one line of JSON."""
_TRL_OPTIONAL = ("id", "user", "created", "tie", "choice", "probability")
_PICK_A_PIC_OPTIONAL = ("ranking_id", "user_id", "created_at", "has_label", "are_different")
_COLUMNS = {*TRL_COLUMNS, *_TRL_OPTIONAL, *PICK_A_PIC_COLUMNS, *_PICK_A_PIC_OPTIONAL}


@dataclass(frozen=True)
class Unreadable:
    """What stands where a row, or one value of it, cannot be read: what was got instead, in a few words."""

    got: str


Row = dict[str, Any] | Unreadable


def files_of(path: Path) -> list[Path]:
    """The files with a preference set's rows, in order; nothing that a link leads out of its folder for."""
    if path.is_dir():
        listed = path / PAIRS_FILE
        shards = sorted(file for file in path.glob("*.parquet") if file.name not in DIFFUSIONDB_FILES)
        lists = [path / name for name in HPDV2_FILES if (path / name).is_file()]
        files = [listed] if listed.is_file() else shards or lists
        if not files:
            raise PreferenceError(f"No preference set in folder {path}: expected {PAIRS_FILE} or .parquet files in it.")
        for file in files:
            if not file.resolve().is_relative_to(path.resolve()):
                raise PreferenceError(
                    f"{quoted(file.name)} is a link out of the preference set's folder: put the file itself there."
                )
        return files
    if path.suffix not in ENDINGS:
        raise PreferenceError(f"Expected a folder, a .jsonl, a .parquet or HPDv2's .json file, got {path}.")
    if not path.is_file():
        raise PreferenceError(f"There is no preference set at {path}: expected a folder, a .jsonl or a .parquet file.")
    return [path]


def rows_of(file: Path, paths_only: bool = False) -> Iterator[Row]:
    """The rows of a file, one at a time; PreferenceError where the file itself cannot be read on.

    `paths_only` reads of parquet nothing but the paths of pictures that lie beside it.
    """
    return _jsonl_rows(file) if file.suffix == ".jsonl" else _parquet_rows(file, paths_only)


def path_inside(root: Path, value: str) -> Path:
    """`value` as a resolved path below the resolved folder `root`; anything that leads out is refused unread."""
    text = value.replace("\\", "/")
    if text and "\0" not in text and not PureWindowsPath(text).drive:
        try:
            path = (root / text).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links; letters that no file name has
            path = root
        if path != root and path.is_relative_to(root):
            return path
    raise PreferenceError(f"expected the path of a picture inside the preference set's folder, got {quoted(value)}.")


def _jsonl_rows(file: Path) -> Iterator[Row]:
    try:
        # What is no UTF-8 concerns its own row: it comes as letters that `pairs` finds in what it uses
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            while line := lines.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    raise PreferenceError(
                        f"{quoted(file.name)} has a line of more than {LONGEST_LINE:,} letters: expected one pair a "
                        "line, with the paths of its pictures."
                    )
                if line.strip():
                    yield _json_row(line)
    except OSError as error:
        raise PreferenceError(f"{quoted(file.name)} cannot be read ({reason_of(error)}).") from error


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        if any("\udc80" <= letter <= "\udcff" for letter in line[:1000]):
            return Unreadable("is not UTF-8 text: save the file as UTF-8 JSON lines")
        return Unreadable(f"is not a line of JSON ({error.msg})")
    except RecursionError:
        return Unreadable("is not a line of JSON as pairs are (nested too deeply)")
    except ValueError:
        return Unreadable("is not a line of JSON as pairs are (a number of too many digits)")
    return row if isinstance(row, dict) else Unreadable("is not a JSON object with prompt, chosen, rejected")


@contextmanager
def parquet_reading(file: Path) -> Iterator[None]:
    """Whatever pyarrow raises over a damaged file, in our words."""
    try:
        yield
    except Exception as error:
        raise PreferenceError(
            f"{quoted(file.name)} is not a readable parquet file ({reason_of(error)}): download or write it again."
        ) from error


def open_parquet(file: Path) -> Any:
    """A parquet file, of which only the footer has been read."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise PreferenceError(
            f"Reading {quoted(file.name)} needs pyarrow: install it with `pip install pyarrow`."
        ) from error
    with parquet_reading(file):
        # Read ahead, it would hold all that has been read until the end: pictures of gigabytes
        return pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


def _parquet_rows(file: Path, paths_only: bool) -> Iterator[Row]:
    table = open_parquet(file)
    with table:
        with parquet_reading(file):
            fields = [field for field in table.schema_arrow if field.name in _COLUMNS]
            if paths_only:
                fields = [field for field in fields if field.name in TRL_COLUMNS[1:] and _is_text(field.type)]
                if not fields:
                    return
            batches = table.iter_batches(batch_size=32, columns=[field.name for field in fields])
        while True:
            with parquet_reading(file):
                batch = next(batches, None)
                if batch is None:
                    return
                names, cells = batch.schema.names, [map(_cell, column) for column in batch.columns]
                rows = [dict(zip(names, map(next, cells), strict=True)) for _ in range(batch.num_rows)]
            yield from rows


def _is_text(kind: Any) -> bool:
    """Whether cells of a parquet column are texts, or lists of them."""
    return "string" in str(getattr(kind, "value_type", kind))


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Unreadable("a text that is not UTF-8")
    except (ValueError, OverflowError):  # times beyond the calendar
        return Unreadable("a value that is out of range")
