"""The encoder's loss against literal numbers, and a text tower that finds its way in a feature space that is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ppd.pocket import encoder, scenes
from ppd.pocket.data import PictureSet


def test_the_loss_is_cross_entropy_both_ways_literally():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both texts fit the first picture
    value, figures = encoder.contrastive_loss(image, text, torch.tensor(2.0))
    # rows: picture 0 sees (2, 2), picture 1 sees (0, 0), log 2 each; columns: texts see (2, 0), right once, wrong once
    right, wrong = np.log1p(np.exp(-2.0)), 2 + np.log1p(np.exp(-2.0))
    assert value.item() == pytest.approx((np.log(2) + (right + wrong) / 2) / 2)
    assert figures == {"loss": value.item(), "top1": 0.5}


def test_style_words_are_five_levels():
    low, high = (encoder.style_caption("a tree", np.full(7, end)).split()[2:] for end in (-1.0, 1.0))
    assert [(words[0], words[-1]) for words in encoder.WORDS.values()] == list(zip(low, high, strict=True))
    assert encoder.PROBED["warmth"] == ("icy", "fiery") and "clutter" not in encoder.PROBED


def test_a_text_tower_learns_a_feature_space_that_is_given(tmp_path, monkeypatch):
    """Features that are a fixed linear view of caption and style, no image tower: words end up along their styles."""
    monkeypatch.setattr(scenes, "SCENES", scenes.SCENES[::18])
    monkeypatch.setitem(encoder.TEXT, "width", 32)
    monkeypatch.setitem(encoder.TEXT, "layers", 1)
    rng = np.random.default_rng(0)
    captions = rng.integers(len(scenes.SCENES), size=400)
    styles = rng.uniform(-1, 1, (400, 7)).astype(np.float32)
    view = torch.from_numpy(rng.normal(size=(7, encoder.EMBED_DIM))).float()
    places = torch.from_numpy(rng.normal(size=(len(scenes.SCENES), encoder.EMBED_DIM))).float()
    features = F.normalize(torch.from_numpy(styles) @ view + places[captions], dim=1)
    data = PictureSet(np.empty((400, 0)), captions, styles)
    kept = features.clone()
    encode_text = encoder.train_text_tower(data, features, tmp_path / "text.pt", steps=150, batch=48)
    assert torch.equal(features, kept)
    low, high = encoder.PROBED["warmth"]
    texts = [f"{scene.caption} {word}" for word in (high, low) for scene in scenes.SCENES]
    words = encode_text(texts)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(len(texts)))
    direction = (words[: len(scenes.SCENES)] - words[len(scenes.SCENES) :]).mean(0)
    told = np.corrcoef((features @ direction).numpy(), styles, rowvar=False)[0, 1:]
    assert told[0] > 0.5 and abs(told[1:]).max() < 0.4  # 7 directions at random in 96 dimensions are not quite apart
