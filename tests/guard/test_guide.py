"""Brand guides: what is read, and what is refused in which sentence."""

from __future__ import annotations

import json

import pytest

from ppd.guard.guide import Colour, Contrast, Free, LookRule, Object, guide_of, read_guide, written

HEAD = {"format": "ppd-brand-guide", "version": "1", "name": "Sea and sun"}
RULES = [
    {"level": "must", "colour": "#3F8FC4", "delta_e": 15, "area": 0.1},
    {"level": "never", "colour": "#ff00ff"},
    {"level": "never", "object": "a  house"},
    {"level": "must", "look": "warm"},
    {"level": "should", "contrast": 4.5},
    {"level": "must", "free": [0.65, 0.02, 0.33, 0.2]},
]


def guide(*rules, **head):
    return guide_of({**HEAD, "rules": list(rules), **head})


def test_rules_with_what_they_leave_out():
    found = guide(*RULES)
    assert found.name == "Sea and sun" and found.rules == (
        Colour("must", "#3f8fc4", 15.0, 0.1),
        Colour("never", "#ff00ff", 10.0, 0.01),
        Object("never", "a house"),
        LookRule("must", "warm", 0.5),
        Contrast("should", 4.5),
        Free("must", (0.65, 0.02, 0.33, 0.2), 0.05),
    )
    assert found.objects == ("a house",) and found.looks == (LookRule("must", "warm", 0.5),)


def test_what_is_written_reads_as_the_same(tmp_path):
    path = tmp_path / "sea.brand.json"
    path.write_text(written(guide(*RULES)), encoding="utf-8")
    assert read_guide(path) == guide(*RULES)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"level": "never"}, "expected exactly one of colour, object, look, contrast, free, got none."),
        ({"level": "never", "object": "a", "look": "b"},
         "expected exactly one of colour, object, look, contrast, free, got object and look."),
        ({"level": "maybe", "object": "a"}, "expected must, should, never as level of object, got 'maybe'."),
        ({"level": "never", "contrast": 4}, "expected must, should as level of contrast, got 'never'."),
        ({"level": "must", "colour": "blue"}, "expected a colour such as #0a3d62 as colour, got 'blue'."),
        ({"level": "must", "colour": "#000000", "area": 5}, "expected a number from 0 to 1 as area, got 5."),
        ({"level": "must", "contrast": True}, "expected a number from 1 to 21 as contrast, got True."),
        ({"level": "must", "free": [0, 0, 1]},
         "expected free as [left, top, width, height] in shares of the picture, got list."),
        ({"level": "must", "free": [0.5, 0, 0.6, 1]},
         "expected free inside the picture, got a box that reaches beyond its right or lower side."),
        ({"level": "must", "object": " "}, "expected a word as object, got an empty one."),
        ({"level": "must", "object": "a", "area": 1}, "expected level, object in the rule, got 'area': take it out."),
        ([], 'expected an object such as {"level": "never", "object": "a house"}, got list.'),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named(tmp_path, rule, sentence):
    path = tmp_path / "x.brand.json"
    path.write_text(json.dumps({**HEAD, "rules": [RULES[0], rule]}))
    with pytest.raises(ValueError) as error:
        read_guide(path)
    assert str(error.value) == f"x.brand.json: rule 2: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", 'x.brand.json: expected an object with "format": "ppd-brand-guide" and "version": "1", got list.'),
        ('{"format": "ppd-brand-guide", "version": "2"}',
         'x.brand.json: expected an object with "format": "ppd-brand-guide" and "version": "1", '
         "got 'ppd-brand-guide' '2'."),
        (json.dumps({**HEAD, "rules": []}), "x.brand.json: expected a list of 1 to 64 rules, got 0 of them."),
        (json.dumps({**HEAD, "rules": RULES, "by": 1}),
         "x.brand.json: expected format, version, name, rules in the guide, got 'by': take it out."),
        (json.dumps({**HEAD, "name": 3, "rules": RULES}),
         "x.brand.json: expected a line of at most 200 letters as name, got 3."),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(tmp_path, text, sentence):
    path = tmp_path / "x.brand.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_guide(path)
    assert str(error.value) == sentence


def test_what_is_no_text_and_what_is_not_there(tmp_path):
    path = tmp_path / "x.brand.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="^x.brand.json: expected text in UTF-8: save it so in your editor.$"):
        read_guide(path)
    with pytest.raises(ValueError, match="^The brand guide y.brand.json cannot be read .No such file"):
        read_guide(tmp_path / "y.brand.json")
