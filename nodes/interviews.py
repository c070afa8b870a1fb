"""Who is asked by which taste encoder, also about studies; and reading many pictures of a person in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from hashlib import sha256
from itertools import zip_longest

from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.pictures import Picture
from ..ppd.questions import Interview
from ..ppd.store import MissingError, Person, Question
from ..ppd.studies import open_studies
from ..ppd.user_embedding import UserEmbedding
from . import folders
from .announce import announce
from .encoders import encoder_digest, encoder_folder, load_encoder, made_by, read_encoder

log = logging.getLogger(__name__)

MANY = 64
"""New pictures beyond which nobody is kept waiting for them to be read."""
BETWEEN_NEWS = 1.0
"""Seconds from one report of progress to the next."""

STUDY_QUESTIONS = 30
"""Filed from a set of studies at once."""
QUEUE_ONLY = ("text_encoder", "transformers")
"""Kinds of towers that beside the queue remember what they saw, and see nothing new."""
MOST_OPEN = 2
"""Taste encoders kept in memory; a tower may have gigabytes."""

_interviews: dict[tuple[str, str], Interview] = {}
"""By the taste encoder's name and what is in it."""
_opening = threading.Lock()
_progress: dict[str, tuple[int, int]] = {}
"""Pictures read and in all, of people whose pictures are being read."""
_failed: dict[tuple[str, str], str] = {}
"""Why a person's pictures could not be read by a taste encoder."""
_starting = threading.Lock()


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
            _interviews[key] = Interview(folders.taste_store(), read_encoder(name))
        return _interviews[key]


def forget(person: str) -> None:
    """Drop what any taste encoder saw of the person's pictures."""
    for interview in list(_interviews.values()):
        interview.forget(person)


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
        pictures = [Picture(store.picture(digest)) for digest in sorted(digests)]
        load_encoder(name).features.picture_features(pictures, broken={})


def reading(person: str) -> tuple[int, int] | None:
    """Pictures read and in all, while so many are new that they are read in the background; None where a question can
    be asked at once."""
    name, interview = folders.taste_store().person(person).encoder, interview_of(person)
    new = interview.unread(person)
    with _starting:
        if person in _progress:
            return _progress[person]
        if (person, name) in _failed:
            raise ValueError(_failed[person, name])
        if new <= MANY:
            return None
        _progress[person] = (0, new)
    threading.Thread(target=_read, args=(person, name, interview), daemon=True).start()
    return 0, new


def _read(person: str, name: str, interview: Interview) -> None:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if folders.taste_store().person(person).encoder != name:  # which raises where they were deleted meanwhile
            raise MissingError("Another taste encoder reads them now.")
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
        _progress.pop(person, None)
        announce(person)


def ask_from_studies(person: str, name: str, most: int = STUDY_QUESTIONS) -> int:
    """File study pairs of a set as questions, those of looks that the person was not asked about first; how many are
    new. Which side stands on the left is drawn by the pair, so that it tells nothing."""
    store, studies = folders.taste_store(), open_studies(folders.studies_folder(name))
    interview = interview_of(person)
    found = interview.statements(person)
    unasked = {one.name for one in found if one.state == "not asked yet"}
    by_look = sorted(studies.by_look().items(), key=lambda item: item[0] not in unasked)
    known = store.keys(person)
    new: list[Question] = []
    for pair in (pair for row in zip_longest(*(pairs for _, pairs in by_look)) for pair in row if pair is not None):
        if len(new) == most:
            break
        key = sha256(f"study {pair.study}".encode()).hexdigest()
        if key in known or pair.alike():
            continue
        first, second = (pair.low, pair.high) if int(key, 16) % 2 else (pair.high, pair.low)
        origin = {"studies": name, "look": pair.look}
        new.append(Question(pair.prompt, first.picture, second.picture, origin, key))
    return len(store.add_candidates(person, new))
