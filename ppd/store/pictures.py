"""The pictures beside the database, by the sha256 of their files, and small ones of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..files import write_synced
from ..pictures import Picture
from .errors import MissingError

THUMBNAIL = 192
"""Longer side in pixels."""


class StoredPictures:
    """The folders `pictures/` and `thumbnails/` of a store; who writes or erases holds the database's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self.thumbnails = folder / "thumbnails"

    def path(self, digest: str) -> Path:
        """The file of a picture by its sha256; anything else is refused."""
        if not self.has(digest):
            raise MissingError(
                f"There is no picture {digest[:64]!r} in the taste store: its file in {self.folder} is lost; restore "
                "it, or leave it out by skipping bad pairs."
            )
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether a picture of this sha256 is kept."""
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            return False
        path = self.folder / digest[:2] / digest
        return path.is_file() and not path.is_symlink()

    def keep(self, picture: Picture) -> str:
        """The sha256 of a picture's file, which lies in the store and on the disk from now on."""
        data = picture.read()
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / digest[:2] / digest
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(path, data)
        return digest

    def thumbnail_path(self, digest: str) -> Path:
        """Where the small picture of a picture is, or will be."""
        return self.thumbnails / digest[:2] / f"{digest}.jpg"

    def keep_thumbnail(self, digest: str, data: bytes) -> None:
        """Write the small picture of a picture, which must still be there."""
        self.path(digest)
        path = self.thumbnail_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, data)

    def files(self) -> Iterator[tuple[str, Path]]:
        """All files with the sha256 of the picture they are of; thumbnails before what they are made of. What a cut
        writing has left, which is of no picture, comes with ""."""
        for path in (*self.thumbnails.glob("*/*"), *self.folder.glob("*/*")):
            yield "" if path.name.endswith(".part") else path.stem, path
