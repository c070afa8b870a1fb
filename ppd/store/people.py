"""The people of the store: their names, those they had before, and how their picks are read."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from .database import Database
from .errors import MissingError, StoreError, damaged

LONGEST_NAME = 80
PERSON_ID = re.compile("[0-9a-f]{32}")
DEFAULT_ENCODER = "pocket-flow"
"""The taste encoder of new people: that of the model in the first templates."""


@dataclass(frozen=True)
class Person:
    """Somebody whose picks are kept; half_life is in picks, None where old picks count as much as new ones."""

    id: str
    name: str
    created: str
    half_life: float | None
    encoder: str
    """Name of the taste encoder that reads their pictures."""
    guide: str | None
    """Name of the brand guide that their taste is bound to, None where it is free."""
    guide_digest: str | None
    """sha256 of the guide's file when it was chosen."""
    picks: int
    """Answers to questions that say something: ties are in, skips are not, and a choice is one."""
    open: int
    """Candidates not decided yet."""
    ratings: int
    """Pictures that they have rated."""
    revision: int
    """Grows with every change of the person's questions, picks, pictures, ratings and settings."""


class People:
    """Everybody in a database. A name is one person's, but for case; a name that somebody had before leads to them
    until somebody else is given it."""

    database: Database

    def people(self) -> list[Person]:
        """Everybody, in the order of their names."""
        return self._people("ORDER BY name COLLATE NOCASE")

    def person(self, person: str) -> Person:
        """The person of an id."""
        found = self._people("WHERE id = ?", (person,))
        if not found:
            raise _nobody(person)
        return found[0]

    def revision(self, person: str) -> int:
        """The person's, where nothing else of them is asked."""
        found = self.database.read("SELECT revision FROM people WHERE id = ?", (person,), (int,))
        if not found:
            raise _nobody(person)
        return int(found[0][0])

    def person_called(self, name: str, make: bool = False) -> Person | None:
        """The person of a name, or who had it before; a new one where there is none and `make` says so."""
        person = self._known_as(name)
        if person is None and make:
            with self.database.writing() as database:  # another process may have made them meanwhile
                person = self._known_as(name) or self._insert_person(database, name)
        return None if person is None else self.person(person)

    def add_person(self, name: str) -> Person:
        """A new person without picks."""
        with self.database.writing() as database:
            person = self._insert_person(database, name)
        return self.person(person)

    def rename(self, person: str, name: str) -> None:
        """Another name for a person, who is still found by the old one."""
        with self.database.writing() as database:
            former = self.person(person).name
            name = self._free(database, name, person)
            database.execute("UPDATE people SET name = ? WHERE id = ?", (name, person))
            if _key(former) != _key(name):
                database.execute("INSERT OR REPLACE INTO former_names VALUES (?, ?)", (former, person))

    def set_half_life(self, person: str, picks: float | None) -> None:
        """After how many newer picks a pick counts half; None for never."""
        if picks is not None and not picks > 0:
            raise StoreError(f"The half-life is {picks} picks: give a number above 0, or none.")
        with self.database.writing() as database:
            self.person(person)
            database.execute("UPDATE people SET half_life = ? WHERE id = ?", (picks, person))

    def set_encoder(self, person: str, name: str, unless_picked: bool = False) -> bool:
        """Which taste encoder reads the person's pictures; that there is one of the name is not known here. With
        `unless_picked` only where they have not picked yet. Whether it does now."""
        if not name:
            raise StoreError("The taste encoder has no name: give the name of its folder in models/taste_encoders.")
        with self.database.writing() as database:
            if self.person(person).picks and unless_picked:
                return False
            database.execute("UPDATE people SET encoder = ? WHERE id = ?", (name, person))
        return True

    def set_guide(self, person: str, name: str | None, digest: str | None) -> None:
        """Which brand guide the person's taste is bound to, and its file's sha256; None for none. That there is one of
        the name is not known here."""
        with self.database.writing() as database:
            self.person(person)
            database.execute("UPDATE people SET guide = ?, guide_digest = ? WHERE id = ?", (name, digest, person))

    def _people(self, condition: str, values: Sequence[Any] = ()) -> list[Person]:
        rows = self.database.read(
            "SELECT id, name, created, half_life, encoder, guide, guide_digest,"
            " (SELECT count(DISTINCT coalesce(choice, candidates.id)) FROM candidates JOIN picks ON picks.id = pick"
            " WHERE person = people.id AND candidates.verdict != 'skip'),"
            " (SELECT count(*) FROM candidates WHERE person = people.id AND verdict IS NULL),"
            " (SELECT count(*) FROM pictures WHERE person = people.id AND rating IS NOT NULL), revision"
            " FROM people " + condition,
            values,
            (str, str, str, float | None, str, str | None, str | None, int, int, int, int),
        )
        people = [Person(*row) for row in rows]
        if any(one.half_life is not None and not one.half_life > 0 for one in people):
            raise damaged(self.database.path)
        return people

    def _known_as(self, name: str) -> str | None:
        """The id of who has a name, or has had it."""
        wanted = _key(_name(name))
        for table in ("SELECT id, name FROM people", "SELECT person, name FROM former_names"):
            for person, known in self.database.read(table, kinds=(str, str)):
                if _key(known) == wanted:
                    return str(person)
        return None

    def _free(self, database: sqlite3.Connection, name: str, person: str) -> str:
        """A name that `person` may have: nobody else's, and from now on no former one."""
        name = _name(name)
        for other, known in self.database.read("SELECT id, name FROM people", kinds=(str, str)):
            if other != person and _key(known) == _key(name):
                raise StoreError(f"There is a person called {name!r} already: choose another name.")
        for (known,) in self.database.read("SELECT name FROM former_names", kinds=(str,)):
            if _key(known) == _key(name):
                database.execute("DELETE FROM former_names WHERE name = ?", (known,))
        return name

    def _insert_person(self, database: sqlite3.Connection, name: str) -> str:
        person = uuid4().hex
        values = (person, self._free(database, name, person), now(), DEFAULT_ENCODER)
        database.execute("INSERT INTO people (id, name, created, encoder) VALUES (?, ?, ?, ?)", values)
        return person


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _nobody(person: str) -> MissingError:
    return MissingError(f"There is no person {person!r} in the taste store: choose another, or make a new one.")


def _key(name: str) -> str:
    """What tells names apart: not case, nor whether an accent is a sign of its own."""
    return unicodedata.normalize("NFC", name).casefold()


def _name(name: str) -> str:
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise StoreError(f"The name has {len(name)} characters: give 1 to {LONGEST_NAME}.")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise StoreError(f"The name {name!r} has signs that cannot be shown: leave them out.")
    if PERSON_ID.fullmatch(name):
        raise StoreError(f"The name {name!r} looks like the id that workflows name people by: choose another.")
    return name
