"""Leakage and prompt loss: what was planted is found and named, what was not is not; words and what prompts name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.guard.content import check_content, found
from ppd.guard.probes import FixedProbe, TextProbe, names, word_lines
from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.probe import object_probe
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.world import POCKET

WORDS = ("a house", "a tree", "a balloon")
PROMPTS = [f"{what} no. {n}" for what in ("a house", "a tree") for n in range(12)]


def as_asked():
    return np.array([[names(prompt, word) for word in WORDS] for prompt in PROMPTS])


def test_what_shows_what_it_should_passes():
    check = check_content(as_asked(), as_asked(), PROMPTS, WORDS)
    assert check.passed and check.report().startswith("Passed: ")
    assert [row.word for row in check.leaks] == list(WORDS) and [row.word for row in check.losses] == list(WORDS[:2])


def test_a_planted_leak_is_found_and_called_one_where_liked_pictures_show_it():
    personal = as_asked()
    personal[::3, 2] = True  # 8 of 24
    liked = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    check = check_content(as_asked(), personal, PROMPTS, WORDS, liked)
    assert [row.word for row in check.leaks if row.flagged] == ["a balloon"]
    first, second, *_ = check.report().splitlines()
    assert first == "Did not pass."
    assert second.startswith(
        "Leak: a balloon is in 33 of 100 personal pictures whose prompts do not name it, in 0 of the plain ones (33, "
    )
    assert second.endswith("and the liked pictures show it.")
    unliked = check_content(as_asked(), personal, PROMPTS, WORDS, np.zeros((4, 3), dtype=bool))
    assert unliked.report().splitlines()[1].startswith("Unasked: a balloon")


def test_what_a_prompt_names_is_no_leak_and_its_loss_is_found():
    personal = as_asked()
    personal[:9, 0] = False
    check = check_content(as_asked(), personal, PROMPTS, WORDS)
    assert [row.word for row in check.losses if row.flagged] == ["a house"]
    assert not any(row.flagged for row in check.leaks)
    assert "Lost: a house is in 25 of 100 personal pictures that should show it, in 100 of the plain" in check.report()


def test_leaks_and_losses_are_one_family():
    """Each of two words can leak and get lost: four tests, of which one has all of its six prompts against it."""
    prompts = [f"{'a cat' if n % 2 else 'a dog'} no. {n}" for n in range(12)]
    base = np.array([[names(prompt, word) for word in ("a cat", "a dog")] for prompt in prompts])
    personal = base & [False, True]
    check = check_content(base, personal, prompts, ("a cat", "a dog"))
    assert [row.p for row in check.losses] == [4 * 2**-6, 1] and [row.p for row in check.leaks] == [1, 1]
    assert check.passed  # 0.06: with a family for losses alone it would be 0.03


def test_pictures_must_be_pairs():
    with pytest.raises(ValueError, match="as personal pictures as prompts, at least 2, got 24, 23 and 24"):
        check_content(as_asked(), as_asked()[1:], PROMPTS, WORDS)


@pytest.mark.parametrize(
    ("prompt", "word", "named"),
    [
        ("a lighthouse by a lake", "a house", False),
        ("Two Houses in the hills", "a house", True),
        ("flowers on a meadow", "flower", True),
        ("a flower", "flowers", True),
        ("a nurse", "a woman / a man", False),
        ("a man with a hat", "a woman / a man", True),
    ],
)
def test_what_a_prompt_names(prompt, word, named):
    assert names(prompt, word) is named


def test_words_are_lines_or_parts():
    assert word_lines("a house, a  tree\n\n a house\na woman / a man\n") == ("a house", "a tree", "a woman / a man")
    with pytest.raises(ValueError, match="Expected 1 to 200 words to look for, got 0"):
        word_lines(" ,\n")


def test_the_pockets_probe_sees_what_is_drawn():
    captions = ["a house by a lake under the sun", "a tree and flowers on a meadow"]
    style = dict.fromkeys(scenes.STYLES, 0.0)
    pictures = to_tensor(np.stack([scenes.render(caption, style, seed) for seed, caption in enumerate(captions)]))
    images = list(pictures.movedim(1, -1))
    probe = object_probe(POCKET.file(WEIGHTS, "classifier"))
    words = ["a house", "Trees", "sun / moon", "flowers"]
    assert found(probe, images, words)[0].tolist() == [True, False, True, False]
    assert found(probe, images, words)[1, [0, 1, 3]].tolist() == [False, True, True]
    larger = [torch.nn.functional.interpolate(pictures, (200, 256), mode="bilinear")[0].movedim(0, -1)]
    assert found(probe, larger, ["a house"]).shape == (1, 1)
    with pytest.raises(ValueError, match="does not know 'a cat': expected house, tree, "):
        found(probe, images, ["a cat"])


class ColourTower:
    """Features are a picture's mean colour; its text side knows colours by name."""

    name, weight_hash, dim, batch = "colours", "0" * 64, 3, 8

    def prepare(self, picture):
        return torch.tensor(picture.resize((1, 1)).getpixel((0, 0))).float() / 255

    def features(self, prepared):
        return torch.stack(list(prepared))

    @staticmethod
    def text_side(texts):
        known = {"red": (1.0, 0, 0), "blue": (0, 0, 1.0)}
        return torch.tensor([next((v for k, v in known.items() if k in text), (0.5, 0.5, 0.5)) for text in texts])


def test_a_text_side_finds_what_is_nearer_to_the_word_than_to_nothing_in_particular():
    tower = ColourTower()
    probe = TextProbe(tower, tower.text_side)
    red, grey, blue = (torch.tensor(one).expand(4, 4, 3) for one in ((0.9, 0.1, 0.1), (0.5, 0.5, 0.5), (0.1, 0.1, 0.9)))
    seen = found(probe, [red, grey, blue], ["red", "blue", "red / blue"])
    assert seen.tolist() == [[True, False, True], [False, False, False], [False, True, False]]


def test_a_classifier_of_other_kinds_asks_for_its_own_side():
    sizes = []

    def classify(x):
        sizes.append(tuple(x.shape))
        return x.mean((2, 3))[:, :2] - 0.5

    probe = FixedProbe(("dark", "light"), classify, 16)
    assert probe.scores([torch.ones(40, 30, 3)] * 70, ["light"]).shape == (70, 1)
    assert sizes == [(64, 3, 16, 16), (6, 3, 16, 16)]
