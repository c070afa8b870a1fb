"""The encoder's loss against literal numbers, and a text tower that finds its way in a feature space that is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.pocket import encoder


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
