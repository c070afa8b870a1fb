"""A taste as one file to keep, to send and to drop: a user embedding, and of its owner only what they want to tell."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from .files import read_shapes
from .pictures import Picture

SIDE = 128
"""Pixels of a thumbnail's longer side, at most."""
LONGEST_NAME, LONGEST_NOTE, LARGEST_THUMBNAIL = 80, 500, 32_000
"""Letters of each."""


@dataclass(frozen=True)
class TasteCard:
    """What a taste's file tells beside the taste; each is empty unless its owner wants it there. `thumbnail` is a small
    JPEG in base64."""

    name: str = ""
    note: str = ""
    thumbnail: str = ""

    def metadata(self) -> dict[str, str]:
        """What is told, for `UserEmbedding.save`."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def of_file(cls, path: Path) -> TasteCard:
        """What a file tells, cut to its limits; a thumbnail that is no small JPEG is left out."""
        _, metadata = read_shapes(path, "user embedding")
        name, note = (
            _line(metadata.get(key, ""), longest) for key, longest in (("name", LONGEST_NAME), ("note", LONGEST_NOTE))
        )
        thumbnail = metadata.get("thumbnail", "")
        return cls(name, note, thumbnail if _is_thumbnail(thumbnail) else "")


def thumbnail_of(picture: Picture) -> str:
    """A picture as a card's thumbnail."""
    return base64.b64encode(picture.small_jpeg(SIDE)).decode()


def _is_thumbnail(text: str) -> bool:
    if not 0 < len(text) <= LARGEST_THUMBNAIL:
        return False
    try:
        data = base64.b64decode(text, validate=True)
        size = Image.open(io.BytesIO(data), formats=["JPEG"]).size  # before a few bytes become millions of pixels
        return max(size) <= SIDE and Picture(data=data).open().size == size
    except (ValueError, OSError, Image.DecompressionBombError):
        return False


def _line(text: str, longest: int) -> str:
    return " ".join(text[: 4 * longest].split())[:longest]
