"""An index of a large preference set, and which of its pairs train, make u, or measure.

Two passes: the first keeps numbers of each pair, 40 bytes in arrays; the second reads the pairs that are wanted, one
at a time. People, prompts and pictures are held out by hash, so that a picture or a person is on the same side in every
set and after a set has grown; what else must be disjoint is found in the index.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .files import Stamp
from .pairs import PreferencePair, caption_of, numbered_pairs
from .pictures import Picture, PreferenceError, picture_stamp

log = logging.getLogger(__name__)

LEAST_PAIRS = 8
"""Of somebody with fewer, too little is left to make u of and to measure on."""
SHARE = 0.1
"""Of people and of prompts that are held out."""
SHARE_OF_PICTURES = 0.02
"""Of pictures that are held out: a pair is lost to training by either of its two."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class PairIndex:
    """Of n pairs the row numbers [n], the first 64 bits of sha256 of whose they are [n], of their prompts [n] and of
    their pictures [n, 2], and the outcomes [n] (1 a pick, .5 a tie). Pairs without a user are one person's."""

    path: Path
    rows: Array
    users: Array
    prompts: Array
    pictures: Array
    outcomes: Array

    def __len__(self) -> int:
        return len(self.rows)

    def read(
        self, wanted: Array, *, progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, PreferencePair]]:
        """The wanted pairs, bool [n], in the order of the set, each with its place in the index.

        ValueError where the set has changed since it was indexed, as far as the pairs show.
        """
        rows = self.rows[wanted]
        if not len(rows):
            return
        changed = ValueError(f"{self.path.name} has changed since it was indexed: index it again.")
        places = iter(np.flatnonzero(wanted).tolist())
        for row, pair in numbered_pairs(self.path, _Rows(rows), progress=progress):
            place = next(places)
            if row != self.rows[place] or key_of(caption_of(pair)) != self.prompts[place]:
                raise changed
            yield place, pair
        if next(places, None) is not None:
            raise changed

    def disjoint(self, support: Array, query: Array) -> Array:
        """Those of `query`, bool [n], that share no picture and no prompt with `support`, bool [n]: bool [n]."""
        seen = np.isin(self.pictures, self.pictures[support]).any(1) | np.isin(self.prompts, self.prompts[support])
        return query & ~seen


@dataclass(frozen=True, eq=False)
class Split:
    """What each of n pairs is for, bool [n], none for two things.

    `train`: people, prompts and pictures that are not held out. `support`: u of held-out people is made of these.
    `query`: held-out prompts, to measure on: ties and pictures of the other two are left out. `held_out` says which
    pairs are of held-out people, `dropped` which are of people with too few.
    """

    train: Array
    support: Array
    query: Array
    held_out: Array
    dropped: Array


def index_pairs(
    path: Path | str,
    *,
    skipped: list[PreferenceError] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairIndex:
    """Read a preference set once, of which nothing stays in memory but numbers.

    Bad rows and pictures that cannot be read are left out, logged and appended to `skipped`; pictures are not decoded.
    `progress(rows so far)` is called before every row and may raise to cancel.
    """
    rows, numbers, outcomes = array("I"), array("Q"), array("f")
    for row, pair in numbered_pairs(path, skip_bad=True, skipped=skipped, progress=progress):
        try:
            pictures = _picture_keys(pair)
        except PreferenceError as error:
            log.warning("Skipped: %s", error)
            if skipped is not None:
                skipped.append(error)
            continue
        rows.append(row)
        numbers.extend((key_of(pair.user or ""), key_of(caption_of(pair)), *pictures))
        outcomes.append(pair.outcome)
    table = np.frombuffer(numbers, np.uint64).reshape(-1, 4)
    return PairIndex(
        Path(path),
        np.frombuffer(rows, np.uint32),
        table[:, 0],
        table[:, 1],
        table[:, 2:],
        np.frombuffer(outcomes, np.float32),
    )


def split(
    index: PairIndex,
    *,
    users: float = SHARE,
    prompts: float = SHARE,
    pictures: float = SHARE_OF_PICTURES,
    least_pairs: int = LEAST_PAIRS,
) -> Split:
    """Drop people with fewer than `least_pairs` pairs, and hold out these shares, 0 to 1, of people, prompts and
    pictures by their hashes."""
    for share in (users, prompts, pictures):
        if not 0 <= share <= 1:
            raise ValueError(f"Expected shares from 0 to 1 to hold out, got {share}.")
    _, person, pairs_of = np.unique(index.users, return_inverse=True, return_counts=True)
    dropped = pairs_of[person] < least_pairs
    new_person, new_prompt = held_out(index.users, users), held_out(index.prompts, prompts)
    familiar = ~dropped & ~new_prompt & ~held_out(index.pictures, pictures).any(1)
    taken = index.pictures[familiar]
    query = ~dropped & new_prompt & (index.outcomes != 0.5) & ~np.isin(index.pictures, taken).any(1)
    return Split(familiar & ~new_person, familiar & new_person, query, new_person & ~dropped, dropped)


def held_out(keys: Array, share: float) -> Array:
    """Which of these hashes, uint64 of any shape, lie in the first `share` of all: bool of that shape."""
    return keys < np.float64(share) * 2.0**64


def key_of(text: str) -> int:
    """The first 64 bits of a text's sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def told(index: PairIndex, parts: Split) -> dict[str, int]:
    """Numbers of people and pairs by what they are for, for a report."""
    return {
        "pairs": len(index),
        "people": len(np.unique(index.users)),
        "people_with_too_few": len(np.unique(index.users[parts.dropped])),
        "people_held_out": len(np.unique(index.users[(parts.support | parts.query) & parts.held_out])),
        "people_train": len(np.unique(index.users[parts.train])),
        "train": int(parts.train.sum()),
        "support": int(parts.support.sum()),
        "query_of_held_out_people": int((parts.query & parts.held_out).sum()),
        "query_of_training_people": int((parts.query & ~parts.held_out).sum()),
    }


def sentence(index: PairIndex, parts: Split) -> str:
    """The same in words."""
    counts = told(index, parts)
    text = f"{counts['pairs']:,} pairs, people: {counts['people']:,}"
    if counts["people_with_too_few"]:
        text += f" ({counts['people_with_too_few']:,} with too few pairs, which are left out)"
    text += f"; {counts['train']:,} pairs train (people: {counts['people_train']:,})"
    if not counts["people_held_out"]:
        return f"{text}, and nobody is held out to measure on."
    return (
        f"{text}; {counts['support']:,} tell tastes of people who are held out ({counts['people_held_out']:,}), and "
        f"{counts['query_of_held_out_people']:,} measure what they like."
    )


class _Rows(Container[int]):
    """Row numbers, as bits."""

    def __init__(self, rows: Array) -> None:
        self._has = np.zeros(int(rows.max()) + 1, bool)
        self._has[rows] = True

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and row < len(self._has) and bool(self._has[row])


def _picture_keys(pair: PreferencePair) -> list[int]:
    found = []
    for role, picture in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        try:
            found.append(_picture_key(picture))
        except PreferenceError as error:
            raise pair.error(role, error) from error
    if found[0] == found[1]:
        raise pair.one_picture()
    return found


def _picture_key(picture: Picture) -> int:
    if picture.path is not None:
        return _file_key(picture.path, picture_stamp(picture.path))
    return int.from_bytes(hashlib.sha256(picture.read()).digest()[:8], "big")


@lru_cache(maxsize=1 << 16)
def _file_key(path: Path, stamp: Stamp) -> int:
    """Of a set's files no more are remembered than this: `Picture.digest` remembers all."""
    return int.from_bytes(hashlib.sha256(Picture(path).read()).digest()[:8], "big")
