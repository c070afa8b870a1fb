"""Judges: the real posterior on the pocket's pictures, and transformers' own classes, tiny."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.evaluation.judges import Asked, Judged, PosteriorJudge, VLMJudge
from ppd.pairs import read_pairs
from ppd.pictures import Picture
from ppd.pocket.studio import load_encoder

from ..encoders.towers.vlm_models import write_vlm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(ROOT / "weights")


@pytest.fixture(scope="module")
def sets():
    return {
        name: list(read_pairs(ROOT / "weights" / "examples" / name)) for name in ("cool and soft", "vivid and bold")
    }


def test_the_posterior_prefers_what_the_person_prefers(encoder, sets):
    """Two people: what they picked wins by their own picks, and swapped pictures turn every answer."""
    for pairs in sets.values():
        asked = [Asked(one.prompt, one.rejected, one.chosen) for one in pairs]
        swapped = [Asked(one.prompt, one.second, one.first) for one in asked]
        one, other = (PosteriorJudge(encoder, pairs).judge(questions) for questions in (asked, swapped))
        assert [told.verdict for told in one] == ["second"] * 4 and [told.verdict for told in other] == ["first"] * 4
        assert all(told.is_consistent for told in one)
        same = [Asked(one.prompt, one.chosen, one.chosen) for one in pairs]
        assert [told.verdict for told in PosteriorJudge(encoder, pairs).judge(same)] == ["tie"] * 4


def noise(number):
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Picture.from_image(Image.fromarray(pixels))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    pytest.importorskip("transformers")
    from ppd.encoders.towers.vlm import LocalVLM

    return LocalVLM.from_folder(write_vlm(tmp_path_factory.mktemp("vlm") / "qwen", "qwen2_5_vl"))


def test_a_vision_language_model_is_asked_in_both_orders(vlm, sets):
    judge = VLMJudge(vlm, sets["cool and soft"][:1], pixels=32 * 32)
    questions = [Asked(f"lake {n}", noise(2 * n), noise(2 * n + 1)) for n in range(12)]
    tokenizer = vlm.processor.tokenizer
    a, b = (tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in "AB")
    told = []
    for one in questions:
        ahead = []
        for order in (one, Asked(one.prompt, one.second, one.first)):
            with torch.no_grad():
                logits = vlm.model(**vlm.inputs(judge.question(order))).logits[0, -1].float()
            ahead.append(bool(logits[a] > logits[b]))
        told.append(("first" if ahead[0] else "second", True) if ahead[0] != ahead[1] else ("tie", False))
    assert [tuple(one) for one in judge.judge(questions)] == told
    text = "".join(part if isinstance(part, str) else "[picture]" for part in judge.question(questions[0]))
    assert "Pair 1, painted for: " in text and "Liked better: [picture]\nLiked less: [picture]" in text
    assert text.endswith(
        "Picture A: [picture]\nPicture B: [picture]\nWhich of the two would this person like better? "
        "Answer with one letter, A or B."
    )


def test_inconsistent_answers_are_counted_and_are_no_wins(vlm):
    """The same picture twice is the plainest contradiction."""
    same = noise(1)
    judge = VLMJudge(vlm, [], pixels=32 * 32)
    assert judge.judge([Asked("a lake", same, same)]) == [Judged("tie", False)]
