"""Towers: frozen picture features, each by the library that has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..features import Tower
from .open_clip import OpenClipTower

TOWER_FILE = "tower.safetensors"


def open_tower(reference: Mapping[str, Any], folder: Path, device: str | torch.device = "cpu") -> Tower:
    """The tower that a taste encoder in `folder` refers to; ValueError where its kind is not known."""
    if reference["kind"] == "folder":
        return OpenClipTower.from_file(folder / TOWER_FILE, device=device)
    raise ValueError(f"There are no towers of kind {reference['kind']!r}, which {folder.name!r} asks for: update.")
