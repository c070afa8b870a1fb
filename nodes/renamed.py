"""Nodes that had another id: graphs that were saved with it still open and run."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyAPI, io
from server import PromptServer

RENAMED = {"PreferenceCollector": "PPD_PreferenceCollector", "UserEmbeddingSample": "PPD_UserEmbeddingSample"}
"""New ids by old ones; inputs and outputs are the same."""


async def register(server: PromptServer) -> None:
    """Workflows: the frontend offers to replace the nodes, and keeps their links and values. Prompts in the API's
    format: renamed before they are checked, since a replacement there knows no input that may be left out."""
    for old, new in RENAMED.items():
        await ComfyAPI().node_replacement.register(io.NodeReplace(new_node_id=new, old_node_id=old))
    server.add_on_prompt_handler(rename)


def rename(request: dict[str, Any]) -> dict[str, Any]:
    """What is asked of ComfyUI to run, by the new ids."""
    for node in request.get("prompt", {}).values():
        if node.get("class_type") in RENAMED:
            node["class_type"] = RENAMED[node["class_type"]]
    return request
