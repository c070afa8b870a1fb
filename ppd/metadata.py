"""Texts that programs write into the pictures they paint, read without decoding a pixel.

PNG (11.3.3 of its specification): the chunks tEXt, zTXt, iTXt, and ComfyUI's own `comf`, which stands behind the pixels
of animations. WebP and JPEG: EXIF, whose tags hold `name:text` from ComfyUI, and whose UserComment is A1111's and
Forge's. EXIF is read here and not by Pillow, which copies what each tag points to: thousands may point to the same
megabytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

LARGEST_TEXT = 1 << 22
"""Bytes; a graph with pictures embedded has a few millions."""
LARGEST_EXIF = 1 << 24
"""Bytes; in it a workflow with pictures embedded stands before the graph."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"comf")
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_ASCII, _BYTES = 2, (1, 7)
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SCAN, _APP1 = 0xDA, 0xE1
_SETTINGS = "Steps:"

PROMPT, PARAMETERS = "prompt", "parameters"
"""ComfyUI's graph in the API's format as JSON; what A1111 was asked for, in lines."""


def texts_of(path: Path) -> dict[str, str]:
    """Prompt and parameters out of a picture's file, the first of each; OSError where it can't be read.

    What is damaged, or of another format, has none.
    """
    found: dict[str, str] = {}
    with path.open("rb") as file:
        for name, text in _texts(file):
            found.setdefault(name, text)
    return found


def _texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        yield from _png_texts(file)
    elif start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        yield from _exif_texts(_webp_exif(file))
    elif start.startswith(b"\xff\xd8\xff"):
        yield from _exif_texts(_jpeg_exif(file))


def _png_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(8)
    said: set[str] = set()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if said and kind == b"IDAT":
            return  # hundreds of these may follow, and nothing new behind them
        if kind not in _TEXT_CHUNKS or length > LARGEST_TEXT:
            file.seek(length + 4, 1)
            continue
        keyword, _, rest = file.read(length).partition(b"\0")
        file.seek(4, 1)
        name = keyword.decode("latin-1").lower()
        if name in (PROMPT, PARAMETERS) and name not in said:
            said.add(name)
            yield name, _png_text(kind, rest)


def _png_text(kind: bytes, data: bytes) -> str:
    if kind == b"zTXt":
        return _inflated(data[1:]).decode("latin-1")
    if kind == b"iTXt":
        is_compressed, text = data[:1] == b"\1", data[2:].partition(b"\0")[2].partition(b"\0")[2]
        return (_inflated(text) if is_compressed else text).decode(errors="replace")
    return data.decode("latin-1")


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, LARGEST_TEXT)
    except zlib.error:
        return b""


def _webp_exif(file: BinaryIO) -> bytes:
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return file.read(min(length, LARGEST_EXIF))
        file.seek(length + length % 2, 1)
    return b""


def _jpeg_exif(file: BinaryIO) -> bytes:
    file.seek(2)
    while len(head := file.read(4)) == 4:
        mark, kind, length = struct.unpack(">BBH", head)
        if mark != 0xFF or kind == _SCAN or length < 2:
            break
        data = file.read(length - 2)
        if kind == _APP1 and data.startswith(b"Exif\0\0"):
            return data
    return b""


def _exif_texts(data: bytes) -> Iterator[tuple[str, str]]:
    exif = memoryview(data.removeprefix(b"Exif\0\0"))
    order = _ORDERS.get(bytes(exif[:4]))
    if order is None:
        return
    tags = list(_tags(exif, order, 4))
    for name in (PROMPT, PARAMETERS):
        mark = f"{name}:".encode()
        texts = (value for _, kind, _, value in tags if kind == _ASCII and bytes(value[: len(mark)]).lower() == mark)
        for text in islice(texts, 1):
            yield name, bytes(text[len(mark) :][:LARGEST_TEXT]).decode("latin-1").rstrip("\0")
    inner = islice((place for tag, _, place, _ in tags if tag == _EXIF), 1)
    more = (one for place in inner for one in _tags(exif, order, place))
    for comment in islice((value for tag, kind, _, value in more if tag == _USER_COMMENT and kind in _BYTES), 1):
        lines = _user_comment(bytes(comment[:LARGEST_TEXT]))
        if _SETTINGS in lines:  # else a camera's or an editor's remark
            yield PARAMETERS, lines


def _tags(exif: memoryview, order: str, pointer: int) -> Iterator[tuple[int, int, int, memoryview]]:
    """The directory that a pointer at a place leads to (TIFF 6.0, section 2): tag, kind, place of its value or of the
    pointer to that, and the bytes that this leads to, uncopied."""
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, pointer)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
    except struct.error:
        return
    for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, size, value = struct.unpack_from(f"{order}HHII", exif, place)
        yield tag, kind, place + 8, exif[value : value + size]


def _user_comment(data: bytes) -> str:
    """EXIF 2.3, 4.6.5: eight bytes name the encoding. UNICODE is UTF-16 in the file's byte order, but most write big
    end first in any."""
    code, text = data[:8], data[8:]
    if code != b"UNICODE\0":
        return (text if code in (b"ASCII\0\0\0", b"\0" * 8) else data).decode(errors="replace")
    big, little = (text.decode(encoding, errors="replace") for encoding in ("utf-16-be", "utf-16-le"))
    return little if _SETTINGS in little else big
