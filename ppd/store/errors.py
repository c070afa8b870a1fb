"""What the taste store says when it cannot: one sentence, with the file and the way out, never in SQLite's words."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path


class StoreError(ValueError):
    """Something asked of the store that it cannot do, as one sentence for people."""


class MissingError(StoreError):
    """Something that is not in the store, or not any more."""


class LearnedError(StoreError):
    """A prompt of a blind test that made the taste. Its words are somebody's, so they are in `prompt` and not in the
    message, which a log keeps."""

    def __init__(self, message: str, prompt: str) -> None:
        super().__init__(message)
        self.prompt = prompt


class UnusableError(StoreError):
    """A store that cannot be opened, read or written: which file, and the way out."""


class FullDriveError(UnusableError):
    """A store that cannot be written since its drive is full."""


def explained(error: sqlite3.Error | OSError | UnicodeDecodeError, path: Path) -> UnusableError:
    """What an error of SQLite or of the system means for the store's database at `path`."""
    reason = str(error).lower()  # SQLite's error codes are in Python since 3.11 only; its texts have not changed
    code = error.errno if isinstance(error, OSError) else None
    if "locked" in reason or "busy" in reason:
        return UnusableError(
            f"The taste store {path} is in use by another program: close that program, or wait, and try again."
        )
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "full" in reason:
        return FullDriveError(f"The drive of the taste store {path} is full: free some space on it and try again.")
    if "readonly" in reason and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return damaged(path)  # the file says of itself that it may be read only
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or "readonly" in reason:
        return UnusableError(
            f"The taste store {path} may not be written: give yourself the right to write to its folder and the files "
            "in it, and try again."
        )
    if isinstance(error, OSError) or "unable to open" in reason or "disk i/o" in reason or "protocol" in reason:
        cause = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        where = error.filename if isinstance(error, OSError) and error.filename else path
        return UnusableError(
            f"The taste store {path} cannot be opened: expected a file in a folder that you may read and write, on a "
            f"drive that answers; look at {where}{cause}, and try again."
        )
    return damaged(path)


def damaged(path: Path) -> UnusableError:
    """The refusal of a database that is not what this pack has written, or not any more."""
    return UnusableError(f"The taste store {path} is damaged, or no taste store: {way_out(path)}.")


def lost(path: Path) -> UnusableError:
    """The refusal to begin a new database beside the pictures of another one, which would erase them."""
    return UnusableError(
        f"The pictures of a taste store are in {path.parent}, but its {path.name} is gone or empty: put it back; or, "
        f"{way_out(path)}."
    )


def way_out(path: Path) -> str:
    """What to do with a database that cannot be used: a backup in its place where there is one, or a new beginning."""
    anew = f"to begin anew, move the folder {path.parent} away"
    kept = [backup.name for backup in backups(path)]
    if not kept:
        return anew
    return (
        f"to go on with what stood in the backup {kept[-1]}, move {path.name}, {path.name}-wal and {path.name}-shm "
        f"away and rename the backup to {path.name}; {anew}"
    )


def backups(path: Path) -> list[Path]:
    """The backups beside a database that migrations have made, the newest version last."""
    found = [one for one in path.parent.glob(f"{path.name}.v*") if one.name.rpartition(".v")[2].isdecimal()]
    return sorted(found, key=lambda one: int(one.name.rpartition(".v")[2]))
