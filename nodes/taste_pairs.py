"""All that a person's taste is read from, by whoever reads it: workflows, the tab, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.finished import finished_pictures
from ..ppd.moodboard import MOST_BACKGROUND, moodboard_pairs
from ..ppd.pairs import PreferencePair
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import KeptPicture
from ..ppd.studies import StudySet, open_studies
from . import folders
from .encoders import encoder_folder

ALL = -1
"""In place of a number of first answers: all of them, and the moodboard."""


def pairs_of(
    person: str, skipped: list[PreferenceError] | None = None, first_answers: int = ALL
) -> list[PreferencePair]:
    """A person's whole set of preference pairs: first those of their moodboard, then what they picked, chose and rated,
    the oldest first, as `TasteStore.pairs` tells it.

    Pictures that they keep make pairs with those of the same prompt that are not for them. What they keep beside those
    is their moodboard: it counts against a background (`moodboard_of`), does not fade, and where there is no background
    it does not count. The interview of the tab reads the same (`Interview`), so that tab and workflow agree.

    Of a number of first answers only those count: a moodboard has no place among them.
    """
    if first_answers != ALL:
        return folders.taste_store().pairs(person, skipped, first=first_answers)
    return [*moodboard_of(person), *folders.taste_store().pairs(person, skipped)]


def moodboard_of(person: str) -> tuple[PreferencePair, ...]:
    """The pairs of a person's moodboard.

    The background is the first of these that has other pictures than the loved ones: the studies that their taste
    encoder was made from; the rest of the folders where the loved pictures lay; ComfyUI's output. It is drawn anew when
    the moodboard changes, and not with each answer or picture painted: thousands would be walked for next to no change.
    """
    store = folders.taste_store()
    board = [one for one in store.moodboard(person) if store.has_picture(one.digest)]
    if not board:
        return ()
    encoder, digests = store.person(person).encoder, tuple(one.digest for one in board)
    known = _known.get(person)
    if known is None or known.of != (store.folder, encoder, digests) or not known.stands():
        places = _places(board)
        changes = _changes({folders.finished_folder(word)[1] / below for word, below in (*places, ("output", ""))})
        pairs = _pairs(person, encoder, [Picture(store.picture(digest)) for digest in digests], places)
        known = _known[person] = _Moodboard((store.folder, encoder, digests), pairs, changes)
    return known.pairs


def forget(person: str) -> None:
    """Drop what was found for one who is erased, and what was seen in their background: those pictures are not in the
    store, so that nothing else would."""
    _known.pop(person, None)
    folders.forget_background(person)


def studies_like(encoder: str) -> Iterator[tuple[str, StudySet]]:
    """The sets of studies by the model that those were painted by which a taste encoder was made from, by name."""
    try:
        painted_by = TasteEncoder.load(encoder_folder(encoder)).made.get("painted_by")
    except ValueError:  # it is gone or damaged: whoever reads by it says so
        return
    for name in folders.study_sets() if painted_by else ():
        with suppress(ValueError, OSError):  # a damaged set is none
            studies = open_studies(folders.studies_folder(name))
            if studies.model == painted_by:
                yield name, studies


@dataclass(frozen=True)
class _Moodboard:
    """The pairs of somebody's moodboard, what they were made of, and when the folders that were looked into changed."""

    of: tuple[Path, str, tuple[str, ...]]
    pairs: tuple[PreferencePair, ...]
    changes: dict[Path, int]

    def stands(self) -> bool:
        """Whether the background would be about the same if it were drawn now: it is full, or nothing was added."""
        paths = {pair.rejected.path for pair in self.pairs if pair.rejected.path is not None}
        if not all(path.exists() for path in paths):
            return False
        return len(paths) == MOST_BACKGROUND or self.changes == _changes(self.changes)


_known: dict[str, _Moodboard] = {}
"""By the person's id."""


def _changes(places: Iterable[Path]) -> dict[Path, int]:
    """When folders last changed; what changes in folders inside of them does not count."""
    return {place: place.stat().st_mtime_ns for place in places if place.exists()}


def _pairs(
    person: str, encoder: str, loved: list[Picture], places: list[tuple[str, str]]
) -> tuple[PreferencePair, ...]:
    digests = {picture.digest for picture in loved}
    for background in _backgrounds(encoder, places):
        found = _drawn(background, MOST_BACKGROUND + len(loved))
        if {picture.digest for picture in found} - digests:
            folders.note_background(person, (picture.digest for picture in found))
            return tuple(moodboard_pairs(loved, found))
    return ()


def _backgrounds(encoder: str, places: list[tuple[str, str]]) -> Iterator[list[Path]]:
    yield _studies(encoder)
    yield [path for word, below in places for path in _below(word, below)]
    yield _below("output", "")


def _studies(encoder: str) -> list[Path]:
    """The pictures of the first set that has some."""
    found = ([one.picture.path for one in studies.pictures] for _, studies in studies_like(encoder))
    return [path for path in next(filter(None, found), []) if path is not None]


def _places(board: list[KeptPicture]) -> list[tuple[str, str]]:
    """The folders where the loved pictures lay: the word for the root, and the path inside."""
    places = {tuple(one.origin[key] for key in ("folder", "picture")) for one in board if "folder" in one.origin}
    return sorted({(word, picture.rpartition("/")[0]) for word, picture in places})


def _below(word: str, below: str) -> list[Path]:
    _, root, _ = folders.finished_folder(word)
    return [root / one.name for one in finished_pictures(root, below)]


def _drawn(paths: Iterable[Path], most: int) -> list[Picture]:
    """At most so many of the pictures that can be read: an even draw by the hash of their names, the same every time
    and mostly the same after a few more came in."""
    found: list[Picture] = []
    for path in sorted(paths, key=lambda path: sha256(path.name.encode()).digest()):
        picture = Picture(path)
        try:
            picture.check()
        except PreferenceError:
            continue
        found.append(picture)
        if len(found) == most:
            break
    return found
