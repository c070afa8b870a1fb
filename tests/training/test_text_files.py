"""What prompts say, on disk: read once, whatever is killed, and bit for bit what it is in memory."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppd.training import text_files
from ppd.training.text_files import PROBE, TextFiles

if find_spec("comfy"):
    from tests.hosts.test_comfyui_training import Small, small


class Reader:
    """Says as many rows as a prompt has letters, in its own words; counts what it reads."""

    def __init__(self, word: float = 0.5) -> None:
        self.word, self.seen = word, []

    def __call__(self, prompts):
        self.seen += prompts
        return [
            {"text": ("Rows", torch.full((1, len(one), 4), self.word, dtype=torch.half)), "n": 3} for one in prompts
        ]


PROMPTS = ["a" * (number + 1) for number in range(300)]


def test_prompts_are_read_once_and_found_at_the_next_start(tmp_path):
    read, keep = Reader(), TextFiles(tmp_path, tmp_path)
    states = keep(PROMPTS[:200], read)
    assert read.seen == [PROBE, *PROMPTS[:200]]
    assert [state["text"][1].shape[1] for state in states] == list(range(1, 201))
    assert states[7]["text"][0] == "Rows" and states[7]["n"] == 3
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["0-0.pt", "0-1.pt"]
    keep(PROMPTS[::-1], read)  # a hundred more, in another order, as of the next stage
    assert sorted(read.seen[201:]) == PROMPTS[200:]
    again = Reader()
    found = TextFiles(tmp_path, tmp_path)(PROMPTS, again)
    assert again.seen == [PROBE] and torch.equal(found[7]["text"][1], states[7]["text"][1])


def test_another_text_encoder_finds_nothing(tmp_path):
    TextFiles(tmp_path, tmp_path)(PROMPTS[:3], Reader())
    other = Reader(0.25)
    found = TextFiles(tmp_path, tmp_path)(PROMPTS[:3], other)
    assert other.seen == [PROBE, *PROMPTS[:3]] and found[0]["text"][1].unique().tolist() == [0.25]


def test_a_kill_loses_the_file_under_way(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "SHARD", 16)

    class Killed(Reader):
        def __call__(self, prompts):
            if len(self.seen) > 40:
                raise KeyboardInterrupt
            return super().__call__(prompts)

    with pytest.raises(KeyboardInterrupt):
        TextFiles(tmp_path, tmp_path)(PROMPTS[:100], Killed())
    rest = Reader()
    found = TextFiles(tmp_path, tmp_path)(PROMPTS[:100], rest)
    assert rest.seen == [PROBE, *PROMPTS[48:100]]
    assert [state["text"][1].shape[1] for state in found] == list(range(1, 101))


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["sdxl", "qwen_image"])
def test_the_denoiser_is_told_the_same_from_disk(name, tmp_path):
    one = small(name, None)
    two = Small(name, one.model, one.shape, keep=TextFiles(tmp_path, tmp_path))
    x, sigma, _ = one.batch(3)
    rows = np.array([0, 3, 2])
    texts = [which.denoiser.text(["a b", "cat", "two dogs", "cat"])[rows] for which in (one, two)]
    with torch.no_grad():
        plain, from_disk = (one.denoiser.predict(x, sigma, text) for text in texts)
    assert torch.equal(plain, from_disk) and plain.std() > 0


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["sdxl", "qwen_image"])
def test_what_is_kept_in_the_models_precision_is_what_it_would_be_told(name):
    """Half of the numbers' bytes, and the same prediction."""
    one = small(name, None)
    x, sigma, _ = one.batch(2)
    whole = one.denoiser.text(["a b", "two dogs"])
    network = one.model.model.diffusion_model.to(torch.bfloat16)
    network.dtype = torch.bfloat16
    half = one.denoiser.text(["a b", "two dogs"])
    sizes = [texts.states[0]["c_crossattn"][1].nbytes for texts in (whole, half)]
    assert sizes[0] == 2 * sizes[1]
    with torch.no_grad():
        predicted = [one.denoiser.predict(x, sigma, texts[np.arange(2)]) for texts in (whole, half)]
    assert torch.equal(*predicted) and predicted[0].std() > 0
