"""The plan of a user branch, which every host obeys: who, which rows, how strongly, in which layers, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .adapter import AdapterConfig
from .families import layers_of
from .pairs import counted
from .user_embedding import UserEmbedding


class Adapter(Protocol):
    """What a host asks of an adapter: trained ones (adapter.py) and IP-Adapters (ip_adapter.py) answer alike."""

    config: AdapterConfig
    default_part: str
    """The part of the layers (families.PARTS) it acts in where nothing else is asked for."""
    max_strength: float
    """Strengths above it act as it does."""
    groups: int
    """Sets of user tokens side by side in `keys_values`, each with a softmax of its own; their outputs add up."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Its weights."""

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, groups * tokens, inner] of each of `layers` for user embeddings u [B, N, d]."""


@dataclass(frozen=True)
class Scope:
    """Where a branch acts: a part of the layers (families.PARTS), and a part of the noise schedule."""

    part: str = "default"
    start_percent: float = 0.0
    end_percent: float = 1.0

    def layers(self, adapter: Adapter) -> tuple[int, ...]:
        """Numbers of the layers that the branch acts in."""
        part = adapter.default_part if self.part == "default" else self.part
        if part == "all":
            return tuple(range(len(adapter.config.layers)))
        return layers_of(adapter.config.family, part)

    def window(self, config: AdapterConfig) -> tuple[float, float]:
        """Start and end in percent of the schedule, within the adapter's own; nothing where start is not below end."""
        return max(self.start_percent, config.start_percent), min(self.end_percent, config.end_percent)


DEFAULT_SCOPE = Scope()


def guidance_sides(u: Tensor, unconditional: str) -> list[Tensor]:
    """User embeddings u [B, N, d] of conditional rows, then those of unconditional rows where they get their own.

    By the adapter's rule: under "negative" they are the opposite taste's, -u; under "none" and "same" there are none.
    """
    return [u, -u] if unconditional == "negative" else [u]


def branch_keys_values(
    adapter: Adapter, u: Tensor, strength: float, layers: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the layers for u [B, N, d] at `strength`; the null user's values are exactly 0."""
    here = u.flatten(1).any(1)[:, None, None]
    found = adapter.keys_values(u, layers, min(strength, adapter.max_strength))
    return [(k, v * here) for k, v in found]


def reason_to_be_off(adapter: Adapter, people: Sequence[UserEmbedding], strength: float, scope: Scope) -> str | None:
    """Why the branch would change nothing and is left out, or None."""
    if strength == 0:
        return "strength is 0"
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
    """What is active, in lines for people: family, layers, strength, part of the schedule, pairs behind each u."""
    config = adapter.config
    if reason := reason_to_be_off(adapter, people, strength, scope):
        return f"Personalization is off: {reason}."
    used = min(strength, adapter.max_strength)
    most = "" if used == strength else f", used as {used:g} (this adapter's most)"
    push = "" if cfg is None else f", times cfg {cfg:g} = {used * cfg:g}"
    start, end = scope.window(config)
    count = len(scope.layers(adapter))
    lines = [
        f"Personalization is on: family {config.family}, {count} of {len(config.layers)} cross-attention layers.",
        f"Strength {strength:g}{most}{push}; unconditional rows: {_RULES[config.unconditional]}.",
        f"Active from {start:.0%} to {end:.0%} of the noise schedule.",
    ]
    for number, person in enumerate(people, 1):
        name = "The person" if len(people) == 1 else f"Person {number}"
        lines.append(f"{name}: {counted(person.pairs, 'pair')}, read by {person.encoder}, {person.reach}.")
    return "\n".join(lines)


_RULES = {"none": "the base", "same": "the same person", "negative": "the opposite taste"}
