"""Decoding: what a viewer shows, in bounded memory, and one sentence for what is no picture."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ppd.decoding import LONGEST, MOST_PIXELS, NoPictureError, decode, extension_of
from tests.mutations import mutations

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
ROOT = Path(__file__).parents[1]
RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(data, **options):
    return np.asarray(decode(data, **options))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(png, name, data):
    """A PNG with one more chunk, before its pixels."""
    return png[:33] + png_chunk(name, data) + png[33:]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_ordinary_pixels_stay_as_they_are(kind):
    image = noise(20, 30, 3)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(image), kind, **options)), image)


def test_jpeg_pixels_are_pillows():
    data = encoded(Image.fromarray(noise(40, 60, 3)), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels(data), np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    found = pixels(encoded(Image.fromarray(RAMP), kind))
    wanted = np.round(RAMP / 257)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("white", [1, 255, 65535, 1e6])
def test_floats_are_scaled(white):
    values = (RAMP / 65535 * white).astype(np.float32)
    found = pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    assert np.abs(found - RAMP / 257).max() < 0.51


def test_lights_beyond_white_are_cut():
    values = np.full((4, 4), 0.5, np.float32)
    values[0, 0] = 3
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[255, 128, 128, 128], *[[128] * 4] * 3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_no_picture(value):
    values = np.zeros((4, 4), np.float32)
    values[2, 2] = value
    with pytest.raises(NoPictureError, match="no numbers"):
        decode(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_what_nobody_sees_changes_nothing(kind):
    """Colours under full transparency; white is behind, and what is opaque stays."""
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    first = noise(12, 16, 4)
    first[:4, :, 3], first[4:8, :, 3] = 0, 255
    second = first.copy()
    second[:4, :, :3] = 9
    shown, other = (pixels(encoded(Image.fromarray(image), kind, **options)) for image in (first, second))
    np.testing.assert_array_equal(shown, other)
    assert (shown[:4] == 255).all()
    np.testing.assert_array_equal(shown[4:8], first[4:8, :, :3])
    alpha = first[8:, :, 3:] / 255
    assert np.abs(shown[8:] - (first[8:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_palettes_and_their_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 50])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "PNG")).tolist() == [[[200, 10, 20], [30, 40, 50]]]
    for kind in ("PNG", "GIF"):
        assert pixels(encoded(image, kind, transparency=1)).tolist() == [[[200, 10, 20], [255, 255, 255]]]


def test_grey_with_a_transparent_value():
    image = Image.fromarray(np.array([[0, 100]], np.uint8))
    assert pixels(encoded(image, "PNG", transparency=100))[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_looks_as_it_was_painted(kind):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(encoded(image, kind)).astype(int) - (255, 0, 0)).max() <= 2


def test_lab_looks_as_it_was_painted():
    wanted = noise(8, 8, 3) // 4 + 90
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(wanted), srgb, lab, outputMode="LAB")
    assert np.abs(pixels(encoded(image, "TIFF")).astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_as_exif_says(kind, orientation):
    corners = np.array([[0, 80], [160, 240]], np.uint8).repeat(16, 0).repeat(24, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = pixels(encoded(Image.fromarray(corners), kind, exif=exif))
    wanted = [
        [[0, 80], [160, 240]],
        [[80, 0], [240, 160]],
        [[240, 160], [80, 0]],
        [[160, 240], [0, 80]],
        [[0, 160], [80, 240]],
        [[160, 0], [240, 80]],
        [[240, 80], [160, 0]],
        [[80, 240], [0, 160]],
    ][orientation - 1]
    height, width = shown.shape[:2]
    assert (height > width) == (orientation > 4)
    found = shown[height // 4 :: height // 2, width // 4 :: width // 2, 0].astype(int)
    assert np.abs(found - wanted).max() <= 6


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"?"]
)
def test_a_picture_whose_exif_is_broken_is_a_picture(exif):
    image = Image.fromarray(noise(16, 24, 3))
    for kind in ("JPEG", "PNG", "WEBP"):
        assert pixels(encoded(image, kind, exif=b"Exif\0\0" + exif)).shape == (16, 24, 3)
    tiff = encoded(image, "TIFF")
    for damaged in mutations(tiff[-200:], 50):  # its directory is at the end
        try:
            decode(tiff[:-200] + damaged)
        except NoPictureError:
            continue


def test_long_texts_and_profiles_are_passed_over():
    image = noise(8, 8, 3)
    png = encoded(Image.fromarray(image), "PNG")
    long = zlib.compress(b"x" * 70_000_000)
    for name, data in (
        (b"zTXt", b"workflow\0\0" + long),
        (b"iTXt", b"prompt\0\1\0\0\0" + long),
        (b"iCCP", b"p\0\0" + long),
    ):
        np.testing.assert_array_equal(pixels(with_chunk(png, name, data)), image)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1_300_000)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(image), "PNG", icc_profile=profile)), image)


def wide_gamut():
    """An RGB profile with another curve than sRGB's: its red, green and blue are sRGB's with their curves taken off."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack_from(">I", data, 128)[0]):
        name, start, _ = struct.unpack_from(">4sII", data, 132 + 12 * number)
        if name.endswith(b"TRC"):
            data[start : start + 14] = struct.pack(">4sIIH", b"curv", 0, 1, 256)  # gamma 1
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Line".encode("utf-16-be")).replace(b"sRGB", b"Line")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colour_profiles_are_followed(kind):
    linear = np.full((4, 4, 3), 55, np.uint8)  # linear light of sRGB's middle grey, 128
    assert np.abs(pixels(encoded(Image.fromarray(linear), kind, icc_profile=wide_gamut())).astype(int) - 128).max() <= 1
    plain = pixels(encoded(Image.fromarray(linear), kind, icc_profile=b"no profile"))
    np.testing.assert_array_equal(plain, linear)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels(data)[0, 0].astype(int) - (250, 0, 0)).max() <= 1


def test_several_pictures_in_a_jpeg_are_a_jpeg():
    """As phones make them; Pillow calls them MPO."""
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0))]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert extension_of(data) == ".jpg"
    assert np.abs(pixels(data)[0, 0].astype(int) - (250, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    ("size", "wanted"), [((2000, 1000), (500, 250)), ((1000, 3000), (167, 500)), ((400, 300), (400, 300))]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_reduced_to_the_longest_side(kind, size, wanted):
    ramp = np.linspace(0, 255, size[0]).astype(np.uint8)[None, :, None].repeat(size[1], 0).repeat(3, 2)
    shown = pixels(encoded(Image.fromarray(ramp), kind), longest_side=500)
    assert shown.shape == (wanted[1], wanted[0], 3)
    middle = (np.arange(wanted[0]) + 0.5) / wanted[0] * 255
    assert np.abs(shown[wanted[1] // 2, :, 0] - middle).mean() < 1.5


def empty_png(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def test_too_large_and_too_long_is_said():
    with pytest.raises(NoPictureError, match=r"it has 20000 x 20000 pixels, and at most 150,000,000 are read"):
        decode(empty_png(20000, 20000))
    with pytest.raises(NoPictureError, match=r"it has 20000 x 1 pixels, and pictures are at most 32 times as long"):
        decode(encoded(Image.new("RGB", (20000, 1)), "PNG"))
    assert decode(encoded(Image.new("RGB", (LONGEST * 3, 3)), "PNG")).size == (LONGEST * 3, 3)
    assert 12_000 * 12_000 < MOST_PIXELS


PEAK = """
import sys
from ppd.decoding import decode
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
data = open(sys.argv[1], "rb").read()
before = peak()
decode(data, longest_side=512)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
@pytest.mark.parametrize(
    ("mode", "kind", "bytes_a_pixel"),
    [("RGB", "PNG", 4), ("RGBA", "PNG", 4), ("P", "PNG", 1), ("I;16", "PNG", 2), ("RGB", "JPEG", 1), ("F", "TIFF", 4)],
)
def test_memory_is_bounded_by_the_pixels(tmp_path, mode, kind, bytes_a_pixel):
    side = 5000
    Image.new(mode, (side, side)).save(tmp_path / "large", kind)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "large")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert int(found) < side * side * bytes_a_pixel * 1.1 + 60e6


def samples():
    """Small pictures in the formats' modes, by name."""
    colour, alpha = Image.fromarray(noise(16, 24, 3)), Image.fromarray(noise(16, 24, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [colour.rotate(90)]}
    return {
        "png": encoded(colour, "PNG", exif=exif, icc_profile=wide_gamut()),
        "png alpha": encoded(alpha, "PNG"),
        "png palette": encoded(colour.quantize(16), "PNG", transparency=3),
        "png 16": encoded(Image.fromarray(RAMP), "PNG"),
        "jpeg": encoded(colour, "JPEG", exif=exif, icc_profile=wide_gamut()),
        "jpeg progressive": encoded(colour, "JPEG", progressive=True),
        "jpeg cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "webp": encoded(alpha, "WEBP", exif=exif),
        "webp lossless": encoded(colour, "WEBP", lossless=True, **frames),
        "bmp": encoded(colour, "BMP"),
        "gif": encoded(colour, "GIF", **frames),
        "tiff": encoded(colour, "TIFF", exif=exif),
        "tiff lzw": encoded(alpha, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(colour, "TIFF", compression="jpeg"),
        "tiff float": encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    }


@pytest.mark.parametrize("name", samples())
def test_damaged_pictures_are_pictures_or_refused_in_a_sentence(name):
    refused = 0
    for data in mutations(samples()[name], 40, seed=len(name)):
        try:
            image = decode(data, longest_side=64)
        except NoPictureError as error:
            refused += 1
            assert 0 < len(str(error)) <= 200 and "\n" not in str(error)
        else:
            assert image.mode == "RGB" and max(image.size) <= 64
    assert refused >= 5
