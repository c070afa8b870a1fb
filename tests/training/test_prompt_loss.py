"""CLIPScore before and after, on a tower whose features are a picture's mean colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.features import PictureFeatures, text_side_of
from ppd.training.prompt_loss import prompt_loss

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "half red, half green": (255, 255, 0)}


class MeanColour:
    """A tower with a text side that knows three words."""

    name, weight_hash, dim, batch = "mean colour", "0", 3, 8

    def prepare(self, picture):
        return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32)).mean((0, 1))

    def features(self, prepared):
        return torch.stack(list(prepared))

    def text_side(self, texts):
        return torch.tensor([COLOURS[text] for text in texts], dtype=torch.float32)


def painted(*words):
    return [Image.new("RGB", (8, 8), COLOURS[word]) for word in words]


def test_what_the_prompt_asks_for_is_lost_by_so_much():
    features = PictureFeatures(MeanColour())
    side = text_side_of(features)
    prompts = ["red", "green"]
    kept = prompt_loss(painted(*prompts), painted(*prompts), prompts, features, side)
    assert kept["plain"] == pytest.approx(1.0) and kept["lost"]["mean"] == pytest.approx(0.0, abs=1e-6)
    half = painted("red", "half red, half green")
    lost = prompt_loss(painted(*prompts), half, prompts, features, side)["lost"]
    assert lost["mean"] == pytest.approx((1 - 0.5**0.5) / 2, abs=1e-6) and lost["n"] == 2


def test_a_tower_that_sees_pictures_alone_has_no_text_side(encoder_tower):
    assert text_side_of(PictureFeatures(encoder_tower)) is None


@pytest.fixture
def encoder_tower(weights):
    from ppd.encoders.towers import open_tower
    from ppd.pocket.studio import ENCODER

    return open_tower({"kind": "folder"}, weights / ENCODER)
