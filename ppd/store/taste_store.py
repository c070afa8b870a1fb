"""The taste store as its users see it: people and candidates, their pictures, and pairs going in and out.

An acknowledged write is on the disk: pictures are synced before the rows that name them, and a transaction ends in a
sync of its own (synchronous=FULL).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import uuid4

from ..pairs import PreferencePair, read_pairs, write_pairs
from ..pictures import Picture, PreferenceError
from .candidates import Candidates
from .database import Database
from .errors import FullDriveError, MissingError, StoreError, backups, damaged
from .people import Person
from .pictures import StoredPictures, small_picture


class TasteStore(Candidates):
    """A folder with `taste.sqlite3` and `pictures/`, that threads and processes may share. It is opened at the first
    call. Each call is one transaction and fails with StoreError or not at all, and with UnusableError where the folder
    or the database is the cause. `on_erase` hears the hash of every picture that is about to be erased.
    """

    def __init__(self, folder: Path | str, on_erase: Callable[[str], None] = lambda digest: None) -> None:
        self.folder = Path(folder)
        self.on_erase = on_erase
        self.pictures = StoredPictures(self.folder)
        self.database = Database(
            self.folder / "taste.sqlite3", opened=self._erase_orphans, is_bereft=lambda: any(self.pictures.files())
        )

    # People's picks

    def duplicate(self, person: str, name: str) -> Person:
        """A new person with the same candidates and the same standing picks."""
        with self.database.writing() as database:
            source, copy = self.person(person), self._insert_person(database, name)
            database.execute(
                "UPDATE people SET half_life = ?, encoder = ? WHERE id = ?", (source.half_life, source.encoder, copy)
            )
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
        """Erase a person's rows, and then the pictures that nobody else has.

        Backups go before them: the person is in those too, and one who was taken out of a copy would make it none.
        """
        self.person(person)
        with self.database.explained():
            for backup in backups(self.database.path):
                backup.unlink(missing_ok=True)
        try:
            self._delete_rows(person)
        except FullDriveError:  # pictures that go anyway make room for the transaction
            self._erase(self._pictures_only_of(person))
            self._delete_rows(person)
        self._erase_orphans()
        self.database.tidy()

    # Pictures

    def picture(self, digest: str) -> Path:
        """The file of a picture by its sha256; anything else is refused."""
        return self.pictures.path(digest)

    def has_picture(self, digest: str) -> bool:
        """Whether a picture of this sha256 is kept."""
        return self.pictures.has(digest)

    def thumbnail(self, digest: str) -> Path:
        """A small JPEG of a picture, made when it is first asked for."""
        picture, path = Picture(self.picture(digest)), self.pictures.thumbnail_path(digest)
        if not path.is_file():
            data = small_picture(picture)
            with self.database.writing():  # so that none is made of a picture that is erased meanwhile
                self.pictures.keep_thumbnail(digest, data)
        return path

    # Pairs

    def pairs(self, person: str, skipped: list[PreferenceError] | None = None) -> list[PreferencePair]:
        """The person's preference pairs in the order of their picks, faded by the person's half-life.

        One picture twice is no pair, whatever was said of it. A pair whose picture is lost raises PreferenceError; with
        `skipped` it is left out and its error appended there.
        """
        half_life = self.person(person).half_life
        rows = self.database.read(
            "SELECT candidates.id, prompt, first, second, candidates.verdict, picks.created FROM candidates"
            " JOIN picks ON picks.id = pick WHERE person = ? AND candidates.verdict != 'skip' AND first != second"
            " ORDER BY pick",
            (person,),
            (int, str, str, str, str, str),
        )
        pairs = []
        for (candidate, prompt, first, second, verdict, created), weight in zip(
            rows, fade(len(rows), half_life), strict=True
        ):
            chosen, rejected = (second, first) if verdict == "second" else (first, second)
            pair = f"pick-{candidate}"
            try:
                pictures = [Picture(self.picture(digest)) for digest in (chosen, rejected)]
            except MissingError as error:
                if skipped is None:
                    raise PreferenceError(f"Pair {pair!r}: {error}", pair) from error
                skipped.append(PreferenceError(f"Pair {pair!r}: {error}", pair))
                continue
            pairs.append(
                PreferencePair(
                    prompt=prompt,
                    chosen=pictures[0],
                    rejected=pictures[1],
                    id=pair,
                    created=created,
                    tie=verdict == "tie",
                    weight=weight,
                )
            )
        return pairs

    def fingerprint(self, person: str) -> str:
        """Changes when the person's pairs do, how they fade, or which taste encoder reads them."""
        who = self.person(person)
        rows = self.database.read(
            "SELECT pick, verdict FROM candidates WHERE person = ? AND pick IS NOT NULL ORDER BY pick", (person,)
        )
        return hashlib.sha256(repr((person, who.half_life, who.encoder, rows)).encode()).hexdigest()

    def export(self, person: str, folder: Path | str) -> None:
        """Write the person's pairs as a preference set; refused where there are none, for that could not be read."""
        pairs = self.pairs(person)
        if not pairs:
            raise StoreError(
                f"There is nothing to export: {self.person(person).name} has not preferred any picture yet. Answer "
                "questions first."
            )
        write_pairs(folder, pairs)

    def add_pairs(
        self, person: str, path: Path | str, skip_bad: bool = False, skipped: list[PreferenceError] | None = None
    ) -> int:
        """Take over a preference set's pairs as picks; how many of them are new. What the person has said already, be
        it of this set or of their own export, counts once.

        Every pair is checked before the first is written, so that a bad one leaves nothing; with `skip_bad` bad ones
        are left out and their errors appended to `skipped`, but where all are bad the first is raised.
        """
        self.person(person)
        bad: list[PreferenceError] = []
        good = sum(1 for _ in read_pairs(path, skip_bad=skip_bad, skipped=bad))
        if bad and not good:
            raise PreferenceError(f"No pair of {Path(path).name} can be taken over. {bad[0]}", bad[0].pair_id)
        if skipped is not None:
            skipped.extend(bad)
        said, new = Counter(map(_said, self.pairs(person, skipped=[]))), 0
        for pair in read_pairs(path, skip_bad=skip_bad):
            if said[_said(pair)]:
                said[_said(pair)] -= 1
                continue
            candidate = self.add_candidate(person, pair.prompt, pair.chosen, pair.rejected, key=uuid4().hex)
            self.pick(candidate, "tie" if pair.tie else "first", uuid4().hex)
            new += 1
        return new

    # What erasing is made of

    def _delete_rows(self, person: str) -> None:
        with self.database.writing() as database:
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
        rows = self.database.read("SELECT first FROM candidates UNION SELECT second FROM candidates", kinds=(str,))
        named = {digest for (digest,) in rows}
        return ((digest, path) for digest, path in self.pictures.files() if digest not in named)

    def _pictures_only_of(self, person: str) -> list[tuple[str, Path]]:
        rows = self.database.read("SELECT person, first, second FROM candidates", kinds=(str, str, str))
        theirs = {digest for owner, *pair in rows for digest in pair if owner == person}
        others = {digest for owner, *pair in rows for digest in pair if owner != person}
        return [(digest, path) for digest, path in self.pictures.files() if digest in theirs - others]

    def _erase(self, files: Iterable[tuple[str, Path]]) -> None:
        with self.database.explained():
            for digest, path in files:
                if digest:
                    self.on_erase(digest)
                path.unlink(missing_ok=True)


def fade(picks: int, half_life: float | None) -> list[float]:
    """How much each of a person's picks counts, the oldest first: 2^(-newer picks / half-life), or 1 without one."""
    return [1.0 if half_life is None else 2 ** (-(picks - 1 - index) / half_life) for index in range(picks)]


def _said(pair: PreferencePair) -> tuple[str, ...]:
    """What a pair says, whatever it is called: the order of a tie's pictures means nothing."""
    pictures = (pair.chosen.digest, pair.rejected.digest)
    return ("tie", pair.prompt, *sorted(pictures)) if pair.tie else ("pick", pair.prompt, *pictures)
