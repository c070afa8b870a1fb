"""What lies in the database, version by version, and how a store of an older pack becomes one of this pack."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ..files import replacing
from .errors import UnusableError, damaged, way_out

VERSIONS = (
    (
        """CREATE TABLE people (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE COLLATE NOCASE,
            created TEXT NOT NULL,
            half_life REAL
        )""",
        """CREATE TABLE candidates (
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
        )""",
        "CREATE INDEX candidates_by_verdict ON candidates (person, verdict, id)",
        "CREATE INDEX candidates_by_pick ON candidates (person, pick)",
        "CREATE INDEX candidates_by_first ON candidates (first)",
        "CREATE INDEX candidates_by_second ON candidates (second)",
        """CREATE TABLE picks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            candidate INTEGER NOT NULL REFERENCES candidates ON DELETE CASCADE,
            verdict TEXT NOT NULL,
            created TEXT NOT NULL,
            request TEXT NOT NULL UNIQUE
        )""",
        "CREATE INDEX picks_by_candidate ON picks (candidate, id)",
        """CREATE TABLE undos (
            pick INTEGER PRIMARY KEY REFERENCES picks ON DELETE CASCADE,
            created TEXT NOT NULL,
            request TEXT NOT NULL UNIQUE
        )""",
    ),
    (
        "ALTER TABLE people ADD COLUMN encoder TEXT NOT NULL DEFAULT 'pocket'",
        """CREATE TABLE former_names (
            name TEXT PRIMARY KEY COLLATE NOCASE,
            person TEXT NOT NULL REFERENCES people ON DELETE CASCADE
        )""",
        "CREATE INDEX former_names_by_person ON former_names (person)",
    ),
    (
        "ALTER TABLE picks ADD COLUMN choice TEXT",
        "CREATE INDEX picks_by_choice ON picks (choice) WHERE choice IS NOT NULL",
        """CREATE TABLE pictures (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            person TEXT NOT NULL REFERENCES people ON DELETE CASCADE,
            digest TEXT NOT NULL,
            prompt TEXT NOT NULL,
            origin TEXT NOT NULL,
            created TEXT NOT NULL,
            rating TEXT,
            UNIQUE (person, digest, prompt)
        )""",
        "CREATE INDEX pictures_by_person ON pictures (person, id)",
        "CREATE INDEX pictures_by_digest ON pictures (digest)",
        """CREATE TABLE ratings (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            picture INTEGER NOT NULL REFERENCES pictures ON DELETE CASCADE,
            rating TEXT,
            created TEXT NOT NULL,
            request TEXT NOT NULL UNIQUE
        )""",
        "CREATE INDEX ratings_by_picture ON ratings (picture, id)",
        "ALTER TABLE people ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
        """CREATE TRIGGER person_changed AFTER UPDATE OF name, half_life, encoder ON people
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.id; END""",
        """CREATE TRIGGER candidate_filed AFTER INSERT ON candidates
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.person; END""",
        """CREATE TRIGGER candidate_settled AFTER UPDATE ON candidates
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.person; END""",
        """CREATE TRIGGER picture_kept AFTER INSERT ON pictures
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.person; END""",
        """CREATE TRIGGER picture_rated AFTER UPDATE ON pictures
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.person; END""",
    ),
    (
        """CREATE TABLE tests (
            id TEXT PRIMARY KEY,
            person TEXT NOT NULL REFERENCES people ON DELETE CASCADE,
            key TEXT NOT NULL,
            arms TEXT NOT NULL,
            notes TEXT NOT NULL,
            created TEXT NOT NULL,
            finished TEXT,
            UNIQUE (person, key)
        )""",
        """CREATE TABLE trials (
            id TEXT PRIMARY KEY,
            test TEXT NOT NULL REFERENCES tests ON DELETE CASCADE,
            place INTEGER NOT NULL,
            prompt TEXT NOT NULL,
            first TEXT NOT NULL,
            second TEXT NOT NULL,
            first_arm INTEGER NOT NULL,
            second_arm INTEGER NOT NULL,
            repeats INTEGER,
            UNIQUE (test, place)
        )""",
        """CREATE TABLE test_picks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            trial TEXT NOT NULL REFERENCES trials ON DELETE CASCADE,
            verdict TEXT NOT NULL,
            seconds REAL NOT NULL,
            created TEXT NOT NULL,
            request TEXT NOT NULL UNIQUE
        )""",
        "CREATE INDEX test_picks_by_trial ON test_picks (trial, id)",
        """CREATE TABLE test_undos (
            pick INTEGER PRIMARY KEY REFERENCES test_picks ON DELETE CASCADE,
            created TEXT NOT NULL,
            request TEXT NOT NULL UNIQUE
        )""",
    ),
    (
        "ALTER TABLE people ADD COLUMN guide TEXT",
        "ALTER TABLE people ADD COLUMN guide_digest TEXT",
        "DROP TRIGGER person_changed",
        """CREATE TRIGGER person_changed AFTER UPDATE OF name, half_life, encoder, guide, guide_digest ON people
            BEGIN UPDATE people SET revision = revision + 1 WHERE id = NEW.id; END""",
    ),
)
"""Statements that make a store of version n one of version n + 1; a new store starts at 0."""


def version_of(database: sqlite3.Connection) -> int:
    """The version of a store; 0 where nothing has been written yet."""
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def is_foreign(database: sqlite3.Connection) -> bool:
    """Whether the file has tables without a version: somebody else's. One statement, since another process may just be
    making ours."""
    ask = "SELECT user_version = 0 AND EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version"
    return bool(database.execute(ask).fetchone()[0])


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Make the store one of this pack, in one transaction that leaves all as it was where it fails.

    What holds something is copied before, to `<name>.v<version>` beside it. A store of a newer pack is refused.
    """
    if version_of(database) == len(VERSIONS):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(database)  # another process may have been faster
        if version > len(VERSIONS):
            raise UnusableError(
                f"The taste store {path} is of version {version}, this pack reads {len(VERSIONS)}: update the pack; "
                f"or, {way_out(path)}."
            )
        if version < 0:
            raise damaged(path)
        if version:
            back_up(path, version)
        for statement in (statement for statements in VERSIONS[version:] for statement in statements):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(VERSIONS)}")
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def back_up(path: Path, version: int) -> None:
    """Copy the database to `<name>.v<version>` beside it, on the disk and whole or not at all. Who calls it holds the
    lock, so that what lies there half is a copy that was cut."""
    for cut in path.parent.glob(f".{path.name}.v*.part"):
        cut.unlink()
    with replacing(path.with_name(f"{path.name}.v{version}")) as temporary:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(temporary)) as copy:
            source.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
