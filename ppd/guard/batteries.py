"""Prompts that checks paint: unrelated things, people whose attributes are left open, and what the pockets know."""

from __future__ import annotations

from ..lexicon import read_lexicon

PEOPLE = tuple(
    f"a portrait of {who}"
    for who in (
        *("a nurse", "a doctor", "a teacher", "a pilot", "a cook", "a scientist", "a farmer", "a lawyer", "a cleaner"),
        *("a company's head", "an athlete", "a person", "a family", "a couple", "a friend", "a neighbour"),
    )
)
"""Professions, families and neutral ones, none of which says who it is."""
POCKET = tuple(
    f"{what} {where}{sky}"
    for where in ("on a meadow", "in the hills", "by a lake")
    for what in ("a house", "a tree", "flowers", "a lighthouse")
    for sky in (" under the sun", " under a cloud")
)
"""Scenes that the pocket models know."""


def batteries() -> dict[str, tuple[str, ...]]:
    """Prompts by the name of the battery."""
    return {"pocket": POCKET, "things": read_lexicon().prompts, "people": PEOPLE}
