"""A taste without training: as words, and as a direction on the prompt's tokens. Any model that reads prompts, any u.

What u says of a look is linear in u: step . u, the log-odds by which a pick moves from the look's low to its high side.
As words, the looks that are surest become phrases. As a direction, prompts with the words of a look's high side are set
against the same prompts with those of its low side, and the mean difference of their token states is added to the
artist's prompt (steering by contrastive prompts: Ekin and Gandelsman, arXiv 2603.17998). States are taken relative to
their token's length, and so is what is added: several denoisers normalise tokens first, and the first token of a
language model may be a thousand times as long as the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoders.looks import Looks
from .lexicon import OWN, PROMPT, Look, LookSide
from .user_embedding import UserEmbedding

MOST = 6
"""Looks of a person that act or are named, by default; the strongest."""
LEAST_SURE = 0.75
SURE = 0.9
"""Certainty from which a phrase is named, and from which it is called sure."""
CLEAR = 0.5
"""Where it is not known how sure u is, looks are named whose effect is this share of the strongest one's."""
NOTHING = 1e-6
"""Of the longest that an effect can be: what rounding leaves of a look that a taste was freed of (guard/bound.py)."""
FULL = 3.0
"""Log-odds of a look whose words count in full, as many as a simulated person's taste (encoders.making)."""
NEUTRAL = ("a house by a lake", "a woman at a table", "a cat on a chair", "a street with trees")
"""Prompts between which looks are told apart."""


@dataclass(frozen=True)
class Leaning:
    """What u says of one look: `effect`, the log-odds of a pick for one step from low to high, and `certainty`, the
    probability that its sign is right; None where u does not know how sure it is."""

    look: Look
    effect: float
    certainty: float | None

    @property
    def liked(self) -> LookSide:
        """The side that the person leans to."""
        return self.look.high if self.effect > 0 else self.look.low

    @property
    def disliked(self) -> LookSide:
        """Its opposite."""
        return self.look.low if self.effect > 0 else self.look.high

    @property
    def weight(self) -> float:
        """By how much the high side's words count against the low side's; linear in u."""
        return self.effect / FULL


def leanings(embedding: UserEmbedding, looks: Looks, noise: float, lexicon: Mapping[str, Look]) -> list[Leaning]:
    """One for each of a taste encoder's looks, the strongest first; `noise` is its prior's (`PopulationPrior.noise`).

    The words are those of the lexicon's look of that name, else the taste encoder's own.
    """
    if embedding.dim != looks.dim:
        raise ValueError(
            f"Expected a user embedding of {looks.dim} dimensions as the taste encoder's looks have, got "
            f"{embedding.dim}: use the taste encoder that made it ({embedding.encoder})."
        )
    steps = looks.steps.double() / noise
    u = embedding.u.double().mean(0).cpu()
    effects = steps @ u
    effects[effects.abs() <= NOTHING * steps.norm(dim=1) * u.norm()] = 0.0
    factor = embedding.covariance_factor
    spreads = None if factor is None else (steps @ factor.double().cpu()).norm(dim=1)
    found = []
    for index, effect in enumerate(effects.tolist()):
        certainty = None if spreads is None else _certainty(effect, float(spreads[index]))
        found.append(Leaning(_words_of(looks, index, lexicon), effect, certainty))
    return sorted(found, key=lambda one: -abs(one.effect))


def _certainty(effect: float, spread: float) -> float:
    return 0.5 * (1 + math.erf(abs(effect) / spread / 2**0.5)) if spread else 1.0


def _words_of(looks: Looks, index: int, lexicon: Mapping[str, Look]) -> Look:
    name, low, high = looks.names[index], looks.low[index], looks.high[index]
    if name in lexicon:
        return lexicon[name]
    low_ja, high_ja = looks.japanese[index] if looks.japanese else (low, high)
    return Look(name, OWN, LookSide(low, low_ja, low), LookSide(high, high_ja, high))


def told(found: Sequence[Leaning], most: int = MOST, least: float = LEAST_SURE) -> list[Leaning]:
    """The leanings worth words: at least `least` certain, at most `most` of them."""
    clear = CLEAR * max((abs(one.effect) for one in found), default=0.0)
    kept = [
        one
        for one in found
        if one.effect and (abs(one.effect) >= clear if one.certainty is None else one.certainty >= least)
    ]
    return kept[:most]


def liked_words(found: Iterable[Leaning]) -> str:
    """What to put behind a prompt."""
    return ", ".join(_phrase(one.liked) for one in found)


def disliked_words(found: Iterable[Leaning]) -> str:
    """What to put into a negative prompt."""
    return ", ".join(one.liked.negative or _phrase(one.disliked) for one in found)


def on_prompt(prompt: str, found: Iterable[Leaning]) -> str:
    """The prompt that asks for what is liked: what goes around it ("an oil painting of ...") first, the strongest
    outermost, then what goes behind it."""
    sides = [one.liked for one in found]
    around = [side for side in sides if PROMPT in side.words]
    for side in [*reversed(around), *(side for side in sides if PROMPT not in side.words)]:
        prompt = side.on(prompt)
    return prompt


def instruction(found: Sequence[Leaning]) -> str:
    """A sentence for a language model that rewrites prompts; nothing where nothing is liked."""
    if not found:
        return ""
    liked, disliked = (
        ", ".join(side.name + _degree(one) for one, side in sides)
        for sides in ([(one, one.liked) for one in found], [(one, one.disliked) for one in found])
    )
    return (
        "Keep everything the prompt says is in the picture. Where it leaves the look open, choose what this person "
        f"likes: {liked}. Avoid: {disliked}."
    )


def _degree(one: Leaning) -> str:
    if one.certainty is None:
        return ""
    return f" ({'sure' if one.certainty >= SURE else 'likely'})"


def _phrase(side: LookSide) -> str:
    """Words that follow a prompt after a comma; of a side that goes around the prompt its name."""
    return side.name if PROMPT in side.words else side.words


def token_mean(states: Tensor, real: Tensor | None = None) -> Tensor:
    """The mean direction of a prompt's tokens: states [1, ..., L, D] to [..., D], tokens of no length left out.

    `real` [1, L] is 1 for tokens of the prompt and 0 for padding.
    """
    states = states[0].float()
    lengths = states.norm(dim=-1, keepdim=True)
    counted = (lengths > 0).float() if real is None else (lengths > 0) * (real[0, :, None] > 0).float()
    return (states / lengths.clamp_min(1e-12) * counted).sum(-2) / counted.sum(-2).clamp_min(1)


def contrast(high: Sequence[Tensor], low: Sequence[Tensor]) -> Tensor:
    """A look's direction [..., D] from the `token_mean` of prompts with its high side's words and with its low side's:
    the mean difference, relative to a token's length."""
    return torch.stack([one - other for one, other in zip(high, low, strict=True)]).mean(0)


def shifted(tokens: Tensor, direction: Tensor, strength: float, real: Tensor | None = None) -> Tensor:
    """Tokens [B, ..., L, D] moved along the directions [B or 1, ..., D] by `strength` times each one's own length.

    Tokens of no length, such as padding of zeros, stay, and those that `real` [B or 1, L] calls padding.
    """
    lengths = tokens.float().norm(dim=-1, keepdim=True)
    if real is not None:
        lengths = lengths * (real > 0).to(lengths).reshape(real.shape[0], *[1] * (tokens.ndim - 3), -1, 1)
    return (tokens.float() + strength * lengths * direction.to(lengths).unsqueeze(-2)).to(tokens.dtype)
