"""Words for messages: what they repeat of an input is bounded, so that a bad file of megabytes makes one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any

QUOTED = 80
REASON = 160
LISTED = 20


def quoted(value: Any, longest: int = QUOTED) -> str:
    """The value as code writes it, at most about `longest` letters of it, such as 'a lake' or 'a la…'."""
    if isinstance(value, int) and value.bit_length() > 4 * longest:  # Python refuses to write out thousands of digits
        return "a huge number"
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= longest else shortened(repr(value[:longest]), longest - 1)
    return shortened(repr(value), longest) if isinstance(value, (int, float, NoneType)) else type(value).__name__


def shortened(text: str, longest: int = QUOTED) -> str:
    """The text in one line of at most `longest` letters."""
    line = " ".join(text[: 4 * longest].split()).encode(errors="replace").decode()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def duration(seconds: float) -> str:
    """A time in the largest fitting unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(things: Sequence[Any], most: int = LISTED) -> list[str]:
    """Lines for the first of some things, and how many more there are."""
    more = len(things) - most
    return [*map(str, things[:most]), *([f"and {more} more"] if more > 0 else [])]


def reason_of(error: BaseException) -> str:
    """The cause in a few words, without the paths that system errors repeat."""
    words = shortened(getattr(error, "strerror", None) or str(error), REASON)
    return words.rstrip(".") or type(error).__name__
