"""The store's SQLite database as threads and processes share it: opened at first use, one transaction at a time."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any

from .errors import damaged, lost
from .errors import explained as meaning_of
from .schema import is_foreign, migrate, version_of

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds to wait for another program that is writing."""
IMPATIENCE = 0.5
"""Seconds to wait where somebody waits for a list of names."""
BETWEEN_TRIES = 0.1
"""Seconds that a statement of opening waits, since two that change the journal may wait for each other for ever."""
SETTLING = 5.0
"""Seconds to go on with a file that cannot be opened, since other processes may be changing its journal just now. It is
a time, not a number of tries: on a busy machine they need many."""
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
        self._has_shared_memory = True
        self._is_tidy = False
        self._local = threading.local()

    def read(self, query: str, values: Sequence[Any] = (), kinds: Sequence[Kind] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, each value of one of `kinds`, a type for every column."""
        with self.explained():
            rows = self._first(query, values)
        self._tidy_up()
        if kinds and not all(isinstance(value, kind) for row in rows for value, kind in zip(row, kinds, strict=True)):
            raise damaged(self.path)
        return rows

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which is on the disk at the end or, where something fails, has not been."""
        with self.explained():
            self._first("BEGIN IMMEDIATE")
            database = self._connection()
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:  # SQLite takes some failed transactions back by itself
                    database.execute("ROLLBACK")
        self._tidy_up()

    @contextmanager
    def hurried(self, seconds: float = IMPATIENCE) -> Iterator[None]:
        """Calls of this thread wait for other programs no longer than that."""
        patience = self._patience
        self._set_patience(seconds)
        try:
            yield
        finally:
            self._set_patience(patience)

    def is_whole(self) -> bool:
        """Whether SQLite finds no fault in any row or index."""
        try:
            return self.read("PRAGMA integrity_check(1)") == [("ok",)]
        except ValueError:
            return False

    def tidy(self, patience: float = IMPATIENCE) -> bool:
        """Take what was erased out of the journal as well; whether it is out. It cannot be while another program reads
        what was there before: then every call tries again, and every opening."""
        with self.explained(), self.hurried(patience):
            ((is_busy, *_),) = self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._is_tidy = not is_busy
        return self._is_tidy

    def _tidy_up(self) -> None:
        """Tidy what could not be tidied so far, without waiting: it is not what the caller came for."""
        if not self._is_tidy and not self._connection().in_transaction:
            self._is_tidy = True  # where it fails for good, as on a full drive, the next opening is soon enough
            with suppress(ValueError):
                self.tidy(patience=0)

    def close(self) -> None:
        """Give this thread's way to the file back; the next call opens it anew."""
        database = self._local.__dict__.pop("database", None)
        if database is not None:
            database.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What SQLite and the system say in here is told by UnusableError."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            log.warning("The taste store %s failed: %s", self.path, error)
            database = getattr(self._local, "database", None)
            if database is not None and not database.in_transaction:  # else whoever began it takes it back first
                self.close()
            raise meaning_of(error, self.path) from error

    def _first(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement that may be a transaction's first, which is where a journal that this drive does not
        carry is noticed: another process may just have set it."""
        end = time.monotonic() + SETTLING
        while True:
            database = self._connection()
            try:
                return database.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                is_of_journal = _lacks_memory(error) and _is_wal(self.path)
                if database.in_transaction or not is_of_journal or time.monotonic() > end:
                    raise
                self.close()

    def _connection(self) -> sqlite3.Connection:
        database = getattr(self._local, "database", None)
        if database is not None and not database.in_transaction and self._local.file != _file_at(self.path):
            self.close()
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
        start = time.monotonic()
        while True:
            try:
                database = self._prepared(sqlite3.connect(self.path, timeout=BETWEEN_TRIES, isolation_level=None))
                database.execute(f"PRAGMA busy_timeout = {round(1000 * self._patience)}")
                return database
            except sqlite3.OperationalError as error:
                # Who changes the journal, or finds it changing, is told of a lock at once instead of waiting for it
                is_locked = "locked" in str(error)
                longest = self._patience if is_locked else min(self._patience, SETTLING)
                if not (is_locked or _lacks_memory(error)) or time.monotonic() > start + longest:
                    raise
                if not is_locked and _is_wal(self.path):
                    self._leave_shared_memory()
            time.sleep(random.uniform(0, BETWEEN_TRIES))  # those that open it together do not meet again

    def _prepared(self, database: sqlite3.Connection) -> sqlite3.Connection:
        is_bereft = self._is_bereft()  # before the look at the database: a new one may get its pictures meanwhile
        try:
            if version_of(database) == 0:
                if is_bereft:
                    raise lost(self.path)
                if is_foreign(database):
                    raise damaged(self.path)
                if self._has_shared_memory:  # a new store's journal stays what it turns out to be
                    database.execute("PRAGMA journal_mode = WAL")
                    version_of(database)
            if database.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                database.execute("PRAGMA journal_mode = TRUNCATE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA secure_delete = ON")
            migrate(database, self.path)
        except BaseException:
            database.close()
            raise
        return database

    def _leave_shared_memory(self) -> None:
        """Give the database another journal than WAL, which needs memory that processes share: some network drives
        promise it and have none. With the file for itself alone SQLite gets by without that memory, and can change."""
        self._has_shared_memory = False
        connected = sqlite3.connect(self.path, timeout=BETWEEN_TRIES, isolation_level=None)
        with suppress(sqlite3.OperationalError), closing(connected) as database:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = TRUNCATE")

    @property
    def _patience(self) -> float:
        return getattr(self._local, "patience", PATIENCE)

    def _set_patience(self, seconds: float) -> None:
        self._local.patience = seconds
        if getattr(self._local, "database", None) is not None:
            self._local.database.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")


def _lacks_memory(error: sqlite3.OperationalError) -> bool:
    """Whether this may be what SQLite says of a WAL on a drive that cannot share memory."""
    return any(words in str(error) for words in ("unable to open", "disk I/O", "locking protocol", "readonly"))


def _is_wal(path: Path) -> bool:
    """Whether the file's header says that its journal is a WAL."""
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
