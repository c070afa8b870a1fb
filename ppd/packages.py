"""Packages that only some things need: where one is missing, everything else goes on."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from .messages import reason_of


def needed_package(module: str, package: str, what: str) -> Any:
    """The module; ValueError that says `what` needs its package, and how to install it, where it does not load."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} needs the package {package}, which does not load here ({reason_of(error)}): run "
            f'"{sys.executable}" -m pip install {package}, then start ComfyUI again.'
        ) from error
