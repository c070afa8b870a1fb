"""Texts in pictures' files, as the programs write them that paint."""

from __future__ import annotations

import json
import struct

import pytest
from PIL import Image, PngImagePlugin

from ppd.metadata import texts_of

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
    info.add_text("prompt", GRAPH)
    info.add_text("Parameters", PARAMETERS)  # no Latin-1: iTXt
    info.add_text("packed", "x" * 1000, zip=True)
    info.add_itxt("packed too", PARAMETERS, zip=True)
    info.add(b"comf", b"late\0behind the pixels", after_idat=True)
    info.add_text("prompt", "a second one")
    picture().save(tmp_path / "a.png", pnginfo=info)
    found = {"prompt": GRAPH, "parameters": PARAMETERS, "packed": "x" * 1000, "packed too": PARAMETERS}
    assert texts_of(tmp_path / "a.png") == found  # the pixels are not passed where all is said before them
    info = PngImagePlugin.PngInfo()
    info.add(b"comf", b"prompt\0" + GRAPH.encode(), after_idat=True)
    picture().save(tmp_path / "b.png", pnginfo=info)
    assert texts_of(tmp_path / "b.png") == {"prompt": GRAPH}


def test_a_workflow_of_megabytes_is_read_and_what_claims_to_be_more_is_passed_over(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "y" * 5_000_000)
    info.add_text("bomb", "0" * 80_000_000, zip=True)
    info.add_text("prompt", GRAPH)
    picture().save(tmp_path / "a.png", pnginfo=info)
    texts = texts_of(tmp_path / "a.png")
    assert (len(texts["workflow"]), len(texts["bomb"]), texts["prompt"]) == (5_000_000, 1 << 26, GRAPH)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[:33] + struct.pack(">I4s", (1 << 32) - 1, b"tEXt") + data[33:])
    assert texts_of(tmp_path / "b.png") == {}


@pytest.mark.parametrize("ending", ["webp", "jpg"])
def test_exif_of_comfyui(tmp_path, ending):
    exif = picture().getexif()
    exif[0x0110], exif[0x010F] = f"prompt:{GRAPH}", 'workflow:{"nodes": []}'
    picture().save(tmp_path / f"a.{ending}", exif=exif)
    assert texts_of(tmp_path / f"a.{ending}") == {"prompt": GRAPH, "workflow": '{"nodes": []}'}


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


def test_a_cameras_comment_is_no_prompt(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=comment("Screenshot", "utf-8", b"ASCII\0\0\0"))
    assert texts_of(tmp_path / "a.jpg") == {}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
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
