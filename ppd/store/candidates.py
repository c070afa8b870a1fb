"""What people are asked, and what they said: candidate pairs, picks, and picks that were taken back.

Picks are only ever added: revising one adds another, undoing adds a record that takes the latest back. What a candidate
stands at is its last pick that was not undone.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ..pictures import Picture
from .errors import MissingError, StoreError, damaged
from .people import People, now
from .pictures import StoredPictures

VERDICTS = ("first", "second", "tie", "skip")


@dataclass(frozen=True)
class Candidate:
    """Two pictures of one prompt, and what the person said of them: a verdict, or None so far."""

    id: int
    person: str
    prompt: str
    first: str
    second: str
    created: str
    pick: int | None
    verdict: str | None
    origin: dict[str, Any]


class Candidates(People):
    """All candidates of a database, whose pictures are stored beside it."""

    pictures: StoredPictures

    def add_candidate(
        self,
        person: str,
        prompt: str,
        first: Picture,
        second: Picture,
        origin: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> int:
        """File two pictures of one prompt; the id of the candidate, an old one where `key` is known already.

        `origin` tells how they were made. The key is by default the prompt and the pictures.
        """
        for picture in (first, second):
            picture.check()
        with self.database.writing() as database:
            self.person(person)
            hashes = [self.pictures.keep(picture) for picture in (first, second)]
            key = key or hashlib.sha256("\0".join([prompt, *hashes]).encode()).hexdigest()
            return self._insert_candidate(database, person, key, prompt, *hashes, json.dumps(origin or {}), now())

    def candidate(self, candidate: int) -> Candidate:
        """The candidate of an id."""
        found = self._candidates("WHERE id = ?", (candidate,))
        if not found:
            raise MissingError(f"There is no candidate pair {candidate}: it may have been erased.")
        return found[0]

    def inbox(self, person: str, before: int | None = None, limit: int = 100) -> list[Candidate]:
        """Candidates not decided yet, the newest first; `before` pages on from an id."""
        return self._candidates(
            "WHERE person = ? AND verdict IS NULL AND id < ? ORDER BY id DESC LIMIT ?",
            (person, before or 2**62, limit),
        )

    def history(self, person: str, before: int | None = None, limit: int = 100) -> list[Candidate]:
        """Decided candidates, the latest pick first; `before` pages on from a pick's id."""
        return self._candidates(
            "WHERE person = ? AND pick < ? ORDER BY pick DESC LIMIT ?", (person, before or 2**62, limit)
        )

    def pictures_of(self, person: str, after: int = 0) -> list[tuple[int, str, str]]:
        """Ids above `after`, and both pictures' hashes, of the person's candidates in the order they were filed."""
        return self.database.read(
            "SELECT id, first, second FROM candidates WHERE person = ? AND id > ? ORDER BY id",
            (person, after),
            (int, str, str),
        )

    def verdicts(self, person: str) -> dict[int, str]:
        """What stands decided by candidate, skips too, in the order of the picks."""
        return dict(
            self.database.read(
                "SELECT id, verdict FROM candidates WHERE person = ? AND verdict IS NOT NULL ORDER BY pick",
                (person,),
                (int, str),
            )
        )

    def choices(self, person: str) -> dict[int, str]:
        """The choice among several that a candidate's standing pick is part of, where it is of one."""
        return {}

    def pick(self, candidate: int, verdict: str, request: str) -> int:
        """What the person says of a candidate, now or anew. A request that comes twice counts once; the pick's id."""
        if verdict not in VERDICTS:
            raise StoreError(f"The verdict is {verdict!r}: use one of {', '.join(VERDICTS)}.")
        with self.database.writing() as database:
            self.candidate(candidate)
            known = self.database.read("SELECT id, candidate FROM picks WHERE request = ?", (request,), (int, int))
            if known and known[0][1] != candidate:
                raise StoreError(f"The request {request!r} has answered another question: draw a new one.")
            return known[0][0] if known else self._insert_pick(database, candidate, verdict, now(), request)

    def skip(self, person: str, candidates: Sequence[int]) -> None:
        """Skip those of the person's candidates that are still open."""
        with self.database.writing() as database:
            for candidate in candidates:
                found = self.database.read(
                    "SELECT id FROM candidates WHERE id = ? AND person = ? AND verdict IS NULL", (candidate, person)
                )
                if found:
                    self._insert_pick(database, candidate, "skip", now(), uuid4().hex)

    def undo(self, person: str, request: str) -> Candidate | None:
        """Take back the person's latest pick; the candidate as it stands then, None where nothing is left to undo."""
        with self.database.writing() as database:
            known = self.database.read(
                "SELECT candidate, person FROM picks JOIN undos ON undos.pick = picks.id"
                " JOIN candidates ON candidates.id = candidate WHERE undos.request = ?",
                (request,),
                (int, str),
            )
            if known and known[0][1] != person:
                raise StoreError(f"The request {request!r} has undone another person's pick: draw a new one.")
            if not known:
                known = self.database.read(
                    "SELECT candidate, picks.id FROM picks JOIN candidates ON candidates.id = candidate"
                    " WHERE person = ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id DESC LIMIT 1",
                    (person,),
                    (int, int),
                )
                if not known:
                    return None
                database.execute("INSERT INTO undos VALUES (?, ?, ?)", (known[0][1], now(), request))
                self._settle(database, known[0][0])
        return self.candidate(known[0][0])

    def _candidates(self, condition: str, values: Sequence[Any]) -> list[Candidate]:
        rows = self.database.read(
            "SELECT id, person, prompt, first, second, created, pick, verdict, origin FROM candidates " + condition,
            values,
            (int, str, str, str, str, str, int | None, str | None, str),
        )
        return [Candidate(*(*row[:8], self._origin(row[8]))) for row in rows]

    def _origin(self, text: str) -> dict[str, Any]:
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise damaged(self.database.path) from None

    def _insert_candidate(self, database: sqlite3.Connection, person: str, key: str, *values: str) -> int:
        database.execute(
            "INSERT INTO candidates (person, key, prompt, first, second, origin, created) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (person, key, *values),
        )
        rows = self.database.read("SELECT id FROM candidates WHERE person = ? AND key = ?", (person, key), (int,))
        if len(rows) != 1:
            raise damaged(self.database.path)
        return int(rows[0][0])

    def _insert_pick(
        self, database: sqlite3.Connection, candidate: int, verdict: str, created: str, request: str
    ) -> int:
        database.execute(
            "INSERT INTO picks (candidate, verdict, created, request) VALUES (?, ?, ?, ?)",
            (candidate, verdict, created, request),
        )
        return self._settle(database, candidate) or 0

    def _settle(self, database: sqlite3.Connection, candidate: int) -> int | None:
        """Note in the candidate where it stands: its last pick that was not undone."""
        rows = self.database.read(
            "SELECT id, verdict FROM picks WHERE candidate = ? AND id NOT IN (SELECT pick FROM undos)"
            " ORDER BY id DESC LIMIT 1",
            (candidate,),
            (int, str),
        )
        pick, verdict = rows[0] if rows else (None, None)
        database.execute("UPDATE candidates SET pick = ?, verdict = ? WHERE id = ?", (pick, verdict, candidate))
        return pick
