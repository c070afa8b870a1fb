"""A person as somebody else's beginning, and as they were: copies, and going back to an earlier day."""

from __future__ import annotations

import sqlite3
from uuid import uuid4

from .errors import MissingError, StoreError
from .pairs import Pairs
from .people import Person, now


class Versions(Pairs):
    """Copies and earlier states of all people of a database."""

    def duplicate(self, person: str, name: str) -> Person:
        """A new person with the same candidates, standing picks, kept pictures and ratings."""
        with self.database.writing() as database:
            copy = self._copy(database, person, name)
        return self.person(copy)

    def days(self, person: str) -> list[tuple[str, int, int]]:
        """The days on which the person has picked, the oldest first: the date here, the last pick of the day that still
        stands, and how many candidates were picked by then, skips aside."""
        rows = self.database.read(
            "SELECT date(picks.created, 'localtime'), picks.id, candidate, picks.verdict FROM picks"
            " JOIN candidates ON candidates.id = candidate"
            " WHERE person = ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id",
            (self.person(person).id,),
            (str, int, int, str),
        )
        found: dict[str, tuple[int, int]] = {}
        picked: set[int] = set()
        for day, pick, candidate, verdict in rows:
            (picked.discard if verdict == "skip" else picked.add)(candidate)
            found[day] = (pick, len(picked))
        return [(day, *last) for day, last in found.items()]

    def go_back(self, person: str, pick: int, copy: str, request: str) -> Person:
        """Take back whatever the person has said since a pick of theirs, picks and ratings, and first keep all of it as
        somebody new called `copy`, who is returned. A request that comes twice counts once."""
        with self.database.writing() as database:
            if self._taken_back_by(request, person) is None:
                later = self._standing_picks(person, after=self._end_of_choice(person, pick))
                if not later:
                    raise StoreError("There is nothing to take back: no pick is later than that. Choose an older day.")
                since = self.database.read("SELECT created FROM picks WHERE id = ?", (later[0][0],), (str,))[0][0]
                made = self._copy(database, person, copy)
                self._take_back(database, later, request)
                self._rate_as_before(database, person, since)
                return self.person(made)
        known = self.person_called(copy)
        if known is None:
            raise MissingError(f"{copy!r}, who was made when going back, is not in the taste store any more.")
        return known

    def _end_of_choice(self, person: str, pick: int) -> int:
        """The pick itself, or the last one of the choice that it is part of, which is never taken apart."""
        rows = self.database.read(
            "SELECT max(other.id) FROM picks JOIN candidates ON candidates.id = picks.candidate JOIN picks AS other"
            " ON other.id = picks.id OR other.choice = picks.choice WHERE picks.id = ? AND person = ?",
            (pick, person),
            (int | None,),
        )
        if rows[0][0] is None:
            raise MissingError(f"There is no pick {pick} of this person: choose another day.")
        return int(rows[0][0])

    def _rate_as_before(self, database: sqlite3.Connection, person: str, since: str) -> None:
        """Give pictures that were rated since then the ratings that they had before."""
        rows = self.database.read(
            "SELECT id, (SELECT rating FROM ratings WHERE picture = pictures.id AND created < ?"
            " ORDER BY ratings.id DESC LIMIT 1) FROM pictures"
            " WHERE person = ? AND id IN (SELECT picture FROM ratings WHERE created >= ?)",
            (since, person, since),
            (int, str | None),
        )
        for picture, rating in rows:
            self._insert_rating(database, picture, rating, now(), uuid4().hex)

    def _copy(self, database: sqlite3.Connection, person: str, name: str) -> str:
        """The id of a new person with all that stands of another's."""
        source, copy = self.person(person), self._insert_person(database, name)
        database.execute(
            "UPDATE people SET half_life = ?, encoder = ? WHERE id = ?", (source.half_life, source.encoder, copy)
        )
        self._copy_candidates(database, person, copy)
        self._copy_pictures(database, person, copy)
        return copy

    def _copy_candidates(self, database: sqlite3.Connection, person: str, copy: str) -> None:
        rows = database.execute(
            "SELECT candidates.key, prompt, first, second, origin, candidates.created, picks.verdict, picks.created,"
            " choice FROM candidates LEFT JOIN picks ON picks.id = pick WHERE person = ?"
            " ORDER BY pick IS NULL, pick, candidates.id",
            (person,),
        ).fetchall()
        choices = {choice: uuid4().hex for *_, choice in rows if choice is not None}  # a choice is one person's
        for key, prompt, first, second, origin, created, verdict, picked, choice in rows:
            candidate = self._insert_candidate(database, copy, key, prompt, first, second, origin, created)
            if verdict is not None:
                self._insert_pick(database, candidate, verdict, picked, uuid4().hex, choices.get(choice))

    def _copy_pictures(self, database: sqlite3.Connection, person: str, copy: str) -> None:
        rows = database.execute(
            "SELECT digest, prompt, origin, pictures.created, pictures.rating, ratings.created FROM pictures"
            " LEFT JOIN ratings ON ratings.id = (SELECT max(id) FROM ratings WHERE picture = pictures.id)"
            " WHERE person = ? ORDER BY pictures.id",
            (person,),
        ).fetchall()
        for digest, prompt, origin, created, rating, rated in rows:
            picture = self._insert_picture(database, copy, digest, prompt, origin, created)
            if rating is not None:
                self._insert_rating(database, picture, rating, rated, uuid4().hex)
