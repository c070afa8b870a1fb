"""Limits of what a file or a link may say: each check gives the value back, or raises ValueError in one sentence."""

from __future__ import annotations

import json
from typing import Any

from .messages import quoted, reason_of

WIDEST = 1 << 16
"""Of any layer, vector or list of channels: today's widest are a fifth of it."""
LONGEST_NAME = 200


def number(name: str, value: Any, least: float, most: float) -> float:
    """A number from `least` to `most`; not-a-number is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"Expected a number from {least:g} to {most:g} as {name}, got {quoted(value)}.")
    return value


def whole(name: str, value: Any, least: int = 1, most: int = WIDEST) -> int:
    """A whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"Expected a whole number from {least} to {most} as {name}, got {quoted(value)}.")
    return value


def line(name: str, value: Any, longest: int = LONGEST_NAME) -> str:
    """A line of at most `longest` letters."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > longest:
        raise ValueError(f"Expected a line of at most {longest} letters as {name}, got {quoted(value)}.")
    return value


def parsed(name: str, value: str | bytes) -> Any:
    """What JSON says."""
    try:
        return json.loads(value)
    except RecursionError:
        raise ValueError(f"Expected JSON as {name}, got lists nested without end.") from None
    except ValueError as error:
        raise ValueError(f"Expected JSON as {name}, got {quoted(value)} ({reason_of(error)}).") from None
