"""What samplers have to tell of a run, for the nodes that show its pictures: words that the model does not know, and a
personal MODEL that painted as the plain one does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..ppd.branch import Outcome


@dataclass
class _Run:
    notes: dict[str, None] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By the nodes that made a MODEL personal: all of its samplings together, such as a second pass for details."""
    told: set[tuple[str, str]] = field(default_factory=set)
    """Nodes and what they have shown."""


_newest: defaultdict[str, _Run] = defaultdict(_Run)
"""The newest run, by its prompt's id."""

_warned: set[str] = set()
"""Nodes that show of their last run that nothing in it was personal."""


def leave(notes: list[str]) -> None:
    """Add to the notes of the run that is being executed."""
    _run().notes.update(dict.fromkeys(notes))


def follow(node: str | None) -> Callable[[Outcome], None]:
    """For `apply_user`: where none of its samplings in a run were personal, that is shown at the node `node`, which has
    run before them; also where they are again. The text makes the node larger, so nothing is shown of other runs."""

    def told(outcome: Outcome) -> None:
        outcomes = _run().outcomes
        name = str(node)
        outcomes[name] = outcomes[name] + outcome if name in outcomes else outcome
        show(node, outcomes[name].told(), not outcomes[name].personal_calls)

    return told


def show(node: str | None, text: str, is_plain: bool) -> None:
    """Show at a node that what it made paints as the plain model does; also that it does so no more."""
    server = getattr(PromptServer, "instance", None)  # tools run nodes without one
    if node is not None and server is not None and (is_plain or node in _warned):
        server.send_progress_text(text, node)
        (_warned.add if is_plain else _warned.discard)(node)


def is_new(node: str | None, text: str) -> bool:
    """Whether a node has yet to show a text in this run: of a list, it runs once for each picture."""
    if node is None:  # tools run nodes without one
        return True
    told, shown = _run().told, (node, text)
    is_first = shown not in told
    told.add(shown)
    return is_first


def of_this_run() -> list[str]:
    """All notes so far of the run that is being executed, each once, and where nothing was personal."""
    run = _run()
    plain = (outcome.told() for outcome in run.outcomes.values() if not outcome.personal_calls)
    return list(dict.fromkeys((*run.notes, *plain)))


def _run() -> _Run:
    context = get_executing_context()
    run = "" if context is None else context.prompt_id
    if run not in _newest:
        _newest.clear()
    return _newest[run]
