"""Letting people go: their rows, then the pictures that nobody else has, then what the journal still holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .candidates import NAMED
from .errors import FullDriveError, backups, damaged
from .ratings import Ratings


class Erasing(Ratings):
    """Erases people of a database and pictures beside it. `on_erase` hears the hash of every picture that goes."""

    on_erase: Callable[[str], None]

    def delete_person(self, person: str) -> bool:
        """Erase a person's rows, and then the pictures that nobody else has; whether nothing at all is left.

        While another program reads what was there before, the journal holds it; that goes with the first call after
        the other program has let go. Backups go before the rows: the person is in those too, and one who was taken out
        of a copy would make it none.
        """
        try:
            self._delete_rows(person)
        except FullDriveError:  # pictures that go anyway make room for the transaction
            with self.database.writing():
                self._erase(self._pictures_only_of(person))
            self._delete_rows(person)
        self._erase_orphans()
        return self.database.tidy()

    def _delete_rows(self, person: str) -> None:
        with self.database.writing() as database:
            self.person(person)
            for backup in backups(self.database.path):
                backup.unlink(missing_ok=True)
            database.execute("DELETE FROM people WHERE id = ?", (person,))

    def _erase_orphans(self) -> None:
        """Erase every picture that no row names. Only after the rows are gone for good: a row must have its picture;
        and only where no row can have been lost otherwise."""
        if not any(self._orphans()):
            return
        if not self.database.is_whole():
            raise damaged(self.database.path)
        with self.database.writing():  # pictures are filed in a transaction too, so that none of those is taken
            self._erase(self._orphans())

    def _orphans(self) -> Iterator[tuple[str, Path]]:
        named = {digest for _, digest in self.database.read(NAMED, kinds=(str, str))}
        return ((digest, path) for digest, path in self.pictures.files() if digest not in named)

    def _pictures_only_of(self, person: str) -> list[tuple[str, Path]]:
        rows = self.database.read(NAMED, kinds=(str, str))
        theirs = {digest for owner, digest in rows if owner == person}
        others = {digest for owner, digest in rows if owner != person}
        return [(digest, path) for digest, path in self.pictures.files() if digest in theirs - others]

    def _erase(self, files: Iterable[tuple[str, Path]]) -> None:
        with self.database.explained():
            for digest, path in files:
                if digest:
                    self.on_erase(digest)
                path.unlink(missing_ok=True)
