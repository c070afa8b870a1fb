"""What must be right before ComfyUI loads the pack's nodes, each told in one sentence where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

OLDEST = "0.30"
"""ComfyUI's first version with all that the nodes use; pyproject.toml says so too."""
A_NODE = "PreferencePairLoader"


def refuse_old_comfyui() -> None:
    """Raise ImportError where ComfyUI is older than OLDEST, of which its folder for data sets tells."""
    import folder_paths

    if "datasets" in folder_paths.folder_names_and_paths:
        return
    version = getattr(sys.modules.get("comfyui_version"), "__version__", "older")
    raise ImportError(f"Personalized diffusion needs ComfyUI {OLDEST} or newer, this one is {version}: update ComfyUI.")


def refuse_second_copy(folder: Path) -> None:
    """Raise ImportError where ComfyUI has loaded this pack from another folder: both would answer for one store."""
    known = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(A_NODE)
    if known is None:
        return
    other = Path(str(sys.modules[known.__module__].__file__)).parents[1]
    if other.resolve() != folder.resolve():
        raise ImportError(
            f"Personalized diffusion is installed twice: {other} is used, {folder} is not. Delete one of them "
            "and start ComfyUI again."
        )
