"""Pictures on their way into a tower."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL picture as [3, H, W] in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).float() / 255


def within(image: Image.Image, pixels: int) -> Image.Image:
    """The picture, or a smaller one of its proportions that has no more than `pixels`."""
    scale = (pixels / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def to_bytes(image: Image.Image) -> Tensor:
    """A PIL picture as bytes [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)


def to_image(picture: Tensor) -> Image.Image:
    """Bytes [3, H, W] as a PIL picture."""
    return Image.fromarray(picture.movedim(0, -1).contiguous().numpy())
