"""Who is erased is forgotten: every module that remembers something of people in memory, or has written files that
their rows lead to, says here how to drop it."""

from __future__ import annotations

from collections.abc import Callable

_all: list[Callable[[str], object]] = []
_first: list[Callable[[str], object]] = []


def forgets(drop: Callable[[str], object]) -> Callable[[str], object]:
    """Have `drop` called with the id of whoever is erased; as a decorator, too."""
    _all.append(drop)
    return drop


def erases(drop: Callable[[str], object]) -> Callable[[str], object]:
    """Have `drop` called with the id of whoever is about to be erased, whose rows are there still; as a decorator, too.
    Where it fails nothing is erased, so that it can be asked for again."""
    _first.append(drop)
    return drop


def erase(person: str) -> None:
    """Erase the files that only a person's rows lead to, before those go."""
    for drop in _first:
        drop(person)


def forget(person: str) -> None:
    """Drop all that is remembered of a person, whose rows are gone already: nobody can look at them anew. All is tried,
    and what failed first is raised then: nobody can ask for the rest again."""
    failed = []
    for drop in _all:
        try:
            drop(person)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
