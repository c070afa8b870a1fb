"""What the server tells open browsers by itself; nothing where there is no server, as in tests and tools."""

from __future__ import annotations

from typing import Any

from server import PromptServer

CHANGED = "ppd.taste"
ASKED = "ppd.question"


def announce(person: str) -> None:
    """To all browsers: a person's questions or picks are others now."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(CHANGED, {"person": person})


def ask_now(node: str, questions: list[dict[str, Any]]) -> None:
    """To the browser that runs the graph: what a node asks while it still runs, since outputs are shown at its end."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(ASKED, {"node": node, "questions": questions}, server.client_id)
