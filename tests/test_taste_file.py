"""What a taste's file tells beside the taste: nothing, unless it is asked for."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ppd.pictures import Picture
from ppd.taste_file import SIDE, TasteCard, thumbnail_of
from ppd.user_embedding import UserEmbedding


@pytest.fixture
def embedding():
    return UserEmbedding(torch.ones(1, 6), "tower", "0" * 64, 4, "2026-01-01")


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_nothing_is_told_by_itself(embedding, tmp_path):
    embedding.save(tmp_path / "a.safetensors", card=TasteCard().metadata())
    assert set(metadata(tmp_path / "a.safetensors")) == {
        *("format", "version", "encoder", "encoder_hash", "pairs", "created")
    }
    assert TasteCard.of_file(tmp_path / "a.safetensors") == TasteCard()


def test_what_is_wanted_is_there_and_the_taste_loads_as_ever(embedding, tmp_path):
    thumbnail = thumbnail_of(Picture.from_image(Image.new("RGB", (640, 320), (200, 30, 30))))
    card = TasteCard("Ann", "evenings by the lake", thumbnail)
    embedding.save(tmp_path / "a.safetensors", card=card.metadata())
    assert TasteCard.of_file(tmp_path / "a.safetensors") == card
    assert torch.equal(UserEmbedding.load(tmp_path / "a.safetensors").u, embedding.u)
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail)))
    assert (image.format, image.size) == ("JPEG", (SIDE, SIDE // 2))
    assert not image.getexif() and "comment" not in image.info


def png(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def large_jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE + 1, 8)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "thumbnail", ["no base64!", "é" * 8, base64.b64encode(b"x" * 99).decode(), png(8), large_jpeg()]
)
def test_a_thumbnail_that_is_no_small_jpeg_is_left_out(tmp_path, thumbnail):
    save_file({"u": torch.ones(1)}, tmp_path / "a.safetensors", {"thumbnail": thumbnail, "name": " two\n words "})
    assert TasteCard.of_file(tmp_path / "a.safetensors") == TasteCard("two words")


def test_texts_are_cut(tmp_path):
    save_file({"u": torch.ones(1)}, tmp_path / "a.safetensors", {"name": "n" * 999, "note": "o" * 9999})
    card = TasteCard.of_file(tmp_path / "a.safetensors")
    assert (len(card.name), len(card.note)) == (80, 500)
