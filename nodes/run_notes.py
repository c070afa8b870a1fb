"""What a sampler has to tell of a run, for the nodes that show its pictures: such as words the model does not know."""

from __future__ import annotations

from comfy_execution.utils import get_executing_context

_notes: dict[str, dict[str, None]] = {}
"""The notes of the newest run, by its prompt's id."""


def leave(notes: list[str]) -> None:
    """Add to the notes of the run that is being executed."""
    run = _run()
    if run not in _notes:
        _notes.clear()
    _notes.setdefault(run, {}).update(dict.fromkeys(notes))


def of_this_run() -> list[str]:
    """All notes so far of the run that is being executed, each once."""
    return list(_notes.get(_run(), ()))


def _run() -> str:
    context = get_executing_context()
    return "" if context is None else context.prompt_id
