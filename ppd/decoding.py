"""Encoded pictures to pixels, as a viewer shows them, in memory that the number of pixels bounds.

Pillow's readers are asked by signature, out of a closed list: some of its other readers start outside programs (EPS) or
read further files. What a file says beside its picture (texts, other frames, EXIF but for the orientation) is ignored.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from .messages import reason_of

MOST_PIXELS = 150_000_000
"""At four bytes each 600 MB, while the picture is decoded. Of WebP half of them, since its reader keeps four copies."""
MOST_BYTES = 1 << 29
"""Of an encoded picture."""
LONGEST = 32
"""How many times as long as wide a picture may be: towers scale by the shorter side."""
PAPER = "white"
"""What shows through: printers, file managers and most viewers lay pictures on white, and ComfyUI's IMAGE has no way to
tell, since hidden colours stay in it. Bands of whatever colour below what is fully transparent are never seen."""

_READERS: dict[str, tuple[tuple[bytes, ...], type, str]] = {
    "PNG": ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile, ".png"),
    "JPEG": ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile, ".jpg"),
    "WEBP": ((b"RIFF",), WebPImagePlugin.WebPImageFile, ".webp"),
    "BMP": ((b"BM",), BmpImagePlugin.BmpImageFile, ".bmp"),
    "GIF": ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile, ".gif"),
    "TIFF": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile, ".tif"),
}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
_STRIP = 1 << 20
"""Pixels that are converted at once."""
_LARGEST_PROFILE = 1 << 24

Convert = Callable[[Image.Image], Image.Image]


class NoPictureError(ValueError):
    """What is no picture, or none that can be used; the message is the reason in a few words."""


def decode(data: bytes, longest_side: int | None = None) -> Image.Image:
    """The picture of encoded bytes: RGB, sRGB, upright, the first of an animation; NoPictureError where there is none.

    With `longest_side` it is no larger than that, and what would be larger is never in memory converted.
    """
    signature = signature_of(data)
    try:
        return _decode(signature, data, longest_side)
    except NoPictureError:
        raise
    except Image.DecompressionBombError as error:  # where a reader asks by itself, before it tells the size
        raise NoPictureError(f"it has more than {MOST_PIXELS:,} pixels: make it smaller") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over, struct.error to KeyError
        raise NoPictureError(reason_of(error)) from error


def extension_of(data: bytes) -> str:
    """File name extension of the format, such as '.png'."""
    return _READERS[signature_of(data)][2]


def signature_of(data: bytes) -> str:
    """The format's name, such as 'PNG'."""
    if len(data) > MOST_BYTES:
        raise NoPictureError(f"it has {len(data) >> 20} MB, and at most {MOST_BYTES >> 20} are read")
    for name, (signatures, _, _) in _READERS.items():
        if data.startswith(signatures) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    raise NoPictureError(f"it is no {', '.join(_READERS)} picture")


def check_size(width: int, height: int, most_pixels: int = MOST_PIXELS) -> None:
    """Raise NoPictureError for what has too many pixels, or is a line rather than a picture."""
    if min(width, height) < 1:
        raise NoPictureError(f"it has {width} x {height} pixels")
    if width * height > most_pixels:
        raise NoPictureError(f"it has {width} x {height} pixels, and at most {most_pixels:,} are read: make it smaller")
    if max(width, height) > LONGEST * min(width, height):
        raise NoPictureError(
            f"it has {width} x {height} pixels, and pictures are at most {LONGEST} times as long as wide: crop it"
        )


def to_rgb(image: Image.Image, longest_side: int | None = None, convert: Convert | None = None) -> Image.Image:
    """A PIL image in any mode as RGB, strip by strip, so that little more than the result is added in memory."""
    width, height = image.size
    check_size(width, height)
    if convert is None:
        convert = _conversion(image, None, _brightest(image))
    times = 1 if longest_side is None else max(1, max(width, height) // (2 * longest_side))
    rows = max(1, _STRIP // width // times) * times
    result = Image.new("RGB", (math.ceil(width / times), math.ceil(height / times)))
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(height, top + rows))))
        result.paste(strip.reduce(times) if times > 1 else strip, (0, top // times))
    if longest_side is None or max(result.size) <= longest_side:
        return result
    scale = longest_side / max(width, height)
    return result.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


def _decode(signature: str, data: bytes, longest_side: int | None) -> Image.Image:
    profile = None
    if signature == "PNG":
        data, profile = _png_essentials(data)
    image = _READERS[signature][1](io.BytesIO(data))
    width, height = image.size
    check_size(width, height, MOST_PIXELS // 2 if signature == "WEBP" else MOST_PIXELS)
    if longest_side is not None:
        scale = min(1.0, 2 * longest_side / max(width, height))
        image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))  # JPEG: decoded smaller
    image.load()
    if signature != "PNG":
        profile = image.info.get("icc_profile")
    rgb = to_rgb(image, longest_side, _conversion(image, profile, _brightest(image, signature)))
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _png_essentials(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without all that is no picture, whatever its size, and its colour profile.

    Pillow refuses whole pictures for long texts and profiles, by limits that are the process's and not ours to move.
    """
    kept: list[bytes | memoryview] = [data[:8]]
    profile, at, name = None, 8, b""
    view = memoryview(data)
    while at + 8 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _PNG_CHUNKS:
            kept.append(view[at : at + 12 + length])
        elif name == b"iCCP":
            profile = _inflated(data[at + 8 : at + 8 + length].partition(b"\0")[2][1:])
        at += 12 + length
    return b"".join(kept), profile


def _inflated(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, _LARGEST_PROFILE)
    except zlib.error:
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as many kinds as readers have; a picture whose EXIF is broken is a picture
        return 1


def _brightest(image: Image.Image, signature: str = "") -> float:
    """What is white in a picture of large integers or of floats, which files do not say: the least usual range that
    holds it. Floats of 0 to 1 may have lights far above, which are cut as viewers do."""
    if image.mode not in ("I", "F") or signature == "PNG":
        return 65535
    low, high = np.asarray(image.getextrema(), dtype=float).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NoPictureError("it holds values that are no numbers")
    ranges = ((16, 1), (255, 255), (65535, 65535)) if image.mode == "F" else ((255, 255), (65535, 65535))
    return next((white for reach, white in ranges if high <= reach), high if image.mode == "F" else 2**31 - 1)


def _conversion(image: Image.Image, profile: bytes | None, brightest: float) -> Convert:
    """What makes a strip of the image RGB, and sRGB."""
    if image.mode.startswith(("I", "F")):
        return lambda strip: _scaled(strip, brightest)
    transform = _to_srgb(image, profile)
    if image.mode in ("CMYK", "LAB"):
        return lambda strip: strip.convert("RGB") if transform is None else transform.apply(strip)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return lambda strip: _applied(transform, _on_paper(strip))
    return lambda strip: _applied(transform, strip.convert("RGB"))


def _scaled(strip: Image.Image, brightest: float) -> Image.Image:
    values = np.asarray(strip, dtype=np.float32)
    if not np.isfinite(values).all():
        raise NoPictureError("it holds values that are no numbers")
    return Image.fromarray((values * (255 / brightest)).clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _on_paper(strip: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", strip.size, PAPER)
    return Image.alpha_composite(paper, strip.convert("RGBA")).convert("RGB")


def _applied(transform: ImageCms.ImageCmsTransform | None, strip: Image.Image) -> Image.Image:
    return strip if transform is None else transform.apply(strip)


def _to_srgb(image: Image.Image, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """The way from the image's colour profile to sRGB; None where it has none, sRGB, or one that cannot be used."""
    mode = image.mode if image.mode in ("CMYK", "LAB") else "RGB"
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return None
        srgb = "srgb" in ImageCms.getProfileDescription(source).casefold()
        if srgb or source.profile.xcolor_space.strip().upper() != mode:
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, AttributeError):
        return None
