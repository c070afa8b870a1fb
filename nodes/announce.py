"""What the server tells open browsers by itself; nothing where there is no server, as in tests and tools."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..ppd.store import MissingError
from . import folders

CHANGED = "ppd.taste"
ASKED = "ppd.question"


def announce(person: str, request: str | None = None) -> None:
    """To all browsers: a person's questions, picks, ratings or settings are others now, by whose request, so that the
    sender can pass it over; `revision` grows with each change, and is null for who was erased."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        revision = None
        with suppress(MissingError):
            revision = folders.taste_store().revision(person)
        server.send_sync(CHANGED, {"person": person, "revision": revision, "request": request})


def ask_now(node: str, questions: list[dict[str, Any]]) -> None:
    """To the browser that runs the graph: what a node asks while it still runs, since outputs are shown at its end."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(ASKED, {"node": node, "questions": questions}, server.client_id)


def say(text: str) -> None:
    """To all browsers: a line on the node that is running."""
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id)
