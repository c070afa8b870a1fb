"""Probes: what tells whether a picture shows a thing that a word names.

Of a tower with a text side (open_clip) by zero-shot comparison (Radford et al. 2021): a thing is there where its text
is nearer to the picture than a text that names nothing. "a woman / a man" asks which of the two is nearer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoders.features import PictureFeatures, Tower
from ..encoders.towers.open_clip import TextSide
from ..messages import quoted
from ..pictures import Picture

TEMPLATES = ("a picture of {}", "a photo of {}", "an image with {} in it")
"""A word is asked for in several sentences, and their mean is taken."""
NOTHING = ("something", "a scene", "a place", "an object")
"""What a word stands against that names no opposite."""
OPPOSITES = re.compile(r"\s+/\s+")
MOST_WORDS = 200
_ARTICLE = re.compile(r"^(a|an|the|some)\s+")


class Probe(Protocol):
    """Looks for things in pictures."""

    def scores(self, pictures: Sequence[Tensor], words: Sequence[str]) -> Tensor:
        """Pictures [H, W, 3] in 0..1 and k words to [n, k], above 0 where the picture shows what the word names."""


class TextProbe:
    """A tower with a text side; scores are differences of cosines."""

    def __init__(self, tower: Tower, text_side: TextSide, progress: Callable[[int, int], None] | None = None) -> None:
        self.tower, self.text_side, self.progress = tower, text_side, progress
        self._directions: dict[str, Tensor] = {}

    def scores(self, pictures: Sequence[Tensor], words: Sequence[str]) -> Tensor:
        """As of Probe."""
        sides = [OPPOSITES.split(word, 1) for word in words]
        self._read([*NOTHING, *(side for both in sides for side in both)])
        seen = PictureFeatures(self.tower).picture_features(
            [Picture.from_tensor(one) for one in pictures], progress=self.progress
        )
        seen = F.normalize(seen.float(), dim=-1)
        nothing = torch.stack([self._directions[one] for one in NOTHING]).mean(0)
        against = [self._directions[both[1]] if len(both) == 2 else nothing for both in sides]
        return torch.stack(
            [seen @ (self._directions[both[0]] - other) for both, other in zip(sides, against, strict=True)], 1
        )

    def _read(self, words: Sequence[str]) -> None:
        """Directions of words not read yet: a text side may have to open its model for it."""
        new = [one for one in dict.fromkeys(words) if one not in self._directions]
        if new:
            texts = self.text_side([template.format(one) for one in new for template in TEMPLATES])
            read = F.normalize(F.normalize(texts.float(), dim=-1).unflatten(0, (len(new), -1)).mean(1), dim=-1)
            self._directions |= dict(zip(new, read, strict=True))


class FixedProbe:
    """A classifier of its own `kinds`: `classify` takes pictures [n, 3, H, W] in 0..1 to logits [n, kinds]."""

    def __init__(self, kinds: Sequence[str], classify: Callable[[Tensor], Tensor], side: int) -> None:
        self.kinds, self.classify, self.side = tuple(kinds), classify, side

    def scores(self, pictures: Sequence[Tensor], words: Sequence[str]) -> Tensor:
        """As of Probe; a word that is none of the kinds is a ValueError."""
        sides = [[self._place(side) for side in OPPOSITES.split(word, 1)] for word in words]
        fitted = [_fitted(picture, self.side) for picture in pictures]
        logits = torch.cat([self.classify(torch.stack(fitted[i : i + 64])) for i in range(0, len(fitted), 64)])
        return torch.stack([logits[:, a] - logits[:, b[0]] if b else logits[:, a] for a, *b in sides], 1).float()

    def _place(self, word: str) -> int:
        for index, kind in enumerate(self.kinds):
            if plain(word) == plain(kind):
                return index
        raise ValueError(
            f"This probe does not know {quoted(word)}: expected {', '.join(self.kinds)}; choose one of these, or a "
            "probe that reads any words."
        )


def _fitted(picture: Tensor, side: int) -> Tensor:
    """A picture [H, W, C] as [3, side, side], its middle, on the CPU."""
    x = picture[..., :3].float().cpu().movedim(-1, 0)[None]
    height, width = x.shape[-2:]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        shape = max(side, round(height * scale)), max(side, round(width * scale))
        x = F.interpolate(x, shape, mode="bilinear", antialias=True).clamp(0, 1)
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        x = x[..., top : top + side, left : left + side]
    return x[0]


def plain(word: str) -> str:
    """A word as it is compared: in small letters, without its article and the plural's ending."""
    return _ARTICLE.sub("", word.strip().casefold()).removesuffix("s")


def names(prompt: str, word: str) -> bool:
    """Whether a prompt names what a word does, or either of two opposites, in the singular or the plural."""
    for side in OPPOSITES.split(word, 1):
        if re.search(rf"\b{re.escape(plain(side))}(s|es)?\b", prompt.casefold()):
            return True
    return False


def word_lines(text: str) -> tuple[str, ...]:
    """The words of a text, one a line or separated by commas, each once; ValueError for none or too many."""
    words = tuple(dict.fromkeys(" ".join(one.split()) for one in re.split(r"[,\n]", text) if one.strip()))
    if not 0 < len(words) <= MOST_WORDS:
        raise ValueError(
            f"Expected 1 to {MOST_WORDS} words to look for, got {len(words)}: write one a line, such as a house."
        )
    return words
