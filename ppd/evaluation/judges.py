"""Judges: who says which of two pictures somebody would prefer, where not the person themselves is asked.

All answer the same questions as the person does, so that `blind.score` reads their answers alike. A judge stands for
the person as far as it is like them, which a blind test of the person tells: report both apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..blind_questions import Trial, Verdict
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


@dataclass(frozen=True, eq=False)
class SimulatedPerson:
    """Somebody of a known taste [d], in logits per unit of phi (`encoders.simulated`), who errs as people do: prefers
    the first picture with probability sigmoid(taste . (phi first - phi second))."""

    encoder: PosteriorEncoder
    taste: Tensor
    seed: int = 0

    def judge(self, questions: Sequence[Asked]) -> list[Judged]:
        """A draw for each question."""
        odds = _differences(self.encoder, questions) * self.encoder.prior.noise @ self.taste.float()
        drawn = torch.rand(len(odds), generator=torch.Generator().manual_seed(self.seed))
        return [_verdict(float(p - u)) for p, u in zip(odds.sigmoid(), drawn, strict=True)]


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


def answered_by(judge: Judge, trials: Sequence[Trial], picture: Callable[[str], Picture]) -> tuple[list[Trial], float]:
    """The trials as the judge answers them, and the share of answers that the order of the pictures did not change."""
    said = judge.judge([Asked(one.prompt, *map(picture, one.pictures)) for one in trials])
    answered = [
        replace(one, verdict=told.verdict, pick=number)
        for number, (one, told) in enumerate(zip(trials, said, strict=True), 1)
    ]
    return answered, sum(told.is_consistent for told in said) / max(1, len(said))


def held_out(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Every second prompt's pairs held out: support, and held-out pairs that share no prompt and no picture with it.

    What shares a picture with the support goes nowhere.
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    support = [pair for pair in pairs if prompts.index(pair.prompt) % 2 == 0]
    seen = {picture.digest for pair in support for picture in (pair.chosen, pair.rejected)}
    rest = [pair for pair in pairs if prompts.index(pair.prompt) % 2]
    return support, [pair for pair in rest if not seen & {pair.chosen.digest, pair.rejected.digest}]


def _differences(encoder: PosteriorEncoder, questions: Sequence[Asked]) -> Tensor:
    """phi(first) - phi(second) over the noise, [n, d]."""
    sides = [[one.first for one in questions], [one.second for one in questions]]
    return encoder.prior.differences(*map(encoder.features.picture_features, sides))


def _verdict(odds: float) -> Judged:
    return Judged("first" if odds > 0 else "second" if odds < 0 else "tie")
