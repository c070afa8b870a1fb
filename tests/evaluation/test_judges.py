"""Judges: the real posterior on the pocket's pictures, simulated people, and transformers' own classes, tiny."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.blind_questions import Scene, Trial, design, outcomes
from ppd.encoders.simulated import simulate
from ppd.evaluation.blind import score
from ppd.evaluation.judges import Asked, PosteriorJudge, SimulatedPerson, VLMJudge, answered_by, held_out
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


def filed(pairs):
    """The rejected pictures are arm 0 and the chosen ones arm 1; the trials, and their pictures."""
    scenes = [Scene(pair.prompt, (pair.rejected, pair.chosen)) for pair in pairs]
    questions = design(scenes, 100, random.Random(1))
    found = {picture.digest: picture for one in questions for picture in one.pictures}
    trials = [
        Trial(str(n), n, one.prompt, (one.pictures[0].digest, one.pictures[1].digest), one.arms, one.repeats)
        for n, one in enumerate(questions)
    ]
    return trials, found.__getitem__


def test_the_posterior_prefers_what_the_person_prefers(encoder, sets):
    """Two people: what they picked wins by their own picks, and swapped pictures turn every answer."""
    for pairs in sets.values():
        trials, picture = filed(pairs)
        judged, consistent = answered_by(PosteriorJudge(encoder, pairs), trials, picture)
        (pair,) = score(["worse", "better"], judged, 0.0)["pairs"]
        assert (pair["wins"], pair["losses"], consistent) == (0, 4, 1.0)
        asked = [Asked(one.prompt, one.rejected, one.chosen) for one in pairs]
        swapped = [Asked(one.prompt, one.second, one.first) for one in asked]
        one, other = (PosteriorJudge(encoder, pairs).judge(questions) for questions in (asked, swapped))
        assert [told.verdict for told in one] == ["second"] * 4 and [told.verdict for told in other] == ["first"] * 4


def test_a_simulated_person_errs_as_often_as_their_taste_says(encoder, sets):
    pairs = [pair for one in sets.values() for pair in one]
    taste = simulate(encoder.prior.basis, encoder.looks.readings, 1, seed=3).tastes[0]
    asked = [Asked(one.prompt, one.chosen, one.rejected) for one in pairs] * 150
    features = [encoder.features.picture_features([one[side] for one in asked[: len(pairs)]]) for side in (1, 2)]
    expected = ((features[0] - features[1]) @ encoder.prior.basis @ taste.float()).sigmoid().repeat(150)
    said = SimulatedPerson(encoder, taste, seed=1).judge(asked)
    share = np.mean([one.verdict == "first" for one in said])
    assert share == pytest.approx(float(expected.mean()), abs=0.03)
    assert said == SimulatedPerson(encoder, taste, seed=1).judge(asked)
    certain = SimulatedPerson(encoder, taste * 1e4, seed=2).judge(asked[: len(pairs)])
    assert [one.verdict == "first" for one in certain] == (expected[: len(pairs)] > 0.5).tolist()


def test_held_out_pairs_share_no_prompt_and_no_picture_with_the_support(sets):
    pairs = [pair for one in sets.values() for pair in one]
    support, rest = held_out(pairs)
    assert support and rest and not {one.prompt for one in support} & {one.prompt for one in rest}
    pictures = [{p.digest for one in part for p in (one.chosen, one.rejected)} for part in (support, rest)]
    assert not pictures[0] & pictures[1]


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
    trial = Trial("0", 0, "a lake", (same.digest, same.digest), (0, 1))
    judged, consistent = answered_by(judge, [trial], lambda digest: same)
    assert judged[0].verdict == "tie" and consistent == 0.0 and outcomes(judged, (0, 1)) == []
