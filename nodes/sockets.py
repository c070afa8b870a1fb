"""The types on our nodes' sockets.

PREFERENCE_PAIRS is a list of PreferencePair, PairsOf where they are one person's of the taste store ·
USER_EMBEDDING a UserEmbedding, or a tuple of them, one for each latent ·
USER_ADAPTER a ModelPatcher whose model is a UserAdapter · STUDIES a StudySet.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import io

from ..ppd.pairs import PreferencePair
from ..ppd.store import Person
from ..ppd.user_embedding import UserEmbedding as Embedding

PreferencePairs = io.Custom("PREFERENCE_PAIRS")
UserEmbedding = io.Custom("USER_EMBEDDING")
UserAdapter = io.Custom("USER_ADAPTER")
Studies = io.Custom("STUDIES")

CATEGORY = "personalization"


class PairsOf(list[PreferencePair]):
    """Preference pairs that know whose they are, since a brand guide may bind what is made of them."""

    def __init__(self, person: Person, pairs: Iterable[PreferencePair]) -> None:
        super().__init__(pairs)
        self.person = person


def people_of(value: Embedding | tuple[Embedding, ...] | None) -> tuple[Embedding, ...]:
    """The people of a USER_EMBEDDING; nobody where none is connected."""
    if value is None:
        return ()
    return (value,) if isinstance(value, Embedding) else value


def one_person(value: Embedding | tuple[Embedding, ...] | None, purpose: str) -> Embedding:
    """The one person of a USER_EMBEDDING; a batch is refused, saying for what."""
    people = people_of(value)
    if len(people) != 1:
        raise ValueError(f"Expected one person to {purpose}, got a batch of {len(people)}: connect a single embedding.")
    return people[0]
