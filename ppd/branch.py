"""The plan of a user branch, which every host obeys: who, which rows, how strongly, in which layers, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from .adapters import AdapterConfig
from .families import has_row
from .limits import number
from .pairs import counted
from .user_embedding import UserEmbedding


class Adapter(Protocol):
    """What a host asks of an adapter of any kind: trained ones and IP-Adapters (adapters/) answer alike."""

    default_part: str
    """The part of the places (families.PARTS) it acts in where nothing else is asked for."""
    max_strength: float
    """Strengths above it act as it does."""

    @property
    def config(self) -> AdapterConfig:
        """What it was made for."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Its weights."""


class AttentionAdapter(Adapter, Protocol):
    """An adapter that gives keys and values to cross-attention layers."""

    groups: int
    """Sets of user tokens side by side in `keys_values`, each with a softmax of its own; their outputs add up."""

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, groups * tokens, inner] of each of `layers` for user embeddings u [B, N, d]."""


@dataclass(frozen=True)
class Scope:
    """Where a branch acts: a part of the denoiser's places (families.PARTS), and a part of the noise schedule."""

    part: str = "default"
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start_percent", "end_percent"):
            number(name, getattr(self, name), 0, 1)

    def places(self, adapter: Adapter) -> tuple[int, ...]:
        """Numbers of the places that the branch acts in: cross-attention layers, or sites of a low-rank adapter."""
        return adapter.config.places_of(adapter.default_part if self.part == "default" else self.part)

    def window(self, config: AdapterConfig) -> tuple[float, float]:
        """Start and end in percent of the schedule, within the adapter's own; nothing where start is not below end."""
        return max(self.start_percent, config.start_percent), min(self.end_percent, config.end_percent)


DEFAULT_SCOPE = Scope()
MOST_STRENGTH = 100.0
"""Either way; widgets offer 3, and links bring anything."""


def guidance_sides(u: Tensor, unconditional: str) -> list[Tensor]:
    """User embeddings u [B, N, d] of conditional rows, then those of unconditional rows where they get their own.

    By the adapter's rule: under "negative" they are the opposite taste's, -u; under "none" and "same" there are none.
    """
    return [u, -u] if unconditional == "negative" else [u]


def branch_keys_values(
    adapter: AttentionAdapter, u: Tensor, strength: float, layers: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the layers for u [B, N, d] at `strength`; the null user's values are exactly 0."""
    number("strength", strength, -MOST_STRENGTH, MOST_STRENGTH)
    here = u.flatten(1).any(1)[:, None, None]
    found = adapter.keys_values(u, layers, min(strength, adapter.max_strength))
    return [(k, v * here) for k, v in found]


def off_for_anybody(strength: float, scope: Scope) -> str | None:
    """Why a branch would change nothing whoever it is for and whatever adapter it has, or None; ValueError where the
    strength is no number that a picture could come of."""
    number("strength", strength, -MOST_STRENGTH, MOST_STRENGTH)
    if strength == 0:
        return "strength is 0"
    if scope.start_percent >= scope.end_percent:
        return "start_percent is not below end_percent"
    return None


def reason_to_be_off(adapter: Adapter, people: Sequence[UserEmbedding], strength: float, scope: Scope) -> str | None:
    """Why the branch would change nothing and is left out, or None."""
    if off := off_for_anybody(strength, scope):
        return off
    if all(person.is_null for person in people):
        return "the null user paints as the base"
    start, end = scope.window(adapter.config)
    if start >= end:
        config = adapter.config
        return (
            f"the adapter acts from {config.start_percent:.0%} to {config.end_percent:.0%} of the noise schedule only"
        )
    return None


def describe(
    adapter: Adapter,
    people: Sequence[UserEmbedding],
    strength: float,
    cfg: float | None = None,
    scope: Scope = DEFAULT_SCOPE,
) -> str:
    """What is active: a line for who paints, whose picks and how strongly, and one with all that made the picture."""
    config = adapter.config
    if reason := reason_to_be_off(adapter, people, strength, scope):
        return f"Personalization is off: {reason}."
    used = min(strength, adapter.max_strength)
    most = "" if used == strength else f" (acts as {used:g}, this adapter's most)"
    few = " Weak so far: pick more." if any(person.pairs < FEW for person in people) else ""
    start, end = scope.window(config)
    facts = [
        f"{len(scope.places(adapter))} of {config.count} {config.places}",
        f"noise schedule from {start:.0%} to {end:.0%}",
        *([] if cfg is None else [f"strength times cfg {cfg:g} = {used * cfg:g}"]),
        f"negative prompt: {_RULES[config.unconditional]}",
        *dict.fromkeys(f"read by {person.encoder}" for person in people),
        f"length of the taste {' and '.join(f'{person.u.norm():.2f}' for person in people)}",
    ]
    new = "" if has_row(config.family) else NEW_KIND
    return f"Paints {_for_whom(people)} at strength {strength:g}{most}.{few}{new}\n({'; '.join(facts)}.)"


@dataclass(frozen=True)
class Outcome:
    """What came of a run: how many of its calls of the denoiser were personal, and at how many of the branch's places.

    kind: what the places are called. window: start and end of the branch in percent of the schedule.
    """

    calls: int
    personal_calls: int
    reached: int
    places: int
    kind: str
    window: tuple[float, float]

    def __add__(self, other: Outcome) -> Outcome:
        """Of two runs of one branch."""
        calls, personal = self.calls + other.calls, self.personal_calls + other.personal_calls
        return replace(self, calls=calls, personal_calls=personal, reached=max(self.reached, other.reached))

    def told(self) -> str:
        """One sentence for people."""
        if not self.personal_calls:
            start, end = self.window
            return (
                "No step was personal: raise denoise or end_percent. "
                f"The person acts from {start:.0%} to {end:.0%} of the noise schedule."
            )
        steps = f"{self.personal_calls} of {self.calls} calls of the model"
        return f"Personal were {steps}, in {self.reached} of {self.places} {self.kind}."


def _for_whom(people: Sequence[UserEmbedding]) -> str:
    picks = [counted(person.pairs, "pick") for person in people]
    if len(people) > 1:
        return f"for {len(people)} people, of {' and '.join(picks)},"
    return f"for {picks[0]}" if people[0].pairs else "for the average person, since there are no picks yet,"


NEW_KIND = " This kind of model is new here: its layers were found by their names."
FEW = 4
"""Picks below which a taste is hardly known: the least that the method's paper and our measurements give a person."""
_RULES = {"none": "the model itself", "same": "the same person", "negative": "the opposite taste"}
