"""Judges: who says which of two pictures somebody would prefer, where not the person themselves is asked.

A judge stands for the person as far as it is like them, which a blind test of the person tells: report both apart. What
judges say is made figures of in `judged.py`; the people of a pocket world judge in `pocket.judges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from ..blind_questions import Verdict
from ..encoders.encoder import PosteriorEncoder
from ..encoders.towers.pixels import within
from ..encoders.vlm import BEFORE
from ..pairs import PreferencePair
from ..pictures import SEEN_SIDE, Picture

if TYPE_CHECKING:
    from ..encoders.towers.vlm import Part

ASKED = "\nNow two new pictures, painted for: {prompt}\nPicture A: "
OTHER = "\nPicture B: "
AFTER = "\nWhich of the two would this person like better? Answer with one letter, A or B."
PIXELS = 448 * 448


class Asked(NamedTuple):
    """Two pictures of one prompt."""

    prompt: str
    first: Picture
    second: Picture


class Judged(NamedTuple):
    """What a judge says, and whether it says so whichever picture comes first; who does not says "tie"."""

    verdict: Verdict
    is_consistent: bool = True


class Judge(Protocol):
    """Anybody who answers questions."""

    def judge(self, questions: Sequence[Asked]) -> list[Judged]:
        """An answer to each."""
        ...


@dataclass(frozen=True, eq=False)
class PosteriorJudge:
    """The posterior of the person's held-out picks, which made nothing that is judged: prefers what scores higher."""

    encoder: PosteriorEncoder
    held_out: Sequence[PreferencePair]

    def judge(self, questions: Sequence[Asked]) -> list[Judged]:
        """By the sign of the posterior mean's log-odds."""
        u = self.encoder.encode(self.held_out).u[0]
        return [_verdict(float(odds)) for odds in _differences(self.encoder, questions) @ u]


class Reader(Protocol):
    """A model that reads texts and pictures and says which letter comes next: transformers' (`LocalVLM`), or a text
    encoder that ComfyUI has loaded (`hosts.comfyui_verdicts`)."""

    def odds(self, parts: Sequence[Part], first: str, second: str) -> float:
        """log P(first) - log P(second) of the next token."""
        ...


@dataclass(frozen=True, eq=False)
class VLMJudge:
    """A vision-language model that is shown support pairs of the person and asked of two new pictures, in both orders.

    It answers by the likelier of the two letters; where the orders contradict each other it is not consistent, and
    says "tie".
    """

    vlm: Reader
    support: Sequence[PreferencePair]
    pixels: int = PIXELS
    progress: Callable[[int, int], None] | None = None

    def judge(self, questions: Sequence[Asked]) -> list[Judged]:
        """Two readings for each question; `progress(questions done, of)` may raise to cancel."""
        said = []
        for one in questions:
            said.append(self._judge(one))
            if self.progress is not None:
                self.progress(len(said), len(questions))
        return said

    def question(self, asked: Asked) -> list[Part]:
        """What the model is shown and asked, the first picture as A."""
        parts: list[Part] = [BEFORE]
        for number, pair in enumerate(self.support, 1):
            parts += [f"\nPair {number}, painted for: {pair.prompt}\nLiked better: ", self._seen(pair.chosen)]
            parts += ["\nLiked less: ", self._seen(pair.rejected)]
        parts += [ASKED.format(prompt=asked.prompt), self._seen(asked.first), OTHER, self._seen(asked.second), AFTER]
        return parts

    def _judge(self, asked: Asked) -> Judged:
        ahead = self._first_is_ahead(asked)
        behind = self._first_is_ahead(Asked(asked.prompt, asked.second, asked.first))
        return _verdict(ahead) if ahead * behind < 0 else Judged("tie", False)

    def _first_is_ahead(self, asked: Asked) -> float:
        return self.vlm.odds(self.question(asked), "A", "B")

    def _seen(self, picture: Picture) -> Part:
        return within(picture.open(SEEN_SIDE), self.pixels)


def _differences(encoder: PosteriorEncoder, questions: Sequence[Asked]) -> Tensor:
    """phi(first) - phi(second) over the noise, [n, d]."""
    sides = [[one.first for one in questions], [one.second for one in questions]]
    return encoder.prior.differences(*map(encoder.features.picture_features, sides))


def _verdict(odds: float) -> Judged:
    return Judged("first" if odds > 0 else "second" if odds < 0 else "tie")
