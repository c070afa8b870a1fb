"""What people are asked, and what they said: candidate pairs, picks, and picks that were taken back.

Picks are only ever added: revising one adds another, undoing adds a record that takes the latest back. A candidate's
current verdict is its newest pick that is not undone. The best of several pictures is a pick of each pair that it wins;
they share the id of the choice, and are made and taken back together.
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
OF_TASTE = (
    "SELECT person, first FROM candidates UNION SELECT person, second FROM candidates"
    " UNION SELECT person, digest FROM pictures"
)
"""Whose pictures may be asked about, kept and rated: a person and a picture's hash a row."""
NAMED = (
    f"{OF_TASTE} UNION SELECT person, first FROM trials JOIN tests ON tests.id = test"
    " UNION SELECT person, second FROM trials JOIN tests ON tests.id = test"
)
"""Whose pictures are in the store, those of blind tests too."""
MOST_CHOICES = 16
"""Pictures of which one can be chosen as the best."""


@dataclass(frozen=True)
class Question:
    """What may be asked: two pictures of one prompt. `origin` tells how they were made; the key, which tells questions
    of one person apart, is by default the prompt and the pictures."""

    prompt: str
    first: Picture
    second: Picture
    origin: dict[str, Any] | None = None
    key: str | None = None


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
        """File a question; the id of the candidate, an old one where its key is known already."""
        question = Question(prompt, first, second, origin, key)
        _check(question)
        with self.database.writing() as database:
            self.person(person)
            return self._file(database, person, question)

    def add_candidates(self, person: str, questions: Sequence[Question]) -> list[int]:
        """File questions in one step; the ids of those that are new."""
        for question in questions:
            _check(question)
        with self.database.writing() as database:
            self.person(person)
            known = {number for number, *_ in self.pictures_of(person)}
            filed = dict.fromkeys(self._file(database, person, question) for question in questions)
            return [number for number in filed if number not in known]

    def digests(self, person: str) -> set[str]:
        """The hashes of all pictures that are kept for the person."""
        return self._digests(person, NAMED)

    def keys(self, person: str) -> set[str]:
        """The keys of all that has been filed for the person."""
        return {key for (key,) in self.database.read("SELECT key FROM candidates WHERE person = ?", (person,), (str,))}

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

    def choose(self, person: str, prompt: str, pictures: Sequence[str], best: str, request: str) -> str:
        """Which of several pictures of one prompt that are kept for the person, by their sha256, is the best; the
        choice's id.

        The pairs of the best against each of the others are found, whichever is first in them, or filed. A request that
        comes twice counts once.
        """
        if not 2 <= len(set(pictures)) == len(pictures) <= MOST_CHOICES or best not in pictures:
            raise StoreError(
                f"The choice is one of {len(set(pictures))} pictures: expected 2 to {MOST_CHOICES}, all different, and "
                "the best among them."
            )
        choice = hashlib.sha256(request.encode()).hexdigest()
        with self.database.writing() as database:
            self.person(person)
            if self._has_chosen(choice, person, pictures):
                return choice
            theirs = self._digests(person, OF_TASTE)
            for digest in pictures:
                if digest not in theirs:  # or it would stay when whom it is kept for is erased
                    raise MissingError(f"There is no picture {digest!r} of this person: reload the question.")
                self.pictures.path(digest)
            created = now()  # one for all, so that no day ends within a choice
            for number, other in enumerate(digest for digest in pictures if digest != best):
                candidate, first = self._pair(database, person, prompt, best, other)
                verdict = "first" if first == best else "second"
                self._insert_pick(database, candidate, verdict, created, f"{choice} {number}", choice)
        return choice

    def choices(self, person: str) -> dict[int, str]:
        """The choice that a candidate's standing pick is part of, where it is of one, in the order of the picks."""
        return dict(
            self.database.read(
                "SELECT candidates.id, choice FROM candidates JOIN picks ON picks.id = pick"
                " WHERE person = ? AND choice IS NOT NULL ORDER BY pick",
                (person,),
                (int, str),
            )
        )

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
        """Take back the person's latest pick, or the whole choice that it is part of; the candidate as it stands then,
        None where nothing is left to undo."""
        with self.database.writing() as database:
            candidate = self._taken_back_by(request, person)
            if candidate is None:
                start = self._start_of_latest(person)
                if start is None:
                    return None
                latest = self._standing_picks(person, after=start - 1)
                candidate = latest[-1][1]
                self._take_back(database, latest, request)
        return self.candidate(candidate)

    def _digests(self, person: str, of: str) -> set[str]:
        rows = self.database.read(f"SELECT * FROM ({of}) WHERE person = ?", (person,), (str, str))
        return {digest for _, digest in rows}

    def _start_of_latest(self, person: str) -> int | None:
        """The person's latest pick, or the first of the choice that it is part of: those were made in one transaction,
        so that no other lies between them."""
        rows = self.database.read(
            "SELECT min(picks.id) FROM picks JOIN (SELECT id, choice FROM picks"
            " WHERE id = (SELECT max(pick) FROM candidates WHERE person = ?)) AS latest"
            " ON picks.id = latest.id OR picks.choice = latest.choice",
            (person,),
            (int | None,),
        )
        return None if rows[0][0] is None else int(rows[0][0])

    def _standing_picks(self, person: str, after: int) -> list[tuple[int, int]]:
        """Ids above `after` of picks that were not taken back, with their candidates, the oldest first."""
        rows = self.database.read(
            "SELECT picks.id, candidate FROM picks CROSS JOIN candidates ON candidates.id = candidate"
            " WHERE picks.id > ? AND person = ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id",
            (after, person),
            (int, int),
        )
        return [(pick, candidate) for pick, candidate in rows]

    def _taken_back_by(self, request: str, person: str) -> int | None:
        """The candidate of what a request has taken back, which must have been this person's; None for a new one."""
        known = self.database.read(
            "SELECT candidate, person FROM picks JOIN undos ON undos.pick = picks.id"
            " JOIN candidates ON candidates.id = candidate WHERE undos.request = ?",
            (request,),
            (int, str),
        )
        if known and known[0][1] != person:
            raise StoreError(f"The request {request!r} has undone another person's pick: draw a new one.")
        return int(known[0][0]) if known else None

    def _take_back(self, database: sqlite3.Connection, picks: Sequence[tuple[int, int]], request: str) -> None:
        """Take back picks, each with its candidate, the last of them by the name of the request."""
        for pick, _ in picks:
            name = request if pick == picks[-1][0] else uuid4().hex
            database.execute("INSERT INTO undos VALUES (?, ?, ?)", (pick, now(), name))
        for candidate in {candidate for _, candidate in picks}:
            self._settle(database, candidate)

    def _has_chosen(self, choice: str, person: str, pictures: Sequence[str]) -> bool:
        """Whether the choice has been made, which must then have been this person's and one of these pictures."""
        known = self.database.read(
            "SELECT person, first, second FROM picks JOIN candidates ON candidates.id = candidate WHERE choice = ?",
            (choice,),
            (str, str, str),
        )
        of_these = {digest for _, *pair in known for digest in pair} == set(pictures)
        if known and not (of_these and {who for who, *_ in known} == {person}):
            raise StoreError("The request has answered another question: draw a new one.")
        return bool(known)

    def _pair(self, database: sqlite3.Connection, person: str, prompt: str, *digests: str) -> tuple[int, str]:
        """The candidate of two kept pictures and which of them is first in it, old or new."""
        one, two = sorted(digests)  # so that the place tells nothing of the choice, should the pair be asked later
        found = self.database.read(
            "SELECT id, first FROM candidates WHERE person = ? AND prompt = ?"
            " AND (first = ? AND second = ? OR first = ? AND second = ?) ORDER BY id LIMIT 1",
            (person, prompt, one, two, two, one),
            (int, str),
        )
        if found:
            return found[0][0], found[0][1]
        return self._insert_candidate(database, person, _key(prompt, one, two), prompt, one, two, "{}", now()), one

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

    def _file(self, database: sqlite3.Connection, person: str, question: Question) -> int:
        hashes = [self.pictures.keep(picture) for picture in (question.first, question.second)]
        key, origin = question.key or _key(question.prompt, *hashes), json.dumps(question.origin or {})
        return self._insert_candidate(database, person, key, question.prompt, *hashes, origin, now())

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
        self,
        database: sqlite3.Connection,
        candidate: int,
        verdict: str,
        created: str,
        request: str,
        choice: str | None = None,
    ) -> int:
        database.execute(
            "INSERT INTO picks (candidate, verdict, created, request, choice) VALUES (?, ?, ?, ?, ?)",
            (candidate, verdict, created, request, choice),
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


def _check(question: Question) -> None:
    for picture in (question.first, question.second):
        picture.check()


def _key(prompt: str, *hashes: str) -> str:
    return hashlib.sha256("\0".join([prompt, *hashes]).encode()).hexdigest()
