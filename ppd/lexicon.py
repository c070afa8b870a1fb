"""The lexicon: neutral prompts, and looks, which are named pairs of opposites with the words that ask a model for them.

`lexicon.json` beside this file is the pack's. An artist's own file of the same form goes on top: its looks are added,
and take the place of those with the same id; its prompts are added.

    {"prompts": ["a dog"], "looks": [{"id": "rough-smooth", "category": "own",
      "low": {"name": "rough", "name_ja": "粗い", "words": "rough surfaces", "negative": "smooth"},
      "high": {"name": "smooth", "words": "a smooth drawing of {prompt}"}}]}

Words without {prompt} follow the prompt after a comma. Only `id` and both sides' `words` must be there.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEXICON = Path(__file__).with_suffix(".json")
PROMPT = "{prompt}"
OWN = "own"
"""Category of looks that name none."""
_IDENTIFIER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_ID = 64


@dataclass(frozen=True)
class LookSide:
    """One of a look's two opposites: its names for people, what it puts on the prompt and on the negative prompt."""

    name: str
    name_ja: str
    words: str
    negative: str = ""

    def on(self, prompt: str) -> str:
        """The prompt that asks for this side."""
        if PROMPT in self.words:
            return self.words.replace(PROMPT, prompt)
        return f"{prompt}, {self.words}" if self.words else prompt

    def on_negative(self, negative: str) -> str:
        """The negative prompt that asks for this side."""
        return ", ".join(filter(None, (negative, self.negative)))


@dataclass(frozen=True)
class Look:
    """A named pair of opposites; `id` names it in files, in small letters, digits and hyphens."""

    id: str
    category: str
    low: LookSide
    high: LookSide

    def side(self, name: str) -> LookSide | None:
        """The side "low" or "high"; None for a picture without a look, "none"."""
        return {"low": self.low, "high": self.high, "none": None}[name]

    def asks_as(self, other: Look) -> bool:
        """Whether both put the same words on a prompt, whatever they are called."""
        ours, theirs = (
            (look.low.words, look.low.negative, look.high.words, look.high.negative) for look in (self, other)
        )
        return ours == theirs

    def as_json(self) -> dict[str, Any]:
        """What `look_of` reads."""
        return asdict(self)


@dataclass(frozen=True)
class Lexicon:
    """Looks by their id, and neutral prompts."""

    looks: dict[str, Look]
    prompts: tuple[str, ...]

    def chosen(self, names: str) -> list[Look]:
        """The looks of ids or categories separated by commas or lines, in the lexicon's order; all where none is named.

        ValueError for a name that is neither.
        """
        wanted = {name.strip().casefold() for name in re.split(r"[,\n]", names)} - {""}
        categories = {look.category.casefold() for look in self.looks.values()}
        unknown = sorted(wanted - categories - self.looks.keys())
        if unknown:
            raise ValueError(
                f"The lexicon has no look or category {unknown[0]!r}: expected one of the categories "
                f"{', '.join(sorted(categories))}, or the id of a look such as {next(iter(self.looks))}."
            )
        looks = list(self.looks.values())
        return [look for look in looks if not wanted or {look.id, look.category.casefold()} & wanted]


def read_lexicon(*own: Path) -> Lexicon:
    """The pack's lexicon with the artist's own files on top; ValueError in one sentence where a file is wrong."""
    looks: dict[str, Look] = {}
    prompts: dict[str, None] = {}
    for file in (LEXICON, *own):
        data = _read(file)
        looks |= {look.id: look for look in (look_of(entry, file.name) for entry in data.get("looks", []))}
        prompts |= dict.fromkeys(_prompts(data.get("prompts", []), file.name))
    return Lexicon(looks, tuple(prompts))


def prompt_lines(text: str) -> tuple[str, ...]:
    """The prompts of a text, one a line, each once."""
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def look_of(entry: Any, file: str) -> Look:
    """A look out of JSON; ValueError, naming the file and the look, where it is none."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ValueError(f"{file}: expected each look as an object with id, low and high, got {_short(entry)}.")
    name = entry["id"]
    if not _IDENTIFIER.fullmatch(name) or len(name) > _LONGEST_ID:
        raise ValueError(
            f"{file}: expected the id of a look in small letters, digits and hyphens, at most {_LONGEST_ID}, "
            f"got {_short(name)}."
        )
    category = entry.get("category", OWN)
    if not isinstance(category, str):
        raise ValueError(f"{file}, look {name}: expected a text as category, got {_short(category)}.")
    return Look(name, category, *(_side(entry.get(side), f"{file}, look {name}, {side}") for side in ("low", "high")))


def _side(entry: Any, where: str) -> LookSide:
    if not isinstance(entry, dict) or not isinstance(entry.get("words"), str):
        raise ValueError(f'{where}: expected an object such as {{"words": "thick lines"}}, got {_short(entry)}.')
    wrong = [key for key in ("name", "name_ja", "negative") if not isinstance(entry.get(key, ""), str)]
    if wrong:
        raise ValueError(f"{where}: expected a text as {wrong[0]}, got {_short(entry[wrong[0]])}.")
    name = entry.get("name") or entry["words"]
    return LookSide(name, entry.get("name_ja") or name, entry["words"], entry.get("negative", ""))


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"The lexicon {file.name} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"The lexicon {file.name} is not JSON in UTF-8 ({error}): correct it there.") from error
    if not isinstance(data, dict) or not isinstance(data.get("looks", []), list):
        raise ValueError(f'{file.name}: expected an object such as {{"prompts": [...], "looks": [...]}}.')
    return data


def _prompts(value: Any, file: str) -> list[str]:
    """Prompts given as a list, or as lists by subject."""
    groups = value.values() if isinstance(value, dict) else [value]
    prompts = [prompt for group in groups for prompt in (group if isinstance(group, list) else [group])]
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{file}: expected prompts as a list of texts, got {_short(prompt)} among them.")
    return [prompt.strip() for prompt in prompts]


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
