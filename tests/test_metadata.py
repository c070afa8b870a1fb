"""Texts in pictures' files, as the programs write them that paint."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image, PngImagePlugin

from ppd.metadata import LARGEST_TEXT, texts_of

PARAMETERS = "a fox, 柿 tree\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Size: 512x512"
GRAPH = json.dumps({"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}})


def picture():
    return Image.new("RGB", (64, 48), (200, 80, 20))


def comment(text, encoding, code=b"UNICODE\0"):
    """EXIF with a UserComment."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = code + text.encode(encoding)
    return exif


def test_png_texts_in_every_kind_of_chunk(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "nobody asks for it")
    info.add_text("prompt", GRAPH)
    info.add_text("Parameters", PARAMETERS)  # no Latin-1: iTXt
    info.add_text("prompt", "a second one")
    picture().save(tmp_path / "a.png", pnginfo=info)
    found = {"prompt": GRAPH, "parameters": PARAMETERS}
    assert texts_of(tmp_path / "a.png") == found
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", GRAPH, zip=True)
    info.add_itxt("parameters", PARAMETERS, zip=True)
    info.add(b"comf", b"prompt\0late", after_idat=True)
    picture().save(tmp_path / "b.png", pnginfo=info)
    assert texts_of(tmp_path / "b.png") == found  # the pixels are not passed where all is said before them
    info = PngImagePlugin.PngInfo()
    info.add(b"comf", b"prompt\0" + GRAPH.encode(), after_idat=True)
    picture().save(tmp_path / "c.png", pnginfo=info)
    assert texts_of(tmp_path / "c.png") == {"prompt": GRAPH}


def test_a_graph_of_megabytes_is_read_and_what_claims_to_be_more_is_cut_or_passed_over(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "y" * 5_000_000)
    info.add_text("prompt", "x" * 4_000_000)
    info.add_text("parameters", "0" * 80_000_000, zip=True)
    picture().save(tmp_path / "a.png", pnginfo=info)
    texts = texts_of(tmp_path / "a.png")
    assert {name: len(text) for name, text in texts.items()} == {"prompt": 4_000_000, "parameters": LARGEST_TEXT}
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[:33] + struct.pack(">I4s", (1 << 32) - 1, b"tEXt") + data[33:])
    assert texts_of(tmp_path / "b.png") == {}


def png_of(*chunks):
    data = b"".join(struct.pack(">I", len(text)) + kind + text + b"crc!" for kind, text in chunks)
    return b"\x89PNG\r\n\x1a\n" + data


def webp_of(entries, rest, inner=()):
    """EXIF with directories of such entries in a row, and what they point to behind them."""
    directories = b"".join(struct.pack("<H", len(one)) + b"".join(one) for one in (entries, inner))
    exif = b"II*\0" + struct.pack("<I", 8) + directories + rest
    return b"RIFF\0\0\0\0WEBPEXIF" + struct.pack("<I", len(exif)) + exif


def tags(number, count, kind, length, where):
    return [struct.pack("<HHII", number, kind, length, where)] * count


PACKED = zlib.compress(b" " * (1 << 26), 9)
BEHIND, MANY = 8 + 2 * 2, 20_000


@pytest.mark.parametrize(
    "data",
    [
        png_of(*((b"zTXt", f"name{number}\0\0".encode() + PACKED) for number in range(20))),
        png_of(*[(b"zTXt", b"prompt\0\0" + PACKED)] * 20),
        png_of(*[(b"iTXt", b"Parameters\0\1\0\0\0" + PACKED)] * 20),
        png_of(*[(b"tEXt", b"")] * 100_000),
        webp_of(tags(0x0110, MANY, 2, 1 << 22, BEHIND + 12 * MANY), b"prompt:" + b"x" * (1 << 22)),
        webp_of(tags(0x0110, MANY, 3, 1 << 21, BEHIND + 12 * MANY), b"prompt:" + b"x" * (1 << 22)),
        webp_of(
            tags(0x8769, MANY, 4, 1, 10 + 12 * MANY),
            b"UNICODE\0" + b"x" * (1 << 22),
            tags(0x9286, MANY, 7, 1 << 22, BEHIND + 24 * MANY),
        ),
    ],
    ids=["names", "one name", "iTXt", "chunks", "tags", "numbers", "comments"],
)
def test_no_picture_takes_long_or_much_memory(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        texts = texts_of(tmp_path / "a")
        assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert all(len(text) <= LARGEST_TEXT for text in texts.values())


@pytest.mark.parametrize("ending", ["webp", "jpg"])
def test_exif_of_comfyui(tmp_path, ending):
    exif = picture().getexif()
    exif[0x0110], exif[0x010F] = f"prompt:{GRAPH}", 'workflow:{"nodes": []}'
    picture().save(tmp_path / f"a.{ending}", exif=exif)
    assert texts_of(tmp_path / f"a.{ending}") == {"prompt": GRAPH}


@pytest.mark.parametrize("ending", ["webp", "jpg"])
@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("utf-16-be", b"UNICODE\0"),
        ("utf-16-le", b"UNICODE\0"),
        ("utf-8", b"ASCII\0\0\0"),
        ("utf-8", b"\0" * 8),
        ("utf-8", b""),
    ],
)
def test_a_user_comment_in_every_encoding(tmp_path, ending, encoding, code):
    picture().save(tmp_path / f"a.{ending}", exif=comment(PARAMETERS, encoding, code))
    assert texts_of(tmp_path / f"a.{ending}") == {"parameters": PARAMETERS}


def test_exif_of_either_byte_order(tmp_path):
    exif = comment(PARAMETERS, "utf-16-be")
    exif[0x0110], exif.endian = f"prompt:{GRAPH}", ">"
    assert exif.tobytes().startswith(b"Exif\0\0MM")
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert texts_of(tmp_path / "a.jpg") == {"prompt": GRAPH, "parameters": PARAMETERS}


def test_a_cameras_comment_is_no_prompt(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=comment("Screenshot", "utf-8", b"ASCII\0\0\0"))
    assert texts_of(tmp_path / "a.jpg") == {}


def test_what_is_damaged_or_another_format_has_none(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", GRAPH)
    exif = comment(PARAMETERS, "utf-16-be")
    for ending, more in (("png", {"pnginfo": info}), ("webp", {"exif": exif}), ("jpg", {"exif": exif})):
        picture().save(tmp_path / f"a.{ending}", **more)
        data = (tmp_path / f"a.{ending}").read_bytes()
        for end in range(0, len(data), 7):  # cut anywhere it says less, and never fails
            (tmp_path / "cut").write_bytes(data[:end])
            assert set(texts_of(tmp_path / "cut")) <= {"parameters", *("prompt"[:n] for n in range(7))}
    (tmp_path / "a.webp").write_bytes(b"RIFF\0\0\0\0WEBPEXIF" + struct.pack("<I", 20) + b"Exif\0\0II*\0" + b"\xff" * 12)
    assert texts_of(tmp_path / "a.webp") == {}
    picture().save(tmp_path / "a.gif")
    assert texts_of(tmp_path / "a.gif") == {}
    with pytest.raises(FileNotFoundError):
        texts_of(tmp_path / "gone.png")
