"""People as workflows name them: by id, so that no saved picture tells a name. Names still work, as they did in older
workflows and do in scripts, also those that somebody had before. The browser shows the names (web/people.js)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from comfy_api.latest import io

from ..ppd.store import PERSON_ID, Person, UnusableError
from . import folders, guides

ME = "me"
"""Who can always be chosen, also where nobody has been made yet."""
TAB = "tab"
"""Whoever is chosen in the tab Taste. The browser puts the id there when it queues a graph; without one it is "me"."""
PERSON = "person: "
"""What a choice of preference pairs begins with that is no preference set but somebody in the taste store."""
MARK = "ppd_person"
"""The option of an input that is a choice of people: what begins such a choice in it. By it the browser shows names for
ids, and puts the tab's person in."""


def person_input(tooltip: str) -> io.String.Input:
    """The choice of somebody. A text, so that any text may be connected: people can be called by name."""
    more = {"widgetType": "PPD_PERSON", MARK: ""}
    return io.String.Input("person", default=TAB, optional=True, tooltip=tooltip, extra_dict=more)


def choices() -> list[str]:
    """Who can be chosen: the tab's person, "me", and the ids of the others. None of these where the store cannot be
    read, which running the node tells: a list of choices must not take the nodes away."""
    store = folders.taste_store()
    if not store.database.path.exists():  # it is not made before somebody is in it
        return [TAB, ME]
    try:
        with store.database.hurried():
            me = store.person_called(ME)
            return [TAB, ME, *(one.id for one in store.people() if me is None or one.id != me.id)]
    except UnusableError:
        return [TAB, ME]


def called(choice: str) -> str:
    """The name or id that a choice stands for where no browser has put the tab's person in."""
    return ME if choice == TAB else choice


def find(choice: str, make: bool = False) -> Person | None:
    """The person of an id or of a name, "me" for the tab's; with `make` a new one for a name that nobody has."""
    choice = called(choice)
    if PERSON_ID.fullmatch(choice):
        return folders.taste_store().person(choice)
    return folders.taste_store().person_called(choice, make=make)


def fingerprint(person: Person) -> str:
    """Changes when the person's pairs do, how they are read, what binds them, or the name in reports. A hash: ComfyUI
    writes what nodes give as a fingerprint into saved pictures, which tell no name."""
    known = f"{person.name} {folders.taste_store().fingerprint(person.id)} {guides.fingerprint(person)}"
    return sha256(known.encode()).hexdigest()


def make_sure(choice: str, prompt: Mapping[str, Any] | None) -> None:
    """Refuse a name that nobody has, unless it is "me" or a node of the same prompt is to make them."""
    if choice.casefold() == ME:
        return
    for node in (prompt or {}).values():
        if node["class_type"] == "PPD_PreferenceCollector":
            named = node["inputs"].get("person")
            is_unknown = isinstance(named, list)  # it comes from another node
            if is_unknown or str(named).casefold() == choice.casefold():
                return
    raise ValueError(
        f"There is nobody called {choice!r} in the taste store: choose somebody of the list, or make them in the tab "
        "Taste."
    )
