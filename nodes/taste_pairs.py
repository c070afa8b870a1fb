"""All that a person's taste is read from, by whoever reads it: workflows, the tab, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.finished import finished_pictures
from ..ppd.moodboard import MOST_BACKGROUND, moodboard_pairs
from ..ppd.pairs import PreferencePair
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import KeptPicture
from ..ppd.studies import open_studies
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
    """The pairs of a person's moodboard, looked for once per change of theirs.

    The background is the first of these that has other pictures than the loved ones: the studies that their taste
    encoder was made from; the rest of the folders where the loved pictures lay; ComfyUI's output.
    """
    store = folders.taste_store()
    return _moodboard(store.folder, store.person(person).id, store.revision(person))


def forget(person: str) -> None:
    """Drop what was found for anybody, and what was seen in the backgrounds of one who is erased: those pictures are
    not in the store, so that nothing else would."""
    _moodboard.cache_clear()
    folders.forget_background(person)


@lru_cache(maxsize=8)
def _moodboard(folder: Path, person: str, revision: int) -> tuple[PreferencePair, ...]:
    store = folders.taste_store()
    board = [one for one in store.moodboard(person) if store.has_picture(one.digest)]
    loved = [Picture(store.picture(one.digest)) for one in board]
    if not loved:
        return ()
    for background in _backgrounds(store.person(person).encoder, board):
        found = _drawn(background, MOST_BACKGROUND + len(loved))
        if {picture.digest for picture in found} - {one.digest for one in board}:
            folders.note_background(person, (picture.digest for picture in found))
            return tuple(moodboard_pairs(loved, found))
    return ()


def _backgrounds(encoder: str, board: list[KeptPicture]) -> Iterator[list[Path]]:
    yield _studies(encoder)
    yield _beside(board)
    yield _below("output", "")


def _studies(encoder: str) -> list[Path]:
    """The pictures of the first set of studies by the model whose studies a taste encoder was made from."""
    try:
        painted_by = TasteEncoder.load(encoder_folder(encoder)).made.get("painted_by")
    except ValueError:  # it is gone or damaged: whoever reads by it says so
        return []
    for name in folders.study_sets() if painted_by else ():
        try:
            studies = open_studies(folders.studies_folder(name))
        except (ValueError, OSError):  # a damaged set is no background
            continue
        if studies.model == painted_by and studies.pictures:
            return [one.picture.path for one in studies.pictures if one.picture.path is not None]
    return []


def _beside(board: list[KeptPicture]) -> list[Path]:
    """What lies in the folders where the loved pictures lay."""
    places = {tuple(one.origin[key] for key in ("folder", "picture")) for one in board if "folder" in one.origin}
    lay = {(word, picture.rpartition("/")[0]) for word, picture in places}
    return [path for word, below in sorted(lay) for path in _below(word, below)]


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
