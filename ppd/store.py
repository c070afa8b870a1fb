"""The taste store: people, the candidate pairs they were shown, and their picks. SQLite, with the pictures beside it.

Picks are only ever added: revising one adds another, undoing adds a record that takes the latest back. What a candidate
stands at is its last pick that was not undone. An acknowledged write is on the disk: pictures are synced before the
rows that name them, and a transaction ends in a sync of its own (synchronous=FULL).
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from .files import write_synced
from .pairs import PreferencePair, read_pairs, write_pairs
from .pictures import Picture

VERDICTS = ("first", "second", "tie", "skip")
LONGEST_NAME = 80
THUMBNAIL = 192
"""Longer side in pixels."""
_VERSIONS = (
    """
    CREATE TABLE people (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        created TEXT NOT NULL,
        half_life REAL
    );
    CREATE TABLE candidates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        person TEXT NOT NULL REFERENCES people ON DELETE CASCADE,
        key TEXT NOT NULL,
        prompt TEXT NOT NULL,
        first TEXT NOT NULL,
        second TEXT NOT NULL,
        origin TEXT NOT NULL,
        created TEXT NOT NULL,
        pick INTEGER,
        verdict TEXT,
        UNIQUE (person, key)
    );
    CREATE INDEX candidates_by_verdict ON candidates (person, verdict, id);
    CREATE INDEX candidates_by_pick ON candidates (person, pick);
    CREATE INDEX candidates_by_first ON candidates (first);
    CREATE INDEX candidates_by_second ON candidates (second);
    CREATE TABLE picks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        candidate INTEGER NOT NULL REFERENCES candidates ON DELETE CASCADE,
        verdict TEXT NOT NULL,
        created TEXT NOT NULL,
        request TEXT NOT NULL UNIQUE
    );
    CREATE INDEX picks_by_candidate ON picks (candidate, id);
    CREATE TABLE undos (
        pick INTEGER PRIMARY KEY REFERENCES picks ON DELETE CASCADE,
        created TEXT NOT NULL,
        request TEXT NOT NULL UNIQUE
    );
    """,
)
"""What makes a store of version n one of version n + 1; a new store starts at 0."""


class StoreError(ValueError):
    """Something asked of the store that it cannot do, as one sentence for people."""


class MissingError(StoreError):
    """Something that is not in the store, or not any more."""


@dataclass(frozen=True)
class Person:
    """Somebody whose picks are kept; half_life is in picks, None where old picks count as much as new ones."""

    id: str
    name: str
    created: str
    half_life: float | None
    picks: int
    """Decided candidates that say something: ties are in, skips are not."""
    open: int
    """Candidates not decided yet."""


@dataclass(frozen=True)
class Candidate:
    """Two pictures of one prompt, and what the person said of them: a verdict, or None so far."""

    id: int
    person: str
    prompt: str
    first: str
    second: str
    origin: dict[str, Any]
    created: str
    pick: int | None
    verdict: str | None


class TasteStore:
    """A folder with `taste.sqlite3` and `pictures/`, that threads and processes may share. Each call is one transaction
    and fails with StoreError or not at all. `on_erase` hears the hash of every picture that is about to be erased."""

    def __init__(self, folder: Path | str, on_erase: Callable[[str], None] = lambda digest: None) -> None:
        self.folder = Path(folder)
        self.on_erase = on_erase
        self.pictures = self.folder / "pictures"
        self.thumbnails = self.folder / "thumbnails"
        for folder in (self.pictures, self.thumbnails):
            folder.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        with self._writing() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > len(_VERSIONS):
                raise StoreError(
                    f"The taste store in {self.folder} is of version {version}, this pack reads {len(_VERSIONS)}: "
                    "update the pack."
                )
            for script in _VERSIONS[version:]:
                for statement in script.split(";"):
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {len(_VERSIONS)}")
        self._erase_orphans()  # where deleting somebody was cut short

    # People

    def people(self) -> list[Person]:
        """Everybody, in the order of their names."""
        return self._people("ORDER BY name COLLATE NOCASE")

    def person(self, person: str) -> Person:
        """The person of an id."""
        found = self._people("WHERE id = ?", (person,))
        if not found:
            raise MissingError(f"There is no person {person!r} in the taste store: choose another, or make a new one.")
        return found[0]

    def person_called(self, name: str, make: bool = False) -> Person | None:
        """The person of a name, but for case; a new one where there is none and `make` says so."""
        found = [one for one in self.people() if one.name.casefold() == _name(name).casefold()]
        if found:
            return found[0]
        return self.add_person(name) if make else None

    def add_person(self, name: str) -> Person:
        """A new person without picks."""
        person = uuid4().hex
        with self._writing() as database:
            self._insert_person(database, person, name)
        return self.person(person)

    def rename(self, person: str, name: str) -> None:
        """Another name for a person."""
        with self._writing() as database, _unique(name):
            changed = database.execute("UPDATE people SET name = ? WHERE id = ?", (_name(name), person)).rowcount
        if not changed:
            self.person(person)

    def set_half_life(self, person: str, picks: float | None) -> None:
        """After how many newer picks a pick counts half; None for never."""
        if picks is not None and not picks > 0:
            raise StoreError(f"The half-life is {picks} picks: give a number above 0, or none.")
        self.person(person)
        with self._writing() as database:
            database.execute("UPDATE people SET half_life = ? WHERE id = ?", (picks, person))

    def duplicate(self, person: str, name: str) -> Person:
        """A new person with the same candidates and the same standing picks."""
        copy = uuid4().hex
        source = self.person(person)
        with self._writing() as database:
            self._insert_person(database, copy, name)
            database.execute("UPDATE people SET half_life = ? WHERE id = ?", (source.half_life, copy))
            rows = database.execute(
                "SELECT candidates.key, prompt, first, second, origin, candidates.created, picks.verdict, picks.created"
                " FROM candidates LEFT JOIN picks ON picks.id = pick WHERE person = ?"
                " ORDER BY pick IS NULL, pick, candidates.id",
                (person,),
            ).fetchall()
            for key, prompt, first, second, origin, created, verdict, picked in rows:
                candidate = self._insert_candidate(database, copy, key, prompt, first, second, origin, created)
                if verdict is not None:
                    self._insert_pick(database, candidate, verdict, picked, uuid4().hex)
        return self.person(copy)

    def delete_person(self, person: str) -> None:
        """Erase a person's rows, and then the pictures that nobody else has."""
        self.person(person)
        with self._writing() as database:
            database.execute("DELETE FROM people WHERE id = ?", (person,))
        self._erase_orphans()

    # Candidates

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
        with self._writing() as database:
            self.person(person)
            hashes = [self._keep(picture) for picture in (first, second)]
            key = key or hashlib.sha256("\0".join([prompt, *hashes]).encode()).hexdigest()
            return self._insert_candidate(database, person, key, prompt, *hashes, json.dumps(origin or {}), _now())

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
        return self._read(
            "SELECT id, first, second FROM candidates WHERE person = ? AND id > ? ORDER BY id", (person, after)
        )

    def verdicts(self, person: str) -> dict[int, str]:
        """What stands decided by candidate, skips too, in the order of the picks."""
        return dict(
            self._read(
                "SELECT id, verdict FROM candidates WHERE person = ? AND verdict IS NOT NULL ORDER BY pick", (person,)
            )
        )

    def picture(self, digest: str) -> Path:
        """The file of a picture by its sha256; anything else is refused."""
        if not self.has_picture(digest):
            raise MissingError(f"There is no picture {digest[:64]!r} in the taste store.")
        return self.pictures / digest[:2] / digest

    def has_picture(self, digest: str) -> bool:
        """Whether a picture of this sha256 is kept."""
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            return False
        path = self.pictures / digest[:2] / digest
        return path.is_file() and not path.is_symlink()

    def thumbnail(self, digest: str) -> Path:
        """A small JPEG of a picture, made when it is first asked for."""
        picture = Picture(self.picture(digest))
        path = self.thumbnails / digest[:2] / f"{digest}.jpg"
        if not path.is_file():
            image, buffer = picture.open(), io.BytesIO()
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(buffer, "JPEG", quality=85)
            with self._writing():  # so that none is made of a picture that is erased meanwhile
                self.picture(digest)
                path.parent.mkdir(exist_ok=True)
                write_synced(path, buffer.getvalue())
        return path

    # Picks

    def pick(self, candidate: int, verdict: str, request: str) -> int:
        """What the person says of a candidate, now or anew. A request that comes twice counts once; the pick's id."""
        if verdict not in VERDICTS:
            raise StoreError(f"The verdict is {verdict!r}: use one of {', '.join(VERDICTS)}.")
        with self._writing() as database:
            self.candidate(candidate)
            known = database.execute("SELECT id, candidate FROM picks WHERE request = ?", (request,)).fetchone()
            if known and known[1] != candidate:
                raise StoreError(f"The request {request!r} has answered another question: draw a new one.")
            return known[0] if known else self._insert_pick(database, candidate, verdict, _now(), request)

    def skip(self, person: str, candidates: Sequence[int]) -> None:
        """Skip those of the person's candidates that are still open."""
        with self._writing() as database:
            for candidate in candidates:
                found = database.execute(
                    "SELECT id FROM candidates WHERE id = ? AND person = ? AND verdict IS NULL", (candidate, person)
                ).fetchone()
                if found:
                    self._insert_pick(database, candidate, "skip", _now(), uuid4().hex)

    def undo(self, person: str, request: str) -> Candidate | None:
        """Take back the person's latest pick; the candidate as it stands then, None where nothing is left to undo."""
        with self._writing() as database:
            known = database.execute(
                "SELECT candidate, person FROM picks JOIN undos ON undos.pick = picks.id"
                " JOIN candidates ON candidates.id = candidate WHERE undos.request = ?",
                (request,),
            ).fetchone()
            if known and known[1] != person:
                raise StoreError(f"The request {request!r} has undone another person's pick: draw a new one.")
            if not known:
                known = database.execute(
                    "SELECT candidate, picks.id FROM picks JOIN candidates ON candidates.id = candidate"
                    " WHERE person = ? AND picks.id NOT IN (SELECT pick FROM undos) ORDER BY picks.id DESC LIMIT 1",
                    (person,),
                ).fetchone()
                if not known:
                    return None
                database.execute("INSERT INTO undos VALUES (?, ?, ?)", (known[1], _now(), request))
                self._settle(database, known[0])
        return self.candidate(known[0])

    def pairs(self, person: str) -> list[PreferencePair]:
        """The person's preference pairs in the order of their picks, faded by the person's half-life."""
        half_life = self.person(person).half_life
        rows = self._read(
            "SELECT candidates.id, prompt, first, second, candidates.verdict, picks.created FROM candidates"
            " JOIN picks ON picks.id = pick WHERE person = ? AND candidates.verdict != 'skip' ORDER BY pick",
            (person,),
        )
        return [
            PreferencePair(
                prompt=prompt,
                chosen=Picture(self.picture(second if verdict == "second" else first)),
                rejected=Picture(self.picture(first if verdict == "second" else second)),
                id=f"pick-{candidate}",
                created=created,
                tie=verdict == "tie",
                weight=weight,
            )
            for (candidate, prompt, first, second, verdict, created), weight in zip(
                rows, fade(len(rows), half_life), strict=True
            )
        ]

    def fingerprint(self, person: str) -> str:
        """Changes when the person's pairs do, or how they fade."""
        rows = self._read("SELECT pick, verdict FROM candidates WHERE person = ? AND pick IS NOT NULL", (person,))
        return hashlib.sha256(repr((person, self.person(person).half_life, sorted(rows))).encode()).hexdigest()

    def export(self, person: str, folder: Path | str) -> None:
        """Write the person's pairs as a preference set."""
        write_pairs(folder, self.pairs(person))

    def add_pairs(self, person: str, path: Path | str) -> int:
        """Take over a preference set's pairs as picks; how many of them are new. What the person has said already, be
        it of this set or of their own export, counts once.

        Every pair is checked before the first is written, so that a bad one leaves nothing.
        """
        for _ in read_pairs(path):
            pass
        said, new = Counter(map(_said, self.pairs(person))), 0
        for pair in read_pairs(path):
            if said[_said(pair)]:
                said[_said(pair)] -= 1
                continue
            candidate = self.add_candidate(person, pair.prompt, pair.chosen, pair.rejected, key=uuid4().hex)
            self.pick(candidate, "tie" if pair.tie else "first", uuid4().hex)
            new += 1
        return new

    # What the above are made of

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "database"):
            database = sqlite3.connect(self.folder / "taste.sqlite3", timeout=30, isolation_level=None)
            database.execute("PRAGMA journal_mode = WAL")  # answers with another mode where that is not possible
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA secure_delete = ON")
            self._local.database = database
        return self._local.database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        database = self._connection()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def _people(self, condition: str, values: Sequence[Any] = ()) -> list[Person]:
        rows = self._read(
            "SELECT id, name, created, half_life,"
            " (SELECT count(*) FROM candidates WHERE person = people.id AND verdict IN ('first', 'second', 'tie')),"
            " (SELECT count(*) FROM candidates WHERE person = people.id AND verdict IS NULL)"
            " FROM people " + condition,
            values,
        )
        return [Person(*row) for row in rows]

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection().execute(query, values).fetchall()

    def _candidates(self, condition: str, values: Sequence[Any]) -> list[Candidate]:
        rows = self._read(
            "SELECT id, person, prompt, first, second, origin, created, pick, verdict FROM candidates " + condition,
            values,
        )
        names = [item.name for item in fields(Candidate)]
        return [Candidate(**{**dict(zip(names, row, strict=True)), "origin": json.loads(row[5])}) for row in rows]

    def _insert_person(self, database: sqlite3.Connection, person: str, name: str) -> None:
        with _unique(name):
            database.execute("INSERT INTO people VALUES (?, ?, ?, NULL)", (person, _name(name), _now()))

    def _insert_candidate(self, database: sqlite3.Connection, person: str, key: str, *values: str) -> int:
        database.execute(
            "INSERT INTO candidates (person, key, prompt, first, second, origin, created) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (person, key, *values),
        )
        row = database.execute("SELECT id FROM candidates WHERE person = ? AND key = ?", (person, key)).fetchone()
        return int(row[0])

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
        row = database.execute(
            "SELECT id, verdict FROM picks WHERE candidate = ? AND id NOT IN (SELECT pick FROM undos)"
            " ORDER BY id DESC LIMIT 1",
            (candidate,),
        ).fetchone()
        pick, verdict = row or (None, None)
        database.execute("UPDATE candidates SET pick = ?, verdict = ? WHERE id = ?", (pick, verdict, candidate))
        return pick

    def _keep(self, picture: Picture) -> str:
        """The sha256 of a picture's file, which lies in the store and on the disk from now on."""
        data = picture.read()
        digest = hashlib.sha256(data).hexdigest()
        path = self.pictures / digest[:2] / digest
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_synced(path, data)
        return digest

    def _erase_orphans(self) -> None:
        """Erase every picture that no row names. Only after the rows are gone for good: a row must have its picture."""
        with self._writing():  # pictures are filed in a transaction too, so that none of those is taken
            for path in [*self.thumbnails.glob("*/*"), *self.pictures.glob("*/*")]:
                digest = path.stem
                if not self._read("SELECT 1 FROM candidates WHERE first = ? OR second = ? LIMIT 1", (digest, digest)):
                    self.on_erase(digest)
                    path.unlink()
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fade(picks: int, half_life: float | None) -> list[float]:
    """How much each of a person's picks counts, the oldest first: 2^(-newer picks / half-life), or 1 without one."""
    return [1.0 if half_life is None else 2 ** (-(picks - 1 - index) / half_life) for index in range(picks)]


def _said(pair: PreferencePair) -> tuple[str, ...]:
    """What a pair says, whatever it is called: the order of a tie's pictures means nothing."""
    pictures = (pair.chosen.digest, pair.rejected.digest)
    return ("tie", pair.prompt, *sorted(pictures)) if pair.tie else ("pick", pair.prompt, *pictures)


@contextmanager
def _unique(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreError(f"There is a person called {name.strip()!r} already: choose another name.") from error


def _name(name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise StoreError(f"The name has {len(name)} characters: give 1 to {LONGEST_NAME}.")
    return name


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
