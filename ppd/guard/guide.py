"""Brand guides: a studio's rules for its pictures, as a JSON file.

    {"format": "ppd-brand-guide", "version": "1", "name": "Sea and sun", "rules": [
      {"level": "must",   "colour": "#3f8fc4", "delta_e": 15, "area": 0.1},
      {"level": "never",  "object": "a house"},
      {"level": "never",  "look": "dark", "by": 0.5},
      {"level": "should", "contrast": 4.5},
      {"level": "must",   "free": [0.65, 0.02, 0.33, 0.2], "edges": 0.05}]}

`must` that is not kept, and `never` that is broken, stop a picture; `should` that is not kept warns. See docs/guard.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..limits import line, number, parsed
from ..messages import quoted, reason_of
from .colours import rgb_of

FORMAT, VERSION = "ppd-brand-guide", "1"
LEVELS = ("must", "should", "never")
MOST_RULES, MOST_BYTES = 64, 1 << 20
LONGEST_WORD = 80


@dataclass(frozen=True)
class Colour:
    """Of a picture's area at least the share `area` (never: at most) lies within `delta_e` (CIEDE2000) of `colour`."""

    level: str
    colour: str
    delta_e: float
    area: float

    def __str__(self) -> str:
        wanted = "more than" if self.level == "never" else "at least"
        share = f"{100 * self.area:g} % of the picture"
        return f"{self.level}: {wanted} {share} in {self.colour} (delta E {self.delta_e:g})"


@dataclass(frozen=True)
class Object:
    """A thing that is there, or never, as a probe of words sees it."""

    level: str
    word: str

    def __str__(self) -> str:
        return f"{self.level}: {self.word}"


@dataclass(frozen=True)
class LookRule:
    """A look of a taste encoder, by a word for one of its ends, `by` so many of its steps from the middle picture."""

    level: str
    word: str
    by: float

    def __str__(self) -> str:
        return f"{self.level}: {self.word}, by {self.by:g} of the look's steps"


@dataclass(frozen=True)
class Contrast:
    """WCAG 2's contrast ratio, 1 to 21, between the 95th and the 5th percentile of a picture's relative luminance."""

    level: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.level}: a contrast of {self.ratio:g} or more"


@dataclass(frozen=True)
class Free:
    """A `box` (left, top, width, height, as shares of the picture) in which at most the share `edges` are edges."""

    level: str
    box: tuple[float, float, float, float]
    edges: float

    def __str__(self) -> str:
        left, top, width, height = (f"{100 * one:g}" for one in self.box)
        place = f"{left} % from the left, {top} % from the top, {width} % wide, {height} % high"
        return f"{self.level}: free of detail {place}"


Rule = Colour | Object | LookRule | Contrast | Free


@dataclass(frozen=True)
class Guide:
    """A guide's name and its rules, in the file's order."""

    name: str
    rules: tuple[Rule, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Words that a probe has to find."""
        return tuple(dict.fromkeys(rule.word for rule in self.rules if isinstance(rule, Object)))

    @property
    def looks(self) -> tuple[LookRule, ...]:
        """The rules that a taste encoder is needed for."""
        return tuple(rule for rule in self.rules if isinstance(rule, LookRule))


def read_guide(path: Path) -> Guide:
    """The guide of a file; what is wrong with it is a ValueError of one sentence that names file and rule."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"expected a file of at most {MOST_BYTES >> 20} MB, got a larger one: take rules out.")
        return guide_of(parsed("the guide", path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ValueError(f"The brand guide {path.name} cannot be read ({reason_of(error)}): check the file.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path.name}: expected text in UTF-8: save it so in your editor.") from None
    except ValueError as error:
        words = str(error)
        raise ValueError(f"{path.name}: {words[0].lower()}{words[1:]}") from None


def guide_of(data: Any) -> Guide:
    """The guide that JSON says; ValueError for any other."""
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        got = (data.get("format"), data.get("version")) if isinstance(data, dict) else data
        told = " ".join(map(quoted, got)) if isinstance(got, tuple) else quoted(got)
        raise ValueError(f'Expected an object with "format": "{FORMAT}" and "version": "{VERSION}", got {told}.')
    _no_others(data, ("format", "version", "name", "rules"), "the guide")
    rules = data.get("rules")
    if not isinstance(rules, list) or not 0 < len(rules) <= MOST_RULES:
        got = f"{len(rules)} of them" if isinstance(rules, list) else quoted(rules)
        raise ValueError(f"Expected a list of 1 to {MOST_RULES} rules, got {got}.")
    return Guide(line("name", data.get("name")), tuple(_rule(rule, at) for at, rule in enumerate(rules, 1)))


def _rule(data: Any, at: int) -> Rule:
    try:
        if not isinstance(data, dict):
            raise ValueError(
                f'Expected an object such as {{"level": "never", "object": "a house"}}, got {quoted(data)}.'
            )
        kinds = [kind for kind in KINDS if kind in data]
        if len(kinds) != 1:
            raise ValueError(f"Expected exactly one of {', '.join(KINDS)}, got {' and '.join(kinds) or 'none'}.")
        levels, others, make = KINDS[kinds[0]]
        level = data.get("level")
        if level not in levels:
            raise ValueError(f"Expected {', '.join(levels)} as level of {kinds[0]}, got {quoted(level)}.")
        _no_others(data, ("level", kinds[0], *others), "the rule")
        return make(data)
    except ValueError as error:
        words = str(error)
        raise ValueError(f"Rule {at}: {words[0].lower()}{words[1:]}") from None


def _colour(data: dict[str, Any]) -> Colour:
    rgb_of("colour", data["colour"])
    default = 0.01 if data["level"] == "never" else 0.05
    return Colour(
        data["level"],
        data["colour"].lower(),
        float(number("delta_e", data.get("delta_e", 10), 0.5, 100)),
        float(number("area", data.get("area", default), 0, 1)),
    )


def _object(data: dict[str, Any]) -> Object:
    return Object(data["level"], _word("object", data["object"]))


def _look(data: dict[str, Any]) -> LookRule:
    return LookRule(data["level"], _word("look", data["look"]), float(number("by", data.get("by", 0.5), 0, 100)))


def _contrast(data: dict[str, Any]) -> Contrast:
    return Contrast(data["level"], float(number("contrast", data["contrast"], 1, 21)))


def _free(data: dict[str, Any]) -> Free:
    box = data["free"]
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"Expected free as [left, top, width, height] in shares of the picture, got {quoted(box)}.")
    left, top = (float(number(name, one, 0, 1)) for name, one in zip(("left", "top"), box[:2], strict=True))
    width, height = (float(number(name, one, 0.01, 1)) for name, one in zip(("width", "height"), box[2:], strict=True))
    if left + width > 1 + 1e-9 or top + height > 1 + 1e-9:
        raise ValueError("Expected free inside the picture, got a box that reaches beyond its right or lower side.")
    return Free(data["level"], (left, top, width, height), float(number("edges", data.get("edges", 0.05), 0, 1)))


def _word(name: str, value: Any) -> str:
    word = " ".join(line(name, value, LONGEST_WORD).split())
    if not word:
        raise ValueError(f"Expected a word as {name}, got an empty one.")
    return word


def _no_others(data: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    others = [key for key in data if key not in known]
    if others:
        raise ValueError(f"Expected {', '.join(known)} in {where}, got {quoted(others[0])}: take it out.")


Make = Callable[[dict[str, Any]], Rule]
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Make]] = {
    "colour": (LEVELS, ("delta_e", "area"), _colour),
    "object": (LEVELS, (), _object),
    "look": (LEVELS, ("by",), _look),
    "contrast": (("must", "should"), (), _contrast),
    "free": (("must", "should"), ("edges",), _free),
}
"""By the key that says what a rule is about: its levels, its other keys, and how it is read."""


def written(guide: Guide) -> str:
    """The file's text."""
    rows = []
    for rule in guide.rules:
        match rule:
            case Colour():
                row: dict[str, Any] = {"colour": rule.colour, "delta_e": rule.delta_e, "area": rule.area}
            case Object():
                row = {"object": rule.word}
            case LookRule():
                row = {"look": rule.word, "by": rule.by}
            case Contrast():
                row = {"contrast": rule.ratio}
            case Free():
                row = {"free": list(rule.box), "edges": rule.edges}
        rows.append(json.dumps({"level": rule.level, **row}, ensure_ascii=False))
    head = json.dumps({"format": FORMAT, "version": VERSION, "name": guide.name}, ensure_ascii=False)
    body = ",\n  ".join(rows)
    return f'{head[:-1]}, "rules": [\n  {body}\n]}}\n'
