"""Pictures: a file or the bytes of one, decoded, checked and told apart by content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from . import decoding
from .files import Stamp, file_digest, stamp
from .messages import quoted, reason_of

SEEN_SIDE = 4096
"""Longest side in pixels that towers look at: decoded larger, a picture would take gigabytes as a tensor."""
_CHECKED_SIDE = 32
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of files that are taken for pictures where a folder is looked through."""

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
        with _named("given"):
            decoding.to_rgb(image).save(buffer, "PNG", compress_level=1)
        return cls(data=buffer.getvalue())

    @classmethod
    def from_tensor(cls, values: Tensor) -> Picture:
        """The picture of an IMAGE's values [H, W, 1 to 4 channels] in 0..1, losslessly but for rounding to 8 bits."""
        if values.ndim != 3 or not 1 <= values.shape[-1] <= 4:
            raise PreferenceError(f"expected a picture [height, width, 1 to 4], got {list(values.shape)}.")
        check_numbers(values)
        pixels = (values.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return cls.from_image(Image.fromarray(pixels[..., 0] if values.shape[-1] == 1 else pixels))

    @property
    def label(self) -> str:
        """What messages call the picture: its file name."""
        return quoted(self.path.name) if self.path is not None else "stored in the file"

    def read(self) -> bytes:
        """The encoded bytes."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        if picture_stamp(self.path)[0] > decoding.MOST_BYTES:
            raise PreferenceError(f"the picture {self.label} has more than {decoding.MOST_BYTES >> 20} MB")
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise PreferenceError(f"the picture {self.label} cannot be read ({reason_of(error)})") from error

    def open(self, longest_side: int | None = None) -> Image.Image:
        """The decoded picture as a viewer shows it: RGB, upright, what is transparent on white.

        With `longest_side` it is reduced to that where it is larger, in little more memory than four bytes a pixel.
        """
        data = self.read()
        with _named(self.label):
            return decoding.decode(data, longest_side)

    def small_jpeg(self, longest_side: int) -> bytes:
        """It as a JPEG of at most so many pixels a side, for lists; errors as of `open`."""
        buffer = io.BytesIO()
        self.open(longest_side=longest_side).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def check(self) -> None:
        """Raise PreferenceError unless the whole picture decodes; a file is decoded once per change."""
        now = None if self.path is None else picture_stamp(self.path)
        if self.path is None or _checked.get(self.path) != now:
            self.open(longest_side=_CHECKED_SIDE)  # the same way, so that what is let in can be shown
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
            raise PreferenceError(f"the picture {self.label} cannot be read ({reason_of(error)})") from error

    @cached_property
    def _data_digest(self) -> str:
        return hashlib.sha256(self.data or b"").hexdigest()

    def extension(self) -> str:
        """File name extension of the picture's format, such as '.png'."""
        self.check()
        with _named(self.label):
            return decoding.extension_of(self.read())


@contextmanager
def _named(label: str) -> Iterator[None]:
    try:
        yield
    except decoding.NoPictureError as error:
        raise PreferenceError(f"the picture {label} cannot be decoded ({error})") from error


def check_numbers(values: Tensor) -> None:
    """PreferenceError where an IMAGE's values are not finite: they are neither above nor below what is asked for."""
    if not values.isfinite().all():
        raise PreferenceError("a picture holds values that are no numbers (NaN or infinite): paint it again.")


def picture_stamp(path: Path) -> Stamp:
    """What tells whether a picture's file has changed; PreferenceError where it cannot be asked."""
    try:
        return stamp(path)
    except OSError as error:
        raise PreferenceError(f"the picture {quoted(path.name)} cannot be read ({reason_of(error)})") from error


def pictures_below(folder: Path) -> list[Picture]:
    """All pictures of a folder and of the folders in it, by name; hidden ones and links to elsewhere are left out."""
    root = folder.resolve()
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.resolve().is_relative_to(root)
        and path.is_file()
    ]
    if not found:
        raise ValueError(f"There are no pictures in {folder.name!r}: expected {', '.join(ENDINGS)} files.")
    return [Picture(path) for path in found]
