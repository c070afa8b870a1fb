"""Judge Pictures: what it says of real picks on the pocket's pictures, by the posterior and by a text encoder."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppd.pairs import read_pairs
from ppd.pocket.studio import WEIGHTS

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from ..hosts.vision_models import text_encoder


@pytest.fixture(scope="module")
def picks():
    return list(read_pairs(WEIGHTS / "examples" / "vivid and bold"))


def tensors(pictures):
    return [torch.from_numpy(np.asarray(one.open(), dtype=np.float32) / 255)[None] for one in pictures]


@pytest.fixture
def judge(run, picks):
    """The node as ComfyUI runs it: what the example's person rejected in the first way, and chose in the second."""

    def execute(**inputs):
        given = {
            "images_a": tensors([one.rejected for one in picks]),
            "images_b": tensors([one.chosen for one in picks]),
            "prompts": [one.prompt for one in picks],
            "pairs": picks,
            "encoder": "pocket",
            **inputs,
        }
        lists = {"images_a", "images_b", "prompts"}
        return run("PPD_JudgePictures", **{name: one if name in lists else [one] for name, one in given.items()}).result

    return execute


def test_the_posterior_prefers_what_was_picked(judge):
    report, share, figures = judge(name_a="plain", name_b="mine")
    assert report.splitlines() == [
        "By 4 picks:",
        "“mine” preferred to “plain” 100 times in 100, with 95 % confidence between 40 and 100 (4 prompts). "
        "Were the two as good as each other, chance would set them as far apart 12 times in 100. "
        "No answers to so few could make it fewer than 12: ask more.",
        "A judge is not the person: how far it is like them, only their own blind test tells.",
    ]
    assert share == 0.0 and json.loads(figures)["pairs"][0]["losses"] == 4


def test_a_text_encoder_is_shown_the_newest_picks(judge, picks, monkeypatch):
    report, share, figures = judge(
        clip=text_encoder("qwen3vl", monkeypatch),
        shown=1,
        **{
            name: tensors([getattr(picks[0], side)])
            for name, side in (("images_a", "rejected"), ("images_b", "chosen"))
        },
        prompts=["a lake"],
    )
    (pair,) = json.loads(figures)["pairs"]
    assert report.startswith("By a text encoder that was shown 1 pair:\n") and share in (0.0, 0.5, 1.0)
    assert pair["wins"] + pair["losses"] + pair["ties"] == 1 and pair["ties"] == pair["inconsistent"]


def test_what_cannot_be_judged_is_refused(judge, run, picks):
    with pytest.raises(ValueError, match="There are no picks to judge by: connect somebody's who has picked"):
        judge(pairs=[])
    with pytest.raises(ValueError, match="painted the same pictures, so there is nothing to judge"):
        judge(images_a=tensors([one.chosen for one in picks]))
    _, clip, _ = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    with pytest.raises(ValueError, match="The text encoder reads no pictures, or one at a time"):
        judge(clip=clip)
