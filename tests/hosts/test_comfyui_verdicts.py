"""Text encoders that see, asked for a verdict: ComfyUI's own classes at tiny sizes, against its own Generate Text."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from ppd.evaluation.judges import Asked, VLMJudge
from ppd.pairs import PreferencePair
from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from ppd.hosts.comfyui_verdicts import TextEncoderReader

    from .vision_models import text_encoder


def picture(seed, size=(80, 60)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Picture.from_image(Image.fromarray(pixels))


@pytest.mark.parametrize("kind", ["qwen3vl", "krea2", "qwen35", "gemma4"])
def test_the_likeliest_next_token_is_what_comfyui_generates(kind, monkeypatch):
    """After a turn with several pictures between words; and which layers the family reads is as before."""
    clip = text_encoder(kind, monkeypatch)
    reader = TextEncoderReader(clip)
    parts = ["One {picture}: ", picture(1).open(), "\nanother: ", picture(2, (60, 80)).open(), "\nWhich is it?"]
    key, tokens = reader._tokens(parts)
    assert sum(isinstance(token, dict) for token in tokens) == 2 and not isinstance(tokens[-1], dict)
    before, logits = reader.reader.layer, reader.logits(parts)
    said = clip.generate({key: [[(token, 1.0) for token in tokens]]}, do_sample=False, max_length=1)
    assert int(logits.argmax()) == said[0] and reader.reader.layer == before


def test_a_judge_asks_it_in_both_orders(monkeypatch):
    reader = TextEncoderReader(text_encoder("qwen3vl", monkeypatch))
    judge = VLMJudge(reader, [PreferencePair("a lake", picture(3), picture(4), "1")], pixels=56 * 56)
    asked = [Asked("a hill", picture(5 + n), picture(9 + n)) for n in range(2)]
    words, told = reader.clip.tokenizer.qwen3vl_4b.tokenizer, []
    a, b = (words(letter)["input_ids"][-1] for letter in "AB")
    for one in asked:
        orders = [reader.logits(judge.question(two)) for two in (one, Asked(one.prompt, one.second, one.first))]
        ahead, behind = (bool(logits[a] > logits[b]) for logits in orders)
        told.append("tie" if ahead == behind else "first" if ahead else "second")
    assert [one.verdict for one in judge.judge(asked)] == told
    assert [one.is_consistent for one in judge.judge(asked)] == [one != "tie" for one in told]


def test_a_text_encoder_without_words_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="is a Qwen2.5-VL, which ComfyUI loads without the layer that says words"):
        TextEncoderReader(text_encoder("qwen25", monkeypatch))
