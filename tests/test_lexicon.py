"""The lexicon: the pack's own, the artist's on top, and one sentence where a file is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from ppd.lexicon import LEXICON, Look, LookSide, prompt_lines, read_lexicon

CATEGORIES = {"medium", "line", "colour", "light", "contrast", "texture", "detail", "composition", "mood", "era"}
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def write(folder, content):
    path = folder / "mine.looks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_packs_lexicon_covers_what_artists_vary():
    lexicon = read_lexicon()
    assert 60 <= len(lexicon.looks) <= 100
    assert len(json.loads(LEXICON.read_text(encoding="utf-8"))["looks"]) == len(lexicon.looks), "an id is there twice"
    counts = Counter(look.category for look in lexicon.looks.values())
    assert set(counts) == CATEGORIES and min(counts.values()) >= 5
    sides = [side for look in lexicon.looks.values() for side in (look.low, look.high)]
    assert all(JAPANESE.search(side.name_ja) for side in sides)
    for values in ([side.words for side in sides], [side.name for side in sides], [side.name_ja for side in sides]):
        assert [value for value, times in Counter(values).items() if times > 1] == []


def test_the_packs_prompts_are_neutral():
    lexicon = read_lexicon()
    assert len(lexicon.prompts) == 60
    said = {word for prompt in lexicon.prompts for word in re.findall(r"\w+", prompt)}
    style = {"painting", "photograph", "photo", "drawing", "style", "light", "dark", "bright", "colors", "vintage"}
    assert said & style == set()


def test_words_follow_the_prompt_or_hold_it():
    assert LookSide("vivid", "鮮やか", "vivid colors").on("a dog") == "a dog, vivid colors"
    assert LookSide("oil", "油彩", "an oil painting of {prompt} on canvas").on("a dog") == (
        "an oil painting of a dog on canvas"
    )
    assert LookSide("mine", "私の", "").on("a dog") == "a dog"
    assert LookSide("vivid", "鮮やか", "vivid", "muted").on_negative("text") == "text, muted"
    assert LookSide("vivid", "鮮やか", "vivid", "muted").on_negative("") == "muted"


def test_the_artists_file_goes_on_top(tmp_path):
    own = {
        "prompts": ["a whale", "a bowl of pears and a jug"],
        "looks": [
            {"id": "wet-dry", "low": {"words": "wet paper"}, "high": {"name": "dry", "words": "dry brush"}},
            {"id": "cool-warm", "category": "colour", "low": {"words": "icy"}, "high": {"words": "hot"}},
        ],
    }
    pack, lexicon = read_lexicon(), read_lexicon(write(tmp_path, own))
    assert len(lexicon.looks) == len(pack.looks) + 1
    side = LookSide("wet paper", "wet paper", "wet paper")
    assert lexicon.looks["wet-dry"] == Look("wet-dry", "own", side, LookSide("dry", "dry", "dry brush"))
    assert lexicon.looks["cool-warm"].low.words == "icy"
    assert lexicon.prompts == (*pack.prompts, "a whale")


def test_looks_are_chosen_by_id_and_category():
    lexicon = read_lexicon()
    assert lexicon.chosen(" ") == list(lexicon.looks.values())
    chosen = lexicon.chosen("Era, cool-warm\ndark-bright")
    assert {look.category for look in chosen} == {"era", "colour", "light"}
    assert sum(look.category != "era" for look in chosen) == 2
    with pytest.raises(ValueError, match="no look or category 'erra': expected one of the categories colour, "):
        lexicon.chosen("erra")


LOOK = {"id": "a-b", "low": {"words": "x"}, "high": {"words": "y"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "mine.looks.json is not JSON"),
        ([LOOK], "expected an object such as"),
        ({"looks": LOOK}, "expected an object such as"),
        ({"looks": ["a-b"]}, "expected each look as an object with id, low and high, got 'a-b'"),
        ({"looks": [{**LOOK, "id": "../x"}]}, "small letters, digits and hyphens"),
        ({"looks": [{**LOOK, "id": "a" * 65}]}, "at most 64"),
        ({"looks": [{**LOOK, "high": {}}]}, "look a-b, high: expected an object such as"),
        ({"looks": [{**LOOK, "low": {"words": "x", "name": 3}}]}, "look a-b, low: expected a text as name, got 3"),
        ({"looks": [{**LOOK, "category": 3}]}, "expected a text as category, got 3"),
        ({"prompts": ["a dog", 3]}, "got 3 among them"),
        ({"prompts": {"animals": [" "]}}, "got ' ' among them"),
    ],
)
def test_a_wrong_file_is_named_in_one_sentence(tmp_path, content, said):
    with pytest.raises(ValueError) as error:
        read_lexicon(write(tmp_path, content))
    assert said in str(error.value) and "mine.looks.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_prompts_are_lines():
    assert prompt_lines("a dog\n\n a cat \na dog\n") == ("a dog", "a cat")
