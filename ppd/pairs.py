"""Preference pairs: what one is, how a set of them is read, written, checked and fingerprinted.

A preference set is a folder with `pairs.jsonl` and its pictures, a JSONL or parquet file in TRL's columns (`prompt`,
`chosen`, `rejected`), or parquet in Pick-a-Pic v2's columns; a folder of parquet shards is read in the order of names.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Any

from .files import Stamp, write_file
from .messages import reason_of
from .pictures import Picture, PreferenceError, picture_stamp

log = logging.getLogger(__name__)

PAIRS_FILE = "pairs.jsonl"
TRL_COLUMNS = ("prompt", "chosen", "rejected")
PICK_A_PIC_COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_TRL_OPTIONAL = ("id", "user", "created", "tie")
_PICK_A_PIC_OPTIONAL = ("ranking_id", "user_id", "created_at", "has_label", "are_different")

_listings: dict[Path, tuple[Stamp, list[Path]]] = {}


def counted(number: int, noun: str) -> str:
    """A number of things, as in "1 pair" and "2 pairs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class PreferencePair:
    """Of two pictures of one prompt, the one a person preferred; with `tie` neither, and the order means nothing.

    `weight` says how much the pair still counts, from 0 to 1; files do not hold it.
    """

    prompt: str
    chosen: Picture
    rejected: Picture
    id: str
    user: str | None = None
    created: str | None = None
    tie: bool = False
    weight: float = 1.0

    def check(self) -> None:
        """Raise PreferenceError, naming the pair, unless both pictures decode."""
        for role, picture in (("chosen", self.chosen), ("rejected", self.rejected)):
            try:
                picture.check()
            except PreferenceError as error:
                raise self.error(role, error) from error

    def error(self, role: str, error: PreferenceError) -> PreferenceError:
        """`error` of this pair's `role` picture ("chosen" or "rejected"), as one sentence that names the pair."""
        return PreferenceError(
            f"Pair {self.id!r}, {role}: {error}; restore the picture, remove the pair, or skip bad pairs.", self.id
        )


def read_pairs(
    path: Path | str,
    *,
    skip_bad: bool = False,
    user: str | None = None,
    check_pictures: bool = True,
    skipped: list[PreferenceError] | None = None,
) -> Iterator[PreferencePair]:
    """The pairs of a preference set in the order of its rows, one at a time; `user` keeps one person's only.

    A bad row, or a missing or corrupt picture, raises PreferenceError with the pair's id; with `skip_bad` it is logged,
    appended to `skipped`, and left out. `check_pictures=False` leaves pictures undecoded, for sets too large for that.
    Pick-a-Pic rows without a label or with two equal pictures are no pairs and are passed over.
    """
    files = _files(Path(path))
    return _read(files, skip_bad, user, check_pictures, skipped)


def _read(
    files: list[Path], skip_bad: bool, user: str | None, check: bool, skipped: list[PreferenceError] | None
) -> Iterator[PreferencePair]:
    number = 0
    for file in files:
        root = file.parent.resolve()
        for row in _jsonl_rows(file) if file.suffix == ".jsonl" else _parquet_rows(file):
            number += 1
            try:
                pair = _pair(row, f"row-{number}", root)
                if pair is None or (user is not None and pair.user != user):
                    continue
                if check:
                    pair.check()
            except PreferenceError as error:
                if not skip_bad:
                    raise
                log.warning("Skipped: %s", error)
                if skipped is not None:
                    skipped.append(error)
                continue
            yield pair


def write_pairs(folder: Path | str, pairs: Iterable[PreferencePair]) -> None:
    """Write `images/<digest>.<ext>` and `pairs.jsonl` into `folder`, the latter in one step at the end.

    Pictures are copied byte for byte, each once; pictures already there are kept.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for pair in pairs:
        row: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
        for role, picture in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            try:
                name = f"images/{picture.digest}{picture.extension()}"
                if not (folder / name).is_file() or Picture(folder / name).digest != picture.digest:
                    write_file(folder / name, picture.read())
            except PreferenceError as error:
                raise pair.error(role, error) from error
            row[role] = name
        optional = {"user": pair.user, "created": pair.created, "tie": pair.tie or None}
        row.update({key: value for key, value in optional.items() if value is not None})
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_file(folder / PAIRS_FILE, "".join(lines).encode())


def preference_set_digest(path: Path | str) -> str:
    """sha256 over the set's rows and its pictures' contents, for caching by content.

    Contents are remembered by path, size and modification time, so that a second call only asks the file system.
    Bad rows and pictures count by what is there of them: reading the set is what reports them.
    """
    total = hashlib.sha256()
    for file in _files(Path(path)):
        total.update(Picture(file).digest.encode())
        stamp = picture_stamp(file)
        known = _listings.get(file)
        if known is None or known[0] != stamp:
            known = _listings[file] = (stamp, list(_picture_paths(file)))
        for picture in known[1]:
            try:
                total.update(Picture(picture).digest.encode())
            except PreferenceError:
                total.update(b"missing")
    return total.hexdigest()


def disjoint(support: Iterable[PreferencePair], query: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The query pairs that share no picture (by content) and no caption (but for case and spaces) with `support`."""
    digests, captions = set(), set()
    for pair in support:
        digests |= {pair.chosen.digest, pair.rejected.digest}
        captions.add(_caption(pair))
    return [
        pair
        for pair in query
        if pair.chosen.digest not in digests and pair.rejected.digest not in digests and _caption(pair) not in captions
    ]


def _caption(pair: PreferencePair) -> str:
    return " ".join(pair.prompt.split()).casefold()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        if (path / PAIRS_FILE).is_file():
            return [path / PAIRS_FILE]
        shards = sorted(path.glob("*.parquet"))
        if shards:
            return shards
        raise PreferenceError(f"No preference set in folder {path}: expected {PAIRS_FILE} or .parquet files in it.")
    if path.suffix not in (".jsonl", ".parquet"):
        raise PreferenceError(f"Expected a folder, a .jsonl or a .parquet file, got {path}.")
    if not path.is_file():
        raise PreferenceError(f"There is no preference set at {path}: expected a folder, a .jsonl or a .parquet file.")
    return [path]


def _jsonl_rows(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from (line for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise PreferenceError(f"{file.name} is not UTF-8 text: save it as UTF-8 JSON lines.") from error


def _parquet(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise PreferenceError(f"Reading {file.name} needs pyarrow: install it with `pip install pyarrow`.") from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise PreferenceError(f"{file.name} is not a readable parquet file ({reason_of(error)}).") from error


def _parquet_rows(file: Path, text_only: bool = False) -> Iterator[dict[str, Any]]:
    with _parquet(file) as table:
        known = (*TRL_COLUMNS, *_TRL_OPTIONAL, *PICK_A_PIC_COLUMNS, *_PICK_A_PIC_OPTIONAL)
        columns = [field.name for field in table.schema_arrow if field.name in known]
        if text_only:
            columns = [name for name in columns if "string" in str(table.schema_arrow.field(name).type).split("<")[0]]
        batches = table.iter_batches(batch_size=32, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except OSError as error:
                raise PreferenceError(
                    f"{file.name} is damaged ({reason_of(error)}): download or write it again."
                ) from error
            if batch is None:
                return
            yield from batch.to_pylist()


def _pair(row: str | dict[str, Any], default_id: str, root: Path) -> PreferencePair | None:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except json.JSONDecodeError as error:
            raise PreferenceError(f"Pair {default_id!r} is not a line of JSON ({error.msg}).", default_id) from error
    if not isinstance(row, dict):
        raise PreferenceError(f"Pair {default_id!r} is not a JSON object with prompt, chosen, rejected.", default_id)
    pick_a_pic = "caption" in row and "jpg_0" in row
    given = row.get("ranking_id") if pick_a_pic else row.get("id")
    pair_id = default_id if given is None else str(given)
    missing = [name for name in (PICK_A_PIC_COLUMNS if pick_a_pic else TRL_COLUMNS) if name not in row]
    if missing:
        raise PreferenceError(
            f"Pair {pair_id!r} lacks {', '.join(missing)}: expected {', '.join(TRL_COLUMNS)}, or Pick-a-Pic's "
            f"{', '.join(PICK_A_PIC_COLUMNS)}; got {', '.join(map(str, row)) or 'nothing'}.",
            pair_id,
        )
    return _pick_a_pic_pair(row, pair_id, root) if pick_a_pic else _trl_pair(row, pair_id, root)


def _trl_pair(row: dict[str, Any], pair_id: str, root: Path) -> PreferencePair:
    tie = row.get("tie")
    if tie is not None and not isinstance(tie, bool):
        raise PreferenceError(f"Pair {pair_id!r}: expected true or false for tie, got {tie!r}.", pair_id)
    return PreferencePair(
        prompt=_prompt(row["prompt"], pair_id),
        chosen=_picture(row["chosen"], pair_id, "chosen", root),
        rejected=_picture(row["rejected"], pair_id, "rejected", root),
        id=pair_id,
        user=_text(row.get("user")),
        created=_text(row.get("created")),
        tie=bool(tie),
    )


def _pick_a_pic_pair(row: dict[str, Any], pair_id: str, root: Path) -> PreferencePair | None:
    if row.get("has_label") is False or row.get("are_different") is False:
        return None
    labels = (row["label_0"], row["label_1"])
    if labels not in ((1, 0), (0, 1), (0.5, 0.5)):
        raise PreferenceError(f"Pair {pair_id!r}: expected labels 1/0, 0/1 or 0.5/0.5 (a tie), got {labels}.", pair_id)
    first, second = (_picture(row[name], pair_id, name, root) for name in ("jpg_0", "jpg_1"))
    return PreferencePair(
        prompt=_prompt(row["caption"], pair_id),
        chosen=second if labels == (0, 1) else first,
        rejected=first if labels == (0, 1) else second,
        id=pair_id,
        user=_text(row.get("user_id")),
        created=_text(row.get("created_at")),
        tie=labels == (0.5, 0.5),
    )


def _prompt(value: Any, pair_id: str) -> str:
    if not isinstance(value, str):
        raise PreferenceError(f"Pair {pair_id!r}: expected a text as prompt, got {type(value).__name__}.", pair_id)
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _picture(value: Any, pair_id: str, role: str, root: Path) -> Picture:
    if isinstance(value, dict):  # the datasets library's Image column: {"bytes": ..., "path": name it once had}
        value = value.get("bytes")
    if isinstance(value, bytes):
        return Picture(data=value)
    if isinstance(value, str):
        try:
            return Picture(_path_inside(root, value))
        except PreferenceError as error:
            raise PreferenceError(f"Pair {pair_id!r}, {role}: {error}", pair_id) from error
    got = "nothing" if value is None else type(value).__name__
    raise PreferenceError(f"Pair {pair_id!r}, {role}: expected a path or the bytes of a picture, got {got}.", pair_id)


def _path_inside(root: Path, value: str) -> Path:
    """`value` as a resolved path below the resolved folder `root`; anything that leads out is refused unread."""
    text = value.replace("\\", "/")
    if text and "\0" not in text and not PureWindowsPath(text).drive:
        try:
            path = (root / text).resolve()
        except (OSError, RuntimeError):  # a loop of links
            path = root
        if path != root and path.is_relative_to(root):
            return path
    raise PreferenceError(f"expected the path of a picture inside the preference set's folder, got {value!r}.")


def _picture_paths(file: Path) -> Iterator[Path]:
    """Paths of all pictures that a pairs file names; pictures stored in the file itself have none."""
    root = file.parent.resolve()
    try:
        rows = list(_jsonl_rows(file) if file.suffix == ".jsonl" else _parquet_rows(file, text_only=True))
    except PreferenceError:
        return
    for row in rows:
        try:
            values = json.loads(row) if isinstance(row, str) else row
        except json.JSONDecodeError:
            continue
        for role in TRL_COLUMNS[1:]:
            value = values.get(role) if isinstance(values, dict) else None
            if isinstance(value, str):
                try:
                    yield _path_inside(root, value)
                except PreferenceError:
                    continue
