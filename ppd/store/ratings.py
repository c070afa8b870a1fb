"""Single pictures that are kept for a person, and what the person says of them: keep, or not for me.

Ratings are only ever added: another one, or none again, is one more record, and the last one stands.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..pictures import Picture, PreferenceError
from .candidates import Candidates
from .errors import MissingError, StoreError, damaged
from .people import now

Rating = Literal["keep", "not"]
RATINGS = ("keep", "not")


@dataclass(frozen=True)
class KeptPicture:
    """A picture by its sha256, the prompt that it was painted for ("" where that is not known), and how the person has
    rated it: "keep", "not", or None so far."""

    id: int
    person: str
    digest: str
    prompt: str
    origin: dict[str, Any]
    created: str
    rating: Rating | None


@dataclass(frozen=True)
class Found:
    """A picture to keep for somebody: the prompt that it was painted for ("" where that is not known), and how it was
    made or where it lay."""

    prompt: str
    picture: Picture
    origin: dict[str, Any]


class Ratings(Candidates):
    """The kept pictures of all people of a database."""

    def add_picture(self, person: str, prompt: str, picture: Picture, origin: dict[str, Any] | None = None) -> int:
        """Keep a picture for the person; its id, an old one where it was kept for this prompt already.

        `origin` tells how it was made.
        """
        picture.check()
        with self.database.writing() as database:
            self.person(person)
            return self._insert_picture(
                database, person, self.pictures.keep(picture), prompt, json.dumps(origin or {}), now()
            )

    def kept_picture(self, picture: int) -> KeptPicture:
        """The kept picture of an id."""
        found = self._kept("WHERE id = ?", (picture,))
        if not found:
            raise MissingError(f"There is no picture {picture}: it may have been erased.")
        return found[0]

    def latest_picture(self, person: str, prompt: str | None = None) -> KeptPicture | None:
        """The picture that was kept for the person last, by default of any prompt, of those that a run brought: with
        what was rated in a folder nothing new is compared."""
        condition = (
            "WHERE person = ? AND prompt = coalesce(?, prompt) AND json_extract(origin, '$.folder') IS NULL"
            " ORDER BY id DESC LIMIT 1"
        )
        return next(iter(self._kept(condition, (person, prompt))), None)

    def rate_all(self, person: str, found: Sequence[Found], rating: Rating, request: str) -> list[Found]:
        """Keep pictures for the person and rate them alike, in one transaction; which these are, for those that do not
        decode are left out. A request that comes twice counts once for each of them."""
        self._check_rating(rating)
        whole = [one for one in found if _is_whole(one.picture)]
        with self.database.writing() as database:
            self.person(person)
            for one in whole:
                digest, origin = self.pictures.keep(one.picture), json.dumps(one.origin)
                picture = self._insert_picture(database, person, digest, one.prompt, origin, now())
                self._rate(database, picture, rating, f"{request} {picture}")
        return whole

    def rate(self, person: str, picture: int, rating: Rating | None, request: str) -> None:
        """What the person says of a kept picture, now or anew; None takes it back. A request that comes twice counts
        once."""
        self._check_rating(rating)
        with self.database.writing() as database:
            if self.kept_picture(picture).person != person:
                raise MissingError(f"Picture {picture} was not kept for this person: reload the page.")
            self._rate(database, picture, rating, request)

    def rated(self, person: str, before: int | None = None, limit: int = 100) -> list[KeptPicture]:
        """Rated pictures, the one that was kept last first; `before` pages on from an id."""
        return self._kept(
            "WHERE person = ? AND rating IS NOT NULL AND id < ? ORDER BY id DESC LIMIT ?",
            (person, before or 2**62, limit),
        )

    def moodboard(self, person: str) -> list[KeptPicture]:
        """Pictures that the person keeps and that nothing stands against: no other picture of their prompt is not for
        them. They make no pairs, and count against a background instead."""
        return self._kept(
            "WHERE person = ? AND rating = 'keep' AND (prompt = '' OR prompt NOT IN (SELECT other.prompt"
            " FROM pictures AS other WHERE other.person = pictures.person AND other.rating = 'not')) ORDER BY id",
            (person,),
        )

    def _kept(self, condition: str, values: Sequence[Any]) -> list[KeptPicture]:
        rows = self.database.read(
            "SELECT id, person, digest, prompt, origin, created, rating FROM pictures " + condition,
            values,
            (int, str, str, str, str, str, str | None),
        )
        if any(row[6] not in (*RATINGS, None) for row in rows):
            raise damaged(self.database.path)
        return [KeptPicture(*(*row[:4], self._origin(row[4]), *row[5:])) for row in rows]

    @staticmethod
    def _check_rating(rating: str | None) -> None:
        if rating is not None and rating not in RATINGS:
            raise StoreError(f"The rating is {rating!r}: use one of {', '.join(RATINGS)}, or none.")

    def _rate(self, database: sqlite3.Connection, picture: int, rating: str | None, request: str) -> None:
        known = self.database.read("SELECT picture FROM ratings WHERE request = ?", (request,), (int,))
        if known and known[0][0] != picture:
            raise StoreError(f"The request {request!r} has rated another picture: draw a new one.")
        if not known:
            self._insert_rating(database, picture, rating, now(), request)

    def _insert_picture(self, database: sqlite3.Connection, person: str, digest: str, prompt: str, *values: str) -> int:
        database.execute(
            "INSERT INTO pictures (person, digest, prompt, origin, created) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (person, digest, prompt, *values),
        )
        rows = self.database.read(
            "SELECT id FROM pictures WHERE person = ? AND digest = ? AND prompt = ?", (person, digest, prompt), (int,)
        )
        if len(rows) != 1:
            raise damaged(self.database.path)
        return int(rows[0][0])

    def _insert_rating(
        self, database: sqlite3.Connection, picture: int, rating: str | None, created: str, request: str
    ) -> None:
        database.execute(
            "INSERT INTO ratings (picture, rating, created, request) VALUES (?, ?, ?, ?)",
            (picture, rating, created, request),
        )
        database.execute("UPDATE pictures SET rating = ? WHERE id = ?", (rating, picture))


def _is_whole(picture: Picture) -> bool:
    try:
        picture.check()
    except PreferenceError:
        return False
    return True
