"""The taste store as its users see it.

An acknowledged write is on the disk: pictures are synced before the rows that name them, and a transaction ends in a
sync of its own (synchronous=FULL).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..pictures import Picture
from .blind_tests import BlindTests
from .database import Database
from .pictures import THUMBNAIL, StoredPictures


class TasteStore(BlindTests):
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
            data = picture.small_jpeg(THUMBNAIL)
            with self.database.writing():  # so that none is made of a picture that is erased meanwhile
                self.pictures.keep_thumbnail(digest, data)
        return path
