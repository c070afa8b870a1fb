"""AI-Horde-Ratings as rows of pairs: of two pictures of one prompt that a person rated differently, the better one.

The set is a parquet file with a row per rating: `id` of a picture of DiffusionDB, `rating` 0 to 10, `user_id`, `kudos`,
and columns that are not read. DiffusionDB lies in the same folder: `metadata.parquet` (`image_name`, `prompt`,
`part_id`), or that of its large set, and the pictures in `part-000001/` and so on, there or in `images/`.

Ratings are joined as numbers, 24 bytes each; names and prompts are held as text for pictures that are in a pair.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .messages import quoted
from .pair_files import DIFFUSIONDB_FILES, Row, open_parquet, parquet_reading
from .pictures import PreferenceError

COLUMNS = ("id", "rating", "user_id")
ANONYMOUS = -50
"""Kudos of raters without an account, who are many people under one id."""
_METADATA_COLUMNS = ("image_name", "prompt", "part_id")
_NUMBERS = ("rating", "part_id")
_PICTURE_FOLDERS = ("images", "", "diffusiondb-large-part-1", "diffusiondb-large-part-2")
_BATCH = 1 << 14
_RATING = np.dtype([("user", "<u8"), ("picture", "<u8"), ("rating", "<f4"), ("row", "<u4")])
_PICTURE = np.dtype([("picture", "<u8"), ("prompt", "<u8")])
Array = np.ndarray[Any, Any]


def are_in(file: Path) -> bool:
    """Whether a parquet file has the columns of ratings."""
    try:
        with open_parquet(file) as table, parquet_reading(file):
            names = set(table.schema_arrow.names)
    except PreferenceError:  # whoever reads it says so
        return False
    return names.issuperset(COLUMNS) and not names & {"prompt", "caption"}


def metadata_beside(file: Path) -> list[Path]:
    """DiffusionDB's own tables beside a file of ratings."""
    return [path for name in DIFFUSIONDB_FILES if (path := file.with_name(name)).is_file()]


def rows_of(file: Path, reading: Callable[[], object] = lambda: None) -> Iterator[Row]:
    """The pairs that ratings say, in TRL's columns, person by person; PreferenceError where a file cannot be read.

    Of two ratings of a picture by a person the later one stands. Anonymous ratings, pictures that no table names, and
    equal ratings are passed over. `reading()` is called now and then before the first row, and may raise to cancel.
    """
    tables = metadata_beside(file)
    if not tables:
        raise PreferenceError(
            f"{quoted(file.name)} holds ratings of DiffusionDB's pictures, and no {DIFFUSIONDB_FILES[0]} lies beside "
            "it: put that there, with the folders of pictures."
        )
    ratings, users = _ratings(file, reading)
    ratings, prompts = _within_prompts(ratings, _prompts(tables, np.unique(ratings["picture"]), reading))
    names = _names(tables, np.unique(ratings["picture"]), reading)
    bounds = [*np.flatnonzero(_starts(prompts, ratings["user"])), len(ratings)]
    for start, end in pairwise(bounds):
        rated = ratings[start:end]
        user = users[int(rated["user"][0])]
        for one, other in combinations(rated, 2):
            if one["rating"] != other["rating"]:
                better, worse = (one, other) if one["rating"] > other["rating"] else (other, one)
                (prompt, chosen), (_, rejected) = (names[int(each["picture"])] for each in (better, worse))
                name = f"{user[:16]}-{Path(chosen).stem}-{Path(rejected).stem}"
                yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "user": user, "id": name}


def _ratings(file: Path, reading: Callable[[], object]) -> tuple[Array, dict[int, str]]:
    """Everybody's ratings, and what the numbers of people stand for."""
    users: dict[int, str] = {}
    parts, row = [np.empty(0, _RATING)], 0
    for batch in _batches(file, (*COLUMNS, "kudos"), reading):
        kudos = batch.get("kudos", [None] * len(batch["id"]))
        for name in batch["user_id"]:
            users.setdefault(_key(name), str(name))
        part = np.empty(len(kudos), _RATING)
        part["user"] = [_key(name) for name in batch["user_id"]]
        part["picture"] = [_key(name) for name in batch["id"]]
        part["rating"] = [np.nan if value is None else value for value in batch["rating"]]
        part["row"] = np.arange(row, row + len(part))
        row += len(part)
        known = [None not in whose for whose in zip(batch["id"], batch["user_id"], strict=True)]
        parts.append(part[~np.isnan(part["rating"]) & np.array(known, bool) & [one != ANONYMOUS for one in kudos]])
    return np.concatenate(parts), users


def _prompts(tables: list[Path], rated: Array, reading: Callable[[], object]) -> Array:
    """The prompt of each rated picture that a table names, by the picture's number."""
    parts = [np.empty(0, _PICTURE)]
    for table in tables:
        for batch in _batches(table, _METADATA_COLUMNS, reading):
            part = np.empty(len(batch["prompt"]), _PICTURE)
            part["picture"] = [_key(_stem(name)) for name in batch["image_name"]]
            part["prompt"] = [_key(prompt) for prompt in batch["prompt"]]
            parts.append(part[np.isin(part["picture"], rated)])
    found = np.concatenate(parts)
    return found[np.unique(found["picture"], return_index=True)[1]]


def _within_prompts(ratings: Array, prompts: Array) -> tuple[Array, Array]:
    """Ratings of people who rated several pictures of a prompt, together and each picture once, and their prompts."""
    ratings = ratings[np.isin(ratings["picture"], prompts["picture"])]
    latest_first = np.lexsort((-ratings["row"].astype(np.int64), ratings["picture"], ratings["user"]))
    ratings = ratings[latest_first]
    ratings = ratings[_starts(ratings["user"], ratings["picture"])]
    whose = prompts["prompt"][np.searchsorted(prompts["picture"], ratings["picture"])]
    order = np.lexsort((ratings["row"], whose, ratings["user"]))
    ratings, whose = ratings[order], whose[order]
    starts = _starts(ratings["user"], whose)
    alone = starts & np.r_[starts[1:], np.ones(min(1, len(starts)), bool)]
    return ratings[~alone], whose[~alone]


def _starts(*columns: Array) -> Array:
    """Where rows differ from the row before: bool [n], the first True."""
    first = np.ones(len(columns[0]), bool)
    first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first


def _names(tables: list[Path], wanted: Array, reading: Callable[[], object]) -> dict[int, tuple[str, str]]:
    """Prompt and path of pictures by their numbers."""
    names: dict[int, tuple[str, str]] = {}
    for table in tables:
        folders = [name for name in _PICTURE_FOLDERS if (table.parent / name).is_dir()]
        placed: dict[int, str] = {}
        for batch in _batches(table, _METADATA_COLUMNS, reading):
            keys = np.array([_key(_stem(name)) for name in batch["image_name"]], np.uint64)
            for row in np.flatnonzero(np.isin(keys, wanted)):
                part = int(batch["part_id"][row] or 0)
                if part not in placed:
                    below = f"part-{part:06d}"
                    placed[part] = next(
                        (f"{one}/{below}" for one in folders if (table.parent / one / below).is_dir()), below
                    )
                path = f"{placed[part]}/{batch['image_name'][row]}".lstrip("/")
                names.setdefault(int(keys[row]), (batch["prompt"][row], path))
    return names


def _batches(file: Path, columns: tuple[str, ...], reading: Callable[[], object]) -> Iterator[dict[str, list[Any]]]:
    with open_parquet(file) as table:
        with parquet_reading(file):
            kinds = {field.name: str(field.type) for field in table.schema_arrow if field.name in columns}
        for name in columns:
            if name not in kinds and name != "kudos":
                raise PreferenceError(f"{quoted(file.name)} lacks {name}: download DiffusionDB's own table.")
            if name in _NUMBERS and not re.fullmatch(r"u?int\d+|float|double|halffloat", kinds[name]):
                raise PreferenceError(f"{quoted(file.name)} has {kinds[name]} as {name}, expected numbers.")
        with parquet_reading(file):
            batches = table.iter_batches(batch_size=_BATCH, columns=list(kinds))
        while True:
            reading()
            with parquet_reading(file):
                batch = next(batches, None)
                found = None if batch is None else batch.to_pydict()
            if found is None:
                return
            yield found


def _stem(name: Any) -> str:
    return str(name).rpartition(".")[0]


def _key(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).digest()[:8], "little")
