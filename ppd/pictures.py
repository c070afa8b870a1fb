"""Pictures: a file or the bytes of one, decoded, checked and told apart by content."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .files import Stamp, file_digest, stamp

# A closed list: some of Pillow's other readers start outside programs (EPS) or read further files.
EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}

_checked: dict[Path, Stamp] = {}


class PreferenceError(ValueError):
    """A preference set, pair or picture that cannot be used; `pair_id` names the pair where there is one."""

    def __init__(self, message: str, pair_id: str | None = None) -> None:
        super().__init__(message)
        self.pair_id = pair_id


@dataclass(frozen=True)
class Picture:
    """One picture: a file (`path`) or the encoded bytes of one (`data`)."""

    path: Path | None = None
    data: bytes | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise PreferenceError("A picture is given by its path or by its bytes, expected exactly one of the two.")

    def __repr__(self) -> str:
        return f"Picture({str(self.path)!r})" if self.path is not None else f"Picture({len(self.data or b'')} bytes)"

    @classmethod
    def from_image(cls, image: Image.Image) -> Picture:
        """The picture of a PIL image, losslessly (PNG)."""
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG", compress_level=1)
        return cls(data=buffer.getvalue())

    @property
    def label(self) -> str:
        """What messages call the picture: its file name."""
        return repr(self.path.name) if self.path is not None else "stored in the file"

    def read(self) -> bytes:
        """The encoded bytes."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise PreferenceError(f"the picture {self.label} cannot be read ({reason_of(error)})") from error

    def open(self) -> Image.Image:
        """The decoded picture, RGB, turned upright as its EXIF data say."""
        return self._decode(check_only=False)

    def check(self) -> None:
        """Raise PreferenceError unless the whole picture decodes; a file is decoded once per change."""
        now = None if self.path is None else picture_stamp(self.path)
        if self.path is None or _checked.get(self.path) != now:
            self._decode(check_only=True)
        if self.path is not None and now is not None:
            _checked[self.path] = now

    @property
    def digest(self) -> str:
        """sha256 of the encoded bytes; for a file remembered by path, size and modification time."""
        if self.path is None:
            return self._data_digest
        try:
            return file_digest(self.path)
        except OSError as error:
            raise PreferenceError(f"the picture {self.path.name!r} cannot be read ({reason_of(error)})") from error

    @cached_property
    def _data_digest(self) -> str:
        return hashlib.sha256(self.data or b"").hexdigest()

    def _decode(self, check_only: bool) -> Image.Image:
        data = self.read()
        try:
            with Image.open(io.BytesIO(data), formats=list(EXTENSIONS)) as image:
                if check_only:
                    image.draft("RGB", (32, 32))  # JPEG: reads all the data, but skips most of the arithmetic
                    image.load()
                    return image
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise PreferenceError(f"the picture {self.label} cannot be decoded ({reason_of(error)})") from error

    def extension(self) -> str:
        """File name extension of the picture's format, such as '.png'."""
        self.check()
        with Image.open(io.BytesIO(self.read()), formats=list(EXTENSIONS)) as image:
            return EXTENSIONS[str(image.format)]


def picture_stamp(path: Path) -> Stamp:
    """What tells whether a picture's file has changed; PreferenceError where it cannot be asked."""
    try:
        return stamp(path)
    except OSError as error:
        raise PreferenceError(f"the picture {path.name!r} cannot be read ({reason_of(error)})") from error


def reason_of(error: BaseException) -> str:
    """The cause in a few words, without the paths that system errors repeat."""
    if isinstance(error, UnidentifiedImageError):  # which names the buffer that the bytes lay in
        return f"it is no {', '.join(EXTENSIONS)} picture"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
