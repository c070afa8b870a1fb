"""Who is asked by which taste encoder, also about studies; and reading many pictures of a person in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable

from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.grids import grid
from ..ppd.pictures import Picture
from ..ppd.questions import Interview, Standing
from ..ppd.store import MissingError, Person
from ..ppd.user_embedding import UserEmbedding
from . import folders, taste_pairs
from .announce import announce
from .encoders import encoder_digest, encoder_folder, load_encoder, made_by, read_encoder
from .forgetting import forgets
from .taste_pairs import moodboard_of, pairs_of

log = logging.getLogger(__name__)

MANY = 32
"""New candidates beyond which nobody is kept waiting for their pictures to be read."""
MOST_COUNTED = 500
"""Open questions of which it is told how many repeat answers."""
FIRST = 4
"""Of many new ones, how many are looked at before the first question."""
UPCOMING = 2
"""Questions that a browser is told beforehand, so that it can fetch their pictures."""
BETWEEN_NEWS = 1.0
"""Seconds from one report of progress to the next."""

QUEUE_ONLY = ("text_encoder", "transformers")
"""Kinds of towers that beside the queue remember what they saw, and see nothing new."""
SMALL = ("folder",)
"""Kinds of towers that are opened in no time: those that lie in the taste encoder's own folder."""
MOST_OPEN = 2
"""Taste encoders kept in memory; a tower may have gigabytes."""

_interviews: dict[tuple[str, str], Interview] = {}
"""By the taste encoder's name and what is in it."""
_opening = threading.Lock()
_progress: dict[str, tuple[int, int]] = {}
"""Candidates looked at and in all, of people whose pictures are being read."""
_passed: defaultdict[str, set[frozenset[str]]] = defaultdict(set)
"""Grids that a person skipped since the server started."""
_failed: dict[tuple[str, str], str] = {}
"""Why a person's pictures could not be read by a taste encoder."""
_changing = threading.Lock()


def interview_of(person: str) -> Interview:
    """Asks the person by their own taste encoder; ValueError where that is gone."""
    name = folders.taste_store().person(person).encoder
    key = (name, encoder_digest(name))
    with _opening:
        if key in _interviews:
            _interviews[key] = _interviews.pop(key)  # the one used longest ago goes first
        else:
            while len(_interviews) >= MOST_OPEN:
                _interviews.pop(next(iter(_interviews)))
            # On the CPU, so that a question waits for no model and takes none of its memory
            _interviews[key] = Interview(folders.taste_store(), read_encoder(name), moodboard_of)
        return _interviews[key]


def waiting(person: str) -> int:
    """How many open questions would be asked: all but those that repeat answers or cannot be read. All, where telling
    would take a large tower that nobody has opened, or more time than a moment."""
    now = folders.taste_store().person(person)
    try:
        opened = (now.encoder, encoder_digest(now.encoder)) in _interviews
        if not now.open or not (opened or TasteEncoder.load(encoder_folder(now.encoder)).tower["kind"] in SMALL):
            return now.open
        interview = interview_of(person)
        takes_long = interview.unread(person) > MANY or now.open > MOST_COUNTED
        return now.open if takes_long else interview.stand(person).waiting()
    except (ValueError, OSError, RuntimeError):  # the tab says why
        return now.open


@forgets
def forget(person: str) -> None:
    """Drop what any taste encoder saw for the person, after those who are looking just now, and what is noted of them
    here."""
    for interview in list(_interviews.values()):
        interview.forget(person)
    taste_pairs.forget(person)
    _passed.pop(person, None)
    for key in [key for key in _failed if key[0] == person]:
        _failed.pop(key, None)


def set_encoder(person: str, name: str) -> None:
    """Have another taste encoder read the person's pictures, from now on and anew; all picks stay."""
    encoder_folder(name)
    folders.taste_store().set_encoder(person, name)
    _failed.pop((person, name), None)


def adopt(person: Person, embeddings: Iterable[UserEmbedding]) -> str:
    """Have who has not picked yet be read by the taste encoder that their pictures were painted by; else what to say
    of a difference, or nothing."""
    hashes = {embedding.encoder_hash for embedding in embeddings}
    names = made_by(hashes)
    if not names or person.encoder in names:
        return ""
    if not folders.taste_store().set_encoder(person.id, names[0], unless_picked=True):
        return (
            f"The tab Taste reads {person.name} by the taste encoder {person.encoder!r}, and this was painted by "
            f"{names[0]!r}: choose that one there, under More."
        )
    return ""


def look_in_queue(person: str) -> None:
    """Have a vision-language model, which works in ComfyUI's queue only, look at the person's pictures now, so that
    the tab can ask about them."""
    store = folders.taste_store()
    name = store.person(person).encoder
    try:
        kind = TasteEncoder.load(encoder_folder(name)).tower["kind"]
    except ValueError:  # the tab says so
        return
    if kind in QUEUE_ONLY:
        digests = {digest for _, *pair in store.pictures_of(person) for digest in pair if store.has_picture(digest)}
        pictures = {digest: Picture(store.picture(digest)) for digest in digests}
        for pair in pairs_of(person, skipped=[]):
            pictures |= {picture.digest: picture for picture in (pair.chosen, pair.rejected)}
        load_encoder(name).features.picture_features([pictures[one] for one in sorted(pictures)], broken={})


def stand(person: str) -> tuple[Standing, tuple[int, int] | None]:
    """How the person's interview stands, and candidates looked at and in all, while so many are new that they are
    looked at in the background."""
    name, interview = folders.taste_store().person(person).encoder, interview_of(person)
    if (person, name) in _failed:
        raise ValueError(_failed[person, name])
    new = interview.unread(person)
    with _changing:
        is_read = new <= MANY and person not in _progress
    if is_read:
        return interview.stand(person, upcoming=UPCOMING), None
    standing = interview.stand(person, most=FIRST, upcoming=UPCOMING)
    with _changing:
        if person not in _progress:
            _progress[person] = (0, interview.unread(person))
            threading.Thread(target=_read, args=(person, name, interview), daemon=True).start()
        return standing, _progress[person]


def grid_for(person: str, standing: Standing, size: int) -> tuple[str, list[str]] | None:
    """A prompt and the pictures of it to choose the best of `size` from; None where none has enough."""
    return grid(interview_of(person), person, standing.embedding, size, _passed[person])


def pass_over(person: str, pictures: Iterable[str]) -> None:
    """Do not ask for the best of these pictures again, as long as the server runs: a skip tells nothing of a taste."""
    _passed[folders.taste_store().person(person).id].add(frozenset(pictures))


def _read(person: str, name: str, interview: Interview) -> None:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if folders.taste_store().person(person).encoder != name:  # which raises where they were deleted meanwhile
            raise MissingError("Another taste encoder reads them now: ask again.")
        _progress[person] = (done, total)
        if time.monotonic() - last > BETWEEN_NEWS:
            last = time.monotonic()
            announce(person)

    try:
        interview.read(person, progress)
    except MissingError:
        interview.forget(person)
    except Exception as error:  # in a thread of its own: the next question says so
        log.exception("The pictures could not be read.")
        _failed[person, name] = (
            f"The taste encoder {name!r} could not read the pictures ({error}): choose another under More, and then "
            "this one to try anew."
        )
    finally:
        with _changing:  # who hears that all is read has the news of it first
            _progress.pop(person, None)
            announce(person)
