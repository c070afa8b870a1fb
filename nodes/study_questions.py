"""Questions from studies: pairs of one prompt and seed in two looks, filed by themselves for who has few questions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from hashlib import sha256
from itertools import zip_longest

from ..ppd.store import MissingError, Question
from ..ppd.studies import open_studies
from . import folders
from .announce import announce
from .forgetting import forgets
from .interviews import interview_of

log = logging.getLogger(__name__)

STUDY_QUESTIONS = 30
"""Filed from a set of studies at once."""
FEW = 6
"""Open questions below which more are filed from studies."""
AT_ONCE = 2
"""Of these, how many before somebody without a question is shown one; the rest follow."""

_filing: set[str] = set()
"""People whose questions are being filed from studies."""
_exhausted: dict[tuple[str, str], str] = {}
"""Sets of studies, as they were, that have nothing left to ask a person."""
_starting = threading.Lock()


@forgets
def forget(person: str) -> None:
    """Drop what is noted of the person here."""
    for key in [key for key in _exhausted if key[0] == person]:
        _exhausted.pop(key, None)


def top_up(person: str) -> None:
    """Where few questions are open, file more from the sets of studies: a few at once for who has none, the rest in
    the background."""
    sets = [name for name in folders.study_sets() if _exhausted.get((person, name)) != _stamp(name)]
    is_open = folders.taste_store().person(person).open
    if not sets or is_open >= FEW:
        return
    interview_of(person)  # which raises where their taste encoder is gone: that is not the studies' fault
    if not is_open:
        _file(person, sets, AT_ONCE)
    with _starting:
        if person in _filing:
            return
        _filing.add(person)
    threading.Thread(target=_file_more, args=(person, sets), daemon=True).start()


def _file(person: str, sets: Iterable[str], most: int) -> int:
    """File up to `most` questions, of the first set that has any; how many. One that is damaged has none."""
    for name in sets:
        stamp = _stamp(name)
        try:
            new = ask_from_studies(person, name, most)
        except MissingError:
            raise
        except (ValueError, OSError) as error:
            log.warning("Nothing can be asked from the studies %s: %s", name, error)
            new = 0
        if new:
            return new
        _exhausted[person, name] = stamp
    return 0


def _file_more(person: str, sets: list[str]) -> None:
    try:
        if _file(person, sets, STUDY_QUESTIONS):
            announce(person)
    except MissingError:  # they were deleted meanwhile
        pass
    except Exception:  # in a thread of its own; the next look at the person tries again
        log.exception("Questions could not be filed from studies.")
    finally:
        _filing.discard(person)


def _stamp(name: str) -> str:
    return folders.studies_stamp(folders.studies_folder(name))


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
