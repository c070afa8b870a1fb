"""Messages: what they repeat of an input is bounded."""

import pytest

from ppd.messages import listed, quoted, reason_of, shortened


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a lake", "'a lake'"),
        ("a\nb\ud800", r"'a\nb\ud800'"),
        (None, "None"),
        (0.5, "0.5"),
        (10**4000, "a huge number"),
        ({"a": "x" * 10**7}, "dict"),
    ],
)
def test_quoted(value, wanted):
    assert quoted(value) == wanted


@pytest.mark.parametrize("value", ["x" * 10**7, b"x" * 10**7, "\ud800" * 500, 10**70])
def test_quoted_is_bounded(value):
    assert len(quoted(value)) <= 80 and quoted(value).encode()


def test_shortened_is_one_line():
    assert shortened("a \n b\ud800") == "a b?"
    assert shortened("word " * 1000, 12) == "word word w…"


def test_reasons_are_short_and_never_empty():
    assert reason_of(ValueError("no marker.\nfound.")) == "no marker. found"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(OSError(2, "No such file or directory", "/secret")) == "No such file or directory"
    assert len(reason_of(ValueError("x" * 10**6))) == 160


def test_long_lists_are_cut():
    assert listed(range(3), 3) == ["0", "1", "2"]
    assert listed(range(5), 3) == ["0", "1", "2", "and 2 more"]
