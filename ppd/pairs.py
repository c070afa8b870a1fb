"""Preference pairs: what one is, how a set of them is read, written and checked.

A preference set is a folder with `pairs.jsonl` and its pictures, a JSONL or parquet file in TRL's columns (`prompt`,
`chosen`, `rejected`), parquet in Pick-a-Pic v2's columns, HPDv2's lists (`hpdv2`), or AI-Horde-Ratings beside
DiffusionDB's pictures (`horde_ratings`); a folder of parquet shards is read in the order of names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import horde_ratings, hpdv2
from .files import write_file
from .messages import quoted, shortened
from .pair_files import PAIRS_FILE, PICK_A_PIC_COLUMNS, TRL_COLUMNS, Row, Unreadable, files_of, path_inside, rows_of
from .pictures import Picture, PreferenceError

log = logging.getLogger(__name__)

ROUNDING = 1e-3
"""Of labels that are shares, which float32 and two decimals round."""


def counted(number: int, noun: str) -> str:
    """A number of things, as in "1 pair" and "2 pairs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class PreferencePair:
    """Of two pictures of one prompt, the one a person preferred; with `tie` neither, and the order means nothing.

    `probability` is a soft label: the share of votes, above .5 to 1, that `chosen` is the better; 1 is a plain pick.
    A person's pairs of one `choice` have one chosen picture and are one observation, the best among several: never a
    tie, never soft. `weight` says how much the pair still counts, from 0 to 1; files do not hold it.
    """

    prompt: str
    chosen: Picture
    rejected: Picture
    id: str
    user: str | None = None
    created: str | None = None
    tie: bool = False
    weight: float = 1.0
    choice: str | None = None
    probability: float = 1.0

    @property
    def outcome(self) -> float:
        """What the Bradley-Terry model is told: the probability that `chosen` is preferred, .5 for a tie."""
        return 0.5 if self.tie else self.probability

    def check(self) -> None:
        """Raise PreferenceError, naming the pair, unless both pictures decode and are two."""
        for role, picture in (("chosen", self.chosen), ("rejected", self.rejected)):
            try:
                picture.check()
            except PreferenceError as error:
                raise self.error(role, error) from error
        if self.chosen.digest == self.rejected.digest:
            raise self.one_picture()

    def one_picture(self) -> PreferenceError:
        """What is wrong with a pair of one picture."""
        return PreferenceError(
            f"Pair {quoted(self.id)}: chosen and rejected are one and the same picture, expected two; remove the "
            "pair, or skip bad pairs.",
            self.id,
        )

    def error(self, role: str, error: PreferenceError) -> PreferenceError:
        """`error` of this pair's `role` picture ("chosen" or "rejected"), as one sentence that names the pair."""
        return PreferenceError(
            f"Pair {quoted(self.id)}, {role}: {error}; restore the picture, remove the pair, or skip bad pairs.",
            self.id,
        )


def read_pairs(
    path: Path | str,
    *,
    skip_bad: bool = False,
    user: str | None = None,
    check_pictures: bool = True,
    skipped: list[PreferenceError] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PreferencePair]:
    """The pairs of a preference set in the order of its rows, one at a time.

    `user` keeps one person's only, whatever is wrong with others'. A bad row, a missing or corrupt picture, one picture
    twice, or another chosen picture than the row's choice had so far, raises PreferenceError with the pair's id; with
    `skip_bad` it is logged, appended to `skipped`, and left out. `check_pictures=False` leaves pictures undecoded, for
    sets too large for that. Pick-a-Pic rows without a label, or marked as two equal pictures, are no pairs and are
    passed over. `progress(rows so far)` is called before every row, whosever it is, and may raise to cancel.
    """
    found = _read(
        files_of(Path(path)),
        lambda number, row: user is None or not _is_anothers(row, user),
        skip_bad,
        check_pictures,
        skipped,
        progress,
    )
    return (pair for _, pair in found)


def numbered_pairs(
    path: Path | str,
    rows: Container[int] | None = None,
    *,
    skip_bad: bool = False,
    skipped: list[PreferenceError] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, PreferencePair]]:
    """The pairs of a preference set by the numbers of their rows, from 1, with pictures undecoded: all, or of `rows`.

    Otherwise as `read_pairs`.
    """
    return _read(
        files_of(Path(path)), lambda number, row: rows is None or number in rows, skip_bad, False, skipped, progress
    )


def _read(
    files: list[Path],
    wanted: Callable[[int, Row], bool],
    skip_bad: bool,
    check: bool,
    skipped: list[PreferenceError] | None,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[int, PreferencePair]]:
    number, best = 0, _Best()

    def beat() -> None:
        if progress is not None:
            progress(number)

    for file in files:
        root = file.parent.resolve()
        for row in rows_in(file, reading=beat):
            beat()
            number += 1
            if not wanted(number, row):
                continue
            try:
                pair = _pair(row, f"row-{number}", root)
                if pair is None:
                    continue
                if check:
                    pair.check()
                if file.suffix != ".json":  # one ranking does not contradict itself, and pictures need not be hashed
                    best.check(pair)
            except PreferenceError as error:
                if not skip_bad:
                    raise
                log.warning("Skipped: %s", error)
                if skipped is not None:
                    skipped.append(error)
                continue
            yield number, pair


def rows_in(file: Path, paths_only: bool = False, reading: Callable[[], object] = lambda: None) -> Iterator[Row]:
    """The rows of a file, in TRL's columns or Pick-a-Pic's; `reading()` is called where the first takes long."""
    if file.suffix == ".json":
        return hpdv2.rows_of(file)
    if file.suffix == ".parquet" and horde_ratings.are_in(file):
        return horde_ratings.rows_of(file, reading)
    return rows_of(file, paths_only)


def write_pairs(folder: Path | str, pairs: Iterable[PreferencePair]) -> None:
    """Write `images/<digest>.<ext>` and `pairs.jsonl` into `folder`, the latter in one step at the end.

    Pictures are copied byte for byte, each once; pictures already there are kept.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines, best = [], _Best()
    for pair in pairs:
        best.check(pair)
        row: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
        for role, picture in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            try:
                name = f"images/{picture.digest}{picture.extension()}"
                if not (folder / name).is_file() or Picture(folder / name).digest != picture.digest:
                    write_file(folder / name, picture.read())
            except PreferenceError as error:
                raise pair.error(role, error) from error
            row[role] = name
        soft = pair.outcome not in (0.5, 1.0)
        optional = {"user": pair.user, "created": pair.created, "tie": pair.tie or None, "choice": pair.choice}
        row |= {"probability": pair.probability} if soft else {}
        row.update({key: value for key, value in optional.items() if value is not None})
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_file(folder / PAIRS_FILE, "".join(lines).encode())


class _Best:
    """The chosen picture of each choice of a preference set so far, and which pair said so."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, str], tuple[str, str]] = {}

    def check(self, pair: PreferencePair) -> None:
        """Raise PreferenceError where the pair contradicts its choice."""
        if pair.choice is None:
            return
        if pair.outcome != 1:
            what = "tie" if pair.tie else "probability"
            raise PreferenceError(
                f"Pair {quoted(pair.id)} is {'a tie' if pair.tie else 'a soft label'} of the choice "
                f"{quoted(pair.choice)}, expected a chosen picture: take its choice or its {what} out.",
                pair.id,
            )
        try:
            digest = pair.chosen.digest
        except PreferenceError as error:
            raise pair.error("chosen", error) from error
        known, by = self._known.setdefault((pair.user, pair.choice), (digest, pair.id))
        if known != digest:
            raise PreferenceError(
                f"Pair {quoted(pair.id)} has another chosen picture than pair {quoted(by)} of the same choice "
                f"{quoted(pair.choice)}, expected one: give each choice a name of its own.",
                pair.id,
            )


def disjoint(support: Iterable[PreferencePair], query: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The query pairs that share no picture (by content) and no caption (but for case and spaces) with `support`."""
    digests, captions = set(), set()
    for pair in support:
        digests |= {pair.chosen.digest, pair.rejected.digest}
        captions.add(caption_of(pair))
    return [
        pair
        for pair in query
        if pair.chosen.digest not in digests
        and pair.rejected.digest not in digests
        and caption_of(pair) not in captions
    ]


def caption_of(pair: PreferencePair) -> str:
    """The prompt by which pairs are told apart."""
    return folded(pair.prompt)


def folded(text: str) -> str:
    """What tells prompts and names apart: neither case nor spaces."""
    return " ".join(text.split()).casefold()


def _is_anothers(row: Row, user: str) -> bool:
    """Whether a row can be read so far as to say that it is not the user's."""
    if isinstance(row, Unreadable):
        return False
    value = row.get("user_id" if _is_pick_a_pic(row) else "user")
    return isinstance(value, (dict, list, bytes, Unreadable)) or _plain(value) != user


def _is_pick_a_pic(row: dict[str, Any]) -> bool:
    return "caption" in row and "jpg_0" in row


def _pair(row: Row, default_id: str, root: Path) -> PreferencePair | None:
    if isinstance(row, Unreadable):
        raise PreferenceError(f"Pair {default_id!r} {row.got}.", default_id)
    pick_a_pic = _is_pick_a_pic(row)
    name = "ranking_id" if pick_a_pic else "id"
    pair_id = _text(row.get(name), name, default_id) or default_id
    missing = [name for name in (PICK_A_PIC_COLUMNS if pick_a_pic else TRL_COLUMNS) if name not in row]
    if missing:
        raise PreferenceError(
            f"Pair {quoted(pair_id)} lacks {', '.join(missing)}: expected {', '.join(TRL_COLUMNS)}, or Pick-a-Pic's "
            f"{', '.join(PICK_A_PIC_COLUMNS)}; got {shortened(', '.join(row)) or 'nothing'}.",
            pair_id,
        )
    return _pick_a_pic_pair(row, pair_id, root) if pick_a_pic else _trl_pair(row, pair_id, root)


def _trl_pair(row: dict[str, Any], pair_id: str, root: Path) -> PreferencePair:
    tie = row.get("tie")
    if tie is not None and not isinstance(tie, bool):
        raise PreferenceError(f"Pair {quoted(pair_id)}: expected true or false for tie, got {_got(tie)}.", pair_id)
    probability = row.get("probability")
    if not (probability is None or (_is_share(probability) and probability >= 0.5)):
        raise PreferenceError(
            f"Pair {quoted(pair_id)}: expected a number from 0.5 to 1 as probability, that the chosen picture is the "
            f"better one, got {_got(probability)}: below 0.5 change the two pictures round.",
            pair_id,
        )
    return PreferencePair(
        prompt=_prompt(row["prompt"], pair_id),
        chosen=_picture(row["chosen"], pair_id, "chosen", root),
        rejected=_picture(row["rejected"], pair_id, "rejected", root),
        id=pair_id,
        user=_text(row.get("user"), "user", pair_id),
        created=_text(row.get("created"), "created", pair_id),
        tie=bool(tie) or probability == 0.5,
        choice=_text(row.get("choice"), "choice", pair_id),
        probability=1.0 if tie or probability is None or probability == 0.5 else float(probability),
    )


def _pick_a_pic_pair(row: dict[str, Any], pair_id: str, root: Path) -> PreferencePair | None:
    if row.get("has_label") is False or row.get("are_different") is False:
        return None
    labels = (row["label_0"], row["label_1"])
    if not all(map(_is_share, labels)) or abs(sum(labels) - 1) > ROUNDING:
        got = "/".join(map(_got, labels))
        raise PreferenceError(
            f"Pair {quoted(pair_id)}: expected labels that are shares of 1, such as 1/0, 0.3/0.7 or 0.5/0.5 (a tie), "
            f"got {got}.",
            pair_id,
        )
    tie, probability = abs(labels[0] - labels[1]) <= ROUNDING, round(float(max(labels)), 6)
    first, second = (_picture(row[name], pair_id, name, root) for name in ("jpg_0", "jpg_1"))
    return PreferencePair(
        prompt=_prompt(row["caption"], pair_id),
        chosen=second if labels[1] > labels[0] and not tie else first,
        rejected=first if labels[1] > labels[0] and not tie else second,
        id=pair_id,
        user=_text(row.get("user_id"), "user_id", pair_id),
        created=_text(row.get("created_at"), "created_at", pair_id),
        tie=tie,
        probability=1.0 if tie else probability,
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _prompt(value: Any, pair_id: str) -> str:
    if not isinstance(value, str):
        raise PreferenceError(f"Pair {quoted(pair_id)}: expected a text as prompt, got {_got_kind(value)}.", pair_id)
    return _encodable(value, "prompt", pair_id)


def _text(value: Any, name: str, pair_id: str) -> str | None:
    if isinstance(value, (dict, list, bytes, Unreadable)):
        raise PreferenceError(f"Pair {quoted(pair_id)}: expected a text as {name}, got {_got_kind(value)}.", pair_id)
    text = _plain(value)
    return None if text is None else _encodable(text, name, pair_id)


def _plain(value: Any) -> str | None:
    if value is None:
        return None
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _encodable(text: str, name: str, pair_id: str) -> str:
    """The text, unless no file takes it: with halves of letters, of bytes that are not UTF-8 or of JSON's escapes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PreferenceError(
            f"Pair {quoted(pair_id)}: expected a text as {name}, got one that is not UTF-8: save the file as UTF-8.",
            pair_id,
        ) from error
    return text


def _got(value: Any) -> str:
    return value.got if isinstance(value, Unreadable) else quoted(value)


def _got_kind(value: Any) -> str:
    if isinstance(value, Unreadable):
        return value.got
    return "nothing" if value is None else type(value).__name__


def _picture(value: Any, pair_id: str, role: str, root: Path) -> Picture:
    if isinstance(value, list):  # TRL's columns of images
        if len(value) != 1:
            raise PreferenceError(
                f"Pair {quoted(pair_id)}, {role}: expected one picture, got a list of {len(value)}.", pair_id
            )
        value = value[0]
    if isinstance(value, dict):  # the datasets library's Image column: {"bytes": ..., "path": name it once had}
        value = value.get("bytes")
    if isinstance(value, bytes):
        return Picture(data=value)
    if isinstance(value, str):
        try:
            return Picture(path_inside(root, value))
        except PreferenceError as error:
            raise PreferenceError(f"Pair {quoted(pair_id)}, {role}: {error}", pair_id) from error
    raise PreferenceError(
        f"Pair {quoted(pair_id)}, {role}: expected a path or the bytes of a picture, got {_got_kind(value)}.", pair_id
    )
