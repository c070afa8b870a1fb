"""A person as somebody else's beginning, and as they were: copies, and going back to an earlier day."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from uuid import uuid4

from .errors import MissingError, StoreError
from .pairs import Pairs
from .people import Person


class Versions(Pairs):
    """Copies and earlier states of all people of a database."""

    def duplicate(self, person: str, name: str) -> Person:
        """A new person with the same candidates, standing picks, kept pictures and ratings."""
        with self.database.writing() as database:
            copy = self._copy(database, person, name)
        return self.person(copy)

    def days(self, person: str) -> list[tuple[str, int]]:
        """The days on which the person has picked or rated, the oldest first: the date here, and how many picks stood
        at its end, skips aside and a choice as one. What was taken back is left out."""
        picks = self.database.read(
            "SELECT date(picks.created, 'localtime'), candidate, picks.verdict, choice FROM picks"
            " JOIN candidates ON candidates.id = candidate"
            " WHERE person = ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id",
            (self.person(person).id,),
            (str, int, str, str | None),
        )
        counts = dict.fromkeys((day for said in self._said_of_pictures(person).values() for day, *_ in said), -1)
        picked: dict[int, int | str] = {}
        for day, of_day in groupby(picks, key=lambda row: str(row[0])):
            for _, candidate, verdict, choice in of_day:
                picked[candidate] = choice or candidate
                if verdict == "skip":
                    del picked[candidate]
            counts[day] = len(set(picked.values()))
        found = [("", 0)]
        for day in sorted(counts):
            found.append((day, counts[day] if counts[day] >= 0 else found[-1][1]))
        return found[1:]

    def go_back(self, person: str, day: str, copy: str, request: str) -> Person:
        """Take back whatever the person has said after a day of theirs, picks and ratings, and first keep all of it as
        somebody new called `copy`, who is returned. A request that comes twice counts once."""
        with self.database.writing() as database:
            if not self._has_gone_back(request, person):
                if day not in dict(self.days(person)):
                    raise MissingError(f"This person has said nothing on {day[:10]!r}: choose another day.")
                later, said = self._picks_after(person, day), self._said_of_pictures(person)
                rated = {picture: one for picture, one in said.items() if one and one[-1][0] > day}
                if not later and not rated:
                    raise StoreError("There is nothing to take back: nothing is later than that. Choose an older day.")
                made = self._copy(database, person, copy)
                self._take_back(database, later, request)
                for number, (picture, one) in enumerate(rated.items()):
                    # Dated as it was, so that it is known what was taken back with it (_said_of_pictures)
                    none = (day, one[0][1], None)
                    _, created, rating = next((then for then in reversed(one) if then[0] <= day), none)
                    self._insert_rating(database, picture, rating, created, uuid4().hex if number else request)
                return self.person(made)
        known = self.person_called(copy)
        if known is None:
            raise MissingError(
                f"{copy!r}, who was made when going back, is not in the taste store any more: go back again."
            )
        return known

    def _has_gone_back(self, request: str, person: str) -> bool:
        """Whether a request has taken something back, which must have been this person's."""
        rated = self.database.read(
            "SELECT person FROM ratings JOIN pictures ON pictures.id = picture WHERE request = ?", (request,), (str,)
        )
        if rated and rated[0][0] != person:
            raise StoreError(f"The request {request!r} has undone another person's rating: draw a new one.")
        return bool(rated) or self._taken_back_by(request, person) is not None

    def _picks_after(self, person: str, day: str) -> list[tuple[int, int]]:
        """Picks after a day that were not taken back, with their candidates, the oldest first."""
        return self.database.read(
            "SELECT picks.id, candidate FROM picks JOIN candidates ON candidates.id = candidate WHERE person = ?"
            " AND date(picks.created, 'localtime') > ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id",
            (person, day),
            (int, int),
        )

    def _said_of_pictures(self, person: str) -> dict[int, list[tuple[str, str, str | None]]]:
        """By picture what was said of it day by day, the last of each: the date here, the time and the rating. One that
        is dated before others takes those back: it was restored by going back to its day."""
        rows = self.database.read(
            "SELECT picture, date(ratings.created, 'localtime'), ratings.created, ratings.rating FROM ratings"
            " JOIN pictures ON pictures.id = picture WHERE person = ? ORDER BY ratings.id",
            (person,),
            (int, str, str, str | None),
        )
        found: dict[int, list[tuple[str, str, str | None]]] = {}
        for picture, day, created, rating in rows:
            said = [one for one in found.get(picture, []) if one[0] < day]
            found[picture] = [*said, (day, created, rating)] if said or rating else []
        return found

    def _copy(self, database: sqlite3.Connection, person: str, name: str) -> str:
        """The id of a new person with all that stands of another's."""
        source, copy = self.person(person), self._insert_person(database, name)
        database.execute(
            "UPDATE people SET half_life = ?, encoder = ?, guide = ?, guide_digest = ? WHERE id = ?",
            (source.half_life, source.encoder, source.guide, source.guide_digest, copy),
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
