"""Taste codes as nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ppd.taste_code import encode

pytestmark = pytest.mark.comfyui


def test_to_a_code_and_back(run, comfy_folders):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    made = run("PPD_TasteToCode", user_embedding=embedding)
    (code,) = made.result
    assert made.ui.as_dict()["text"][0] == code
    found, report = run("PPD_TasteCode", code=code).result
    assert found.encoder_hash == embedding.encoder_hash and found.encoder == embedding.encoder
    assert float(F.cosine_similarity(found.u, embedding.u)) > 0.999
    assert report == f"4 picks up to {embedding.created}, read by pocket-clip."
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    adapter.model.config.check_embedding(found)
    (batch,), _, report = run("PPD_SortByTaste", images=[torch.rand(2, 16, 16, 3)], user_embedding=[found]).result
    assert len(batch) == 2 and "by 4 picks" in report


def test_no_code_is_nobody_and_a_wrong_one_is_told(run):
    assert run("PPD_TasteCode").result == (None, "No code: nobody's taste, so pictures stay plain.")
    with pytest.raises(ValueError, match="Expected a taste code"):
        run("PPD_TasteCode", code="ann")


@pytest.mark.parametrize(
    ("u", "words"),
    [
        (torch.ones(1, 5), r"shape \[1, 6\] and of a length of at most 389, got \[1, 5\] and 2.24"),
        (torch.ones(2, 6), r"got \[2, 6\] and 3.46"),
        (torch.full((1, 6), 200.0), r"got \[1, 6\] and 490: ask for it again"),
    ],
)
def test_what_the_encoder_that_is_here_never_makes_is_told(run, u, words):
    made = run("UserEmbeddingEncoder", pairs=[], encoder="pocket").result[0]
    wrong = replace(made, u=u, covariance_factor=None)
    with pytest.raises(ValueError, match=words):
        run("PPD_TasteCode", code=encode(wrong))
    with pytest.raises(ValueError, match=words):
        run("PPD_SortByTaste", images=[torch.rand(2, 16, 16, 3)], user_embedding=[wrong])
