"""How `version_4.zip` was made: a taste store by the released code of version 4, and what that code said of it.

python -m tests.store.make_version_4
"""

from __future__ import annotations

from typing import Any

from .make_version_3 import make

RELEASED = "e7ba9d0"


def blind_test(store: Any, person: str) -> None:
    """A test of two ways to paint, which is not yet answered."""
    from ppd.blind_questions import Matchup

    from .small_stores import picture

    matchups = [
        Matchup(f"a mill {number}", (picture(200 + 2 * number), picture(201 + 2 * number))) for number in range(4)
    ]
    store.add_test(person, ["plain", "mine"], matchups, 4, {"picks": 3})


if __name__ == "__main__":
    make(4, RELEASED, blind_test)
