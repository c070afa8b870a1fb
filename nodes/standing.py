"""How a person stands, in one answer: all that the panel shows after a press, so that a press is one request."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..ppd.store import Candidate, MissingError, UnusableError
from . import folders, guides, interviews
from .encoders import taste_encoders
from .study_questions import top_up


def shown(candidate: Candidate) -> dict[str, Any]:
    """What a browser shows of a question or an answer."""
    return {name: getattr(candidate, name) for name in ("id", "prompt", "first", "second", "verdict", "pick")}


def standing(person: str, of: int = 2, asked: Candidate | None = None) -> dict[str, Any]:
    """How a person stands, and a question: `asked`, or what to ask next, with the pictures that may come after it.

    With `of` above 2 the question is a grid of so many pictures of one prompt where there are enough, without an id.
    """
    store = folders.taste_store()
    state: dict[str, Any] = {
        "person": asdict(store.person(person)),
        "encoders": taste_encoders(),
        "guides": folders.brand_guides(),
        "guide": None,
        "studies": folders.study_sets(),
        "question": None if asked is None else shown(asked),
        "upcoming": [],
        "waiting": 0,
        "unseen": 0,
        "reading": None,
        "problem": None,
        "noise": 1.0,
        "known": None,
        "statements": [],
    }
    try:
        if asked is None:
            top_up(person)
            state["person"] = asdict(store.person(person))
        now, state["reading"] = interviews.stand(person)
        is_open = state["person"]["open"]
        is_counted = state["reading"] is None and is_open <= interviews.MOST_COUNTED
        state["waiting"] = now.waiting() if is_counted else is_open
        interview = interviews.interview_of(person)
        found = interview.encoder.statements(*now.told)
        grid = interviews.grid_for(person, now, of) if of > 2 and asked is None else None
    except (MissingError, UnusableError):
        raise
    except (
        ValueError,
        OSError,
        RuntimeError,
        ImportError,
    ) as error:  # their taste encoder is gone or damaged: another can be chosen
        return state | {"problem": str(error)}
    if asked is None and grid is not None:
        state["question"] = {"prompt": grid[0], "pictures": grid[1], "verdict": None}
    elif asked is None and now.question is not None:
        state["question"] = shown(now.question)
    state["upcoming"] = [picture for one in now.upcoming for picture in (one.first, one.second)]
    state["guide"] = guides.shown(store.person(person), now.embedding, interview.encoder)
    state["unseen"] = now.unseen
    state["known"] = {"share": now.known.share, "more": now.known.more}
    looks = interview.encoder.looks
    japanese = dict(zip(looks.names, looks.japanese, strict=False)) if looks else {}
    state["statements"] = [asdict(one) | {"japanese": japanese.get(one.name)} for one in found]
    return state | {"noise": now.embedding.noise}
