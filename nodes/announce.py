"""What the server tells open browsers by itself; nothing where there is no server, as in tests and tools."""

from __future__ import annotations

from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

CHANGED = "ppd.taste"
ASKED = "ppd.question"


def announce(person: str, request: str | None = None) -> None:
    """To all browsers: a person's questions or picks are others now, and by which request of a browser, which has its
    answer and need not look again."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(CHANGED, {"person": person, "request": request})


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
