"""The store's SQLite database as threads and processes share it: opened at first use, one transaction at a time."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

from .errors import damaged, lost
from .errors import explained as meaning_of
from .schema import migrate, version_of

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds to wait for another program that is writing."""
IMPATIENCE = 0.5
"""Seconds to wait where somebody waits for a list of names."""
Kind = type | UnionType


class Database:
    """A database file that is opened when it is first used, anew where another file has taken its place, and again
    after every failure, so that mending the file is enough. All that fails is told by UnusableError.

    `opened` is called once, after the first time that the file could be opened. Where `is_bereft` tells that there is
    more of a store than the database, none is made.
    """

    def __init__(self, path: Path, opened: Callable[[], None], is_bereft: Callable[[], bool]) -> None:
        self.path = path
        self._opened = opened
        self._is_bereft = is_bereft
        self._is_new_here = True
        self._local = threading.local()

    def read(self, query: str, values: Sequence[Any] = (), kinds: Sequence[Kind] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, each value of one of `kinds`, a type for every column."""
        with self.explained():
            rows = self._connection().execute(query, values).fetchall()
        if kinds and not all(isinstance(value, kind) for row in rows for value, kind in zip(row, kinds, strict=True)):
            raise damaged(self.path)
        return rows

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which is on the disk at the end or, where something fails, has not been."""
        with self.explained():
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:  # SQLite takes some failed transactions back by itself
                    database.execute("ROLLBACK")

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Calls of this thread wait for other programs only a moment."""
        self._set_patience(IMPATIENCE)
        try:
            yield
        finally:
            self._set_patience(PATIENCE)

    def is_whole(self) -> bool:
        """Whether SQLite finds no fault in any row or index."""
        try:
            return self.read("PRAGMA integrity_check(1)") == [("ok",)]
        except ValueError:
            return False

    def tidy(self) -> None:
        """Take what was erased out of the journal as well."""
        with self.explained():
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What SQLite and the system say in here is told by UnusableError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            log.warning("The taste store %s failed: %s", self.path, error)
            self._close()
            raise meaning_of(error, self.path) from error

    def _connection(self) -> sqlite3.Connection:
        database = getattr(self._local, "database", None)
        if database is not None and not database.in_transaction and self._local.file != _file_at(self.path):
            self._close()
            database = None
        if database is None:
            self._local.database = database = self._connect()
            self._local.file = _file_at(self.path)
        if self._is_new_here:
            self._is_new_here = False
            try:
                self._opened()
            except BaseException:
                self._is_new_here = True
                raise
        return self._local.database

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + self._patience
        while True:
            database = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None)
            try:
                self._prepare(database)
                return database
            except BaseException as error:
                database.close()
                # Who changes the journal, or finds it changing, is told of a lock at once instead of waiting for it
                if not isinstance(error, sqlite3.OperationalError) or "locked" not in str(error):
                    raise
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA secure_delete = ON")
        is_bereft = (
            self._is_bereft()
        )  # before the look at the database: what is there then may have been made meanwhile
        try:
            if version_of(database) == 0:
                if is_bereft:
                    raise lost(self.path)
                database.execute("PRAGMA journal_mode = WAL")  # a new store's journal stays what it turns out to be
                version_of(database)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "full" in str(error):
                raise
            _leave_shared_memory(database)
        if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            database.execute("PRAGMA journal_mode = TRUNCATE")
        migrate(database, self.path)

    def _close(self) -> None:
        database = self._local.__dict__.pop("database", None)
        if database is not None:
            database.close()

    @property
    def _patience(self) -> float:
        return getattr(self._local, "patience", PATIENCE)

    def _set_patience(self, seconds: float) -> None:
        self._local.patience = seconds
        if getattr(self._local, "database", None) is not None:
            self._local.database.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")


def _leave_shared_memory(database: sqlite3.Connection) -> None:
    """Give a database another journal than WAL, which needs memory that processes share: some network drives promise
    it and have none. With the file for itself alone SQLite gets by without that memory, and can change the journal."""
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = TRUNCATE")
    database.execute("PRAGMA locking_mode = NORMAL")
    version_of(database)  # the lock goes with the next look


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
