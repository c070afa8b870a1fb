"""Brand guides that people of the tab Taste are bound to: their taste as it is painted by, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..ppd.encoders.encoder import PosteriorEncoder
from ..ppd.files import file_digest
from ..ppd.guard.bound import Bound, binding, bound, told
from ..ppd.guard.brand import look_end
from ..ppd.guard.guide import Guide, read_guide
from ..ppd.messages import quoted
from ..ppd.store import Person
from ..ppd.user_embedding import UserEmbedding
from . import folders, interviews

ELSE = "or choose another guide, or none, in the tab Taste under More"


@dataclass(frozen=True)
class Held:
    """A person's guide, whether its file was changed since they chose it, and their taste as it obeys."""

    guide: Guide
    changed: bool
    bound: Bound

    @property
    def told(self) -> tuple[str, ...]:
        """Lines for reports."""
        since = ("The guide's file was changed since it was chosen in the tab Taste.",) if self.changed else ()
        return (*told(self.bound, self.guide).splitlines(), *since)


def hold(person: Person, embedding: UserEmbedding, reader: PosteriorEncoder) -> Held | None:
    """The taste of somebody, read by `reader`, as their guide lets it be; None where they have none.

    ValueError where the guide is gone or damaged, or names looks that the encoder does not tell: a taste that is to be
    bound is not painted by as it is. No person's name is in it, since nodes' errors are logged.
    """
    if person.guide is None:
        return None
    guide, digest = guide_file(person.guide)
    changed = digest != person.guide_digest
    if not binding(guide):
        return Held(guide, changed, Bound(embedding, ()))
    if reader.looks is None:
        raise ValueError(
            f"The person is bound to looks, and their taste encoder names none: choose another one, {ELSE}."
        )
    try:
        return Held(guide, changed, bound(embedding, guide, reader.looks, reader.prior))
    except ValueError as error:
        raise ValueError(f"The brand guide {quoted(guide.name)} cannot bind the person: {error}") from None


def held_back(
    person: Person | None, embedding: UserEmbedding, reader: PosteriorEncoder
) -> tuple[UserEmbedding, tuple[str, ...]]:
    """The same as an embedding and what reports say of it; the embedding as it is where nobody is bound."""
    found = None if person is None else hold(person, embedding, reader)
    return (embedding, ()) if found is None else (found.bound.embedding, found.told)


def shown(person: Person, embedding: UserEmbedding, reader: PosteriorEncoder) -> dict[str, Any] | None:
    """For the browser: what the guide changes of the taste that is painted by, or why it cannot; None without one."""
    try:
        found = hold(person, embedding, reader)
    except ValueError as error:
        return {"problem": str(error)}
    if found is None:
        return None
    held = []
    for rule in found.bound.held:
        assert reader.looks is not None
        at, sign = look_end(reader.looks, rule.word)
        words = {"name": reader.looks.names[at], "low": reader.looks.low[at], "high": reader.looks.high[at]}
        japanese = reader.looks.japanese[at] if reader.looks.japanese else None
        held.append({**words, "japanese": japanese, "side": "high" if sign > 0 else "low", "level": rule.level})
    return {"name": found.guide.name, "changed": found.changed, "binds": bool(binding(found.guide)), "held": held}


def set_guide(person: str, name: str | None) -> None:
    """Bind somebody's taste to a guide from now on, or free it with None; ValueError where the guide cannot bind it."""
    store, digest = folders.taste_store(), None
    if name is not None:
        digest, encoder = guide_file(name)[1], interviews.interview_of(person).encoder
        hold(replace(store.person(person), guide=name, guide_digest=digest), encoder.encode([]), encoder)
    store.set_guide(person, name, digest)


def guide_file(name: str) -> tuple[Guide, str]:
    """The guide of a name and its file's sha256; ValueError where it cannot be read."""
    try:
        path = folders.brand_guide_file(name)
    except ValueError:
        raise ValueError(f"There is no brand guide {quoted(name)}: put its file back, {ELSE}.") from None
    try:
        return read_guide(path), file_digest(path)
    except ValueError as error:
        raise ValueError(f"The brand guide cannot be read: {str(error).rstrip('.')}; mend the file, {ELSE}.") from None


def fingerprint(person: Person) -> str:
    """Changes when the guide's file does; "" without a guide. What is wrong with it is told when it is used."""
    try:
        return "" if person.guide is None else file_digest(folders.brand_guide_file(person.guide))
    except (ValueError, OSError):
        return "gone"
