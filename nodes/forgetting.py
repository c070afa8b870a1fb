"""Who is erased is forgotten: every module that remembers something of people in memory says here how to drop it."""

from __future__ import annotations

from collections.abc import Callable

_all: list[Callable[[str], object]] = []


def forgets(drop: Callable[[str], object]) -> Callable[[str], object]:
    """Have `drop` called with the id of whoever is erased; as a decorator, too."""
    _all.append(drop)
    return drop


def forget(person: str) -> None:
    """Drop all that is remembered of a person, whose rows are gone already: nobody can look at them anew."""
    for drop in _all:
        drop(person)
