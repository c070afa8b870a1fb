"""Pictures: of files, bytes, images and tensors; told apart by content, checked when they come in."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ppd import decoding
from ppd.pictures import Picture, PreferenceError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Picture(data=buffer.getvalue())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_tensor_losslessly(dtype):
    pixels = noise(6, 9, 3)
    found = Picture.from_tensor(torch.from_numpy(pixels).to(dtype) / 255).open()
    np.testing.assert_array_equal(np.asarray(found), pixels)


def test_of_a_tensor_beyond_its_range_and_in_half_precision():
    values = torch.tensor([[[-0.2, 0.5, 1.3]]], dtype=torch.bfloat16)
    assert Picture.from_tensor(values).open().getpixel((0, 0)) == (0, 128, 255)


def test_of_a_tensor_with_other_channels():
    grey = torch.full((4, 4, 1), 0.2)
    assert Picture.from_tensor(grey).open().getpixel((0, 0)) == (51, 51, 51)
    for hidden in (0.0, 0.7):
        clear = torch.full((4, 4, 4), hidden)
        clear[..., 3] = 0
        assert Picture.from_tensor(clear).open().getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(PreferenceError, match=r"a picture \[height, width, 1 to 4\], got \[4, 4, 5\]"):
        Picture.from_tensor(torch.zeros(4, 4, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_with_values_that_are_no_numbers_is_no_picture(value):
    values = torch.zeros(4, 4, 3)
    values[1, 2, 0] = value
    with pytest.raises(PreferenceError, match="no numbers"):
        Picture.from_tensor(values)


def test_images_of_any_mode():
    pixels = noise(5, 5, 4)
    pixels[..., 3] = 255
    picture = Picture.from_image(Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(picture.open()), pixels[..., :3])
    deep = Image.fromarray(np.full((2, 2), 257 * 90, np.uint16))
    assert Picture.from_image(deep).open().getpixel((0, 0)) == (90, 90, 90)


def test_lines_are_no_pictures():
    with pytest.raises(PreferenceError, match="at most 32 times as long as wide"):
        Picture.from_image(Image.new("RGB", (20000, 1)))
    with pytest.raises(PreferenceError, match="at most 32 times as long as wide"):
        encoded(Image.new("RGB", (1, 20000))).check()


def test_reduced_on_request():
    picture = encoded(Image.fromarray(noise(300, 200, 3)))
    assert picture.open(longest_side=100).size == (67, 100)
    assert picture.open(longest_side=300).size == picture.open().size == (200, 300)


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_BYTES", 1 << 20)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(PreferenceError, match="the picture 'large.png' has more than 1 MB"):
        Picture(tmp_path / "large.png").check()


def test_extensions_are_the_formats():
    image = Image.fromarray(noise(8, 8, 3))
    kinds = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}
    assert {kind: encoded(image, kind).extension() for kind in kinds} == kinds
    with pytest.raises(PreferenceError, match="it is no PNG, JPEG, WEBP, BMP, GIF, TIFF picture"):
        Picture(data=b"GIF").extension()
