"""What people copy into a report of a fault: versions, what is loaded, where the last run failed. It holds no name, no
prompt and no path, so that it can be shown to everybody: of an error its kind and place in the code, not its words."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import PureWindowsPath
from typing import Any

import comfy.model_management
import comfyui_version
import torch
from aiohttp import web
from server import PromptServer

from .. import ppd
from .answers import answer

PACKAGES = ("comfyui-frontend-package", "open_clip_torch", "transformers", "accelerate", "safetensors")
PLACE = re.compile(r'File "(.+?)", line (\d+), in ([\w<>]+)')
MOST_PLACES = 8
"""Of a traceback, from its end."""


def register(routes: web.RouteTableDef) -> None:
    """Add this route to ComfyUI's."""
    routes.get("/ppd/report")(report)


async def report(request: web.Request) -> web.Response:
    """The report as text."""
    return await answer(lambda: {"report": "\n".join(lines(PromptServer.instance.prompt_queue.get_history()))})


def lines(history: Mapping[str, Any]) -> list[str]:
    """The report, of ComfyUI's history of runs, the newest last."""
    device = comfy.model_management.get_torch_device()
    loaded = {type(getattr(one.model.model, "diffusion_model", one.model.model)).__name__ for one in _in_memory()}
    return [
        f"Personalized diffusion {ppd.__version__}, ComfyUI {comfyui_version.__version__}",
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}",
        comfy.model_management.get_torch_device_name(device),
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        f"Models in memory: {', '.join(sorted(loaded)) or 'none'}",
        *_last_error(history),
    ]


def _in_memory() -> list[Any]:
    return [one for one in comfy.model_management.current_loaded_models if one.model is not None]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _last_error(history: Mapping[str, Any]) -> list[str]:
    for run in reversed(list(history.values())):
        for kind, told in (run.get("status") or {}).get("messages", []):
            if kind == "execution_error":
                places = PLACE.findall("".join(told["traceback"]))[-MOST_PLACES:]
                head = f"Last error: {told['exception_type']} in {told['node_type']}"
                return [head, *(f"  {PureWindowsPath(path).name}:{line} {function}" for path, line, function in places)]
    return ["No run has failed since ComfyUI was started."]
