"""Real pictures with known edits: eight looks that Pillow and NumPy can give to any picture, to any degree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SIZE = 256
WORDS = {
    "saturation": ("muted", "vivid"),
    "brightness": ("dark", "bright"),
    "contrast": ("flat", "hard"),
    "warmth": ("icy", "warm"),
    "sharpness": ("blurred", "sharp"),
    "grain": ("clean", "grainy"),
    "vignette": ("even light", "dark corners"),
    "fade": ("deep blacks", "faded blacks"),
}
"""Low and high word of each look, in the order of the edits' strengths."""


def edited(picture: Image.Image, strengths: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The picture with each look of WORDS at a strength from -1 to 1."""
    saturation, brightness, contrast, warmth, sharpness, grain, vignette, fade = (float(s) for s in strengths)
    x = ImageEnhance.Color(picture).enhance(1 + 0.8 * saturation)
    x = ImageEnhance.Brightness(x).enhance(1 + 0.4 * brightness)
    x = ImageEnhance.Contrast(x).enhance(1 + 0.5 * contrast)
    if sharpness < 0:
        x = x.filter(ImageFilter.GaussianBlur(-2.5 * sharpness))
    else:
        x = x.filter(ImageFilter.UnsharpMask(2, int(150 * sharpness), 0))
    pixels = np.asarray(x, dtype=np.float32) / 255
    pixels = pixels + 0.10 * warmth * np.array((1.0, 0.1, -1.0), dtype=np.float32)
    lifted = 0.09 * (fade + 1)
    pixels = lifted + pixels * (1 - lifted)
    y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in pixels.shape[:2]], indexing="ij")
    pixels = pixels * (1 - 0.18 * (vignette + 1) * (y**2 + z**2))[..., None].astype(np.float32)
    noise = rng.normal(size=pixels.shape[:2]).astype(np.float32)[..., None]
    pixels = pixels + 0.06 * (grain + 1) * noise
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def template_pictures(most: int = 400) -> list[Image.Image]:
    """Still pictures of ComfyUI's workflow templates, the middle square of each at 256 px, in the order of names."""
    import comfyui_workflow_templates_media_api as api  # a development requirement, as ComfyUI is
    import comfyui_workflow_templates_media_image as image
    import comfyui_workflow_templates_media_other as other

    found = []
    for package in (image, api, other):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*")):
            if path.suffix.lower() in (".webp", ".png", ".jpg", ".jpeg"):
                found.append(path)
    pictures: list[Image.Image] = []
    for path in found:
        with Image.open(path) as opened:
            if getattr(opened, "is_animated", False) or min(opened.size) < SIZE:
                continue
            picture = opened.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        pictures.append(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))
        if len(pictures) == most:
            break
    return pictures
