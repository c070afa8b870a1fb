"""Towers: frozen networks that turn a picture into features, and the one place that opens them by reference.

A reference is what a taste encoder remembers of its tower (contract 3): `kind`, what that kind needs to be found again,
and `hash`, the tower's weight_hash. It names files as ComfyUI's model folders list them and never holds a path:

    {"kind": "folder"}                                           tower.safetensors in the taste encoder's own folder
    {"kind": "folder", "of": "pocket"}                           or in the folder of that name beside it
    {"kind": "open_clip", "model": "ViT-B-32", "file": "b32.safetensors"}          or "pretrained": a tag, or
    {"kind": "open_clip", "directory": "my-clip"}                a folder with open_clip_config.json; SigLIP's so
    {"kind": "transformers", "directory": "Qwen2.5-VL-7B-Instruct", "layer": 14}   optional: instruction, pixels
    {"kind": "clip_vision", "file": ...}, {"kind": "text_encoder", "file": ..., "type": ...}     hosts/comfyui_towers.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ...limits import line
from ...pictures import PreferenceError

if TYPE_CHECKING:
    from ..features import Tower

KINDS = ("folder", "open_clip", "transformers", "clip_vision", "text_encoder")
TOWER_FILE = "tower.safetensors"
"""A tower inside a taste encoder's folder, in the format of towers/open_clip.py."""

HOW = ("pooling", "normalize", "layer", "instruction", "pixels")
"""What a tower may say of how it reads pictures."""

Find = Callable[[str, str], Path]
"""A model folder ("open_clip", "vlm") and a name in it, to the file or folder; ValueError where there is none."""


def open_tower(
    reference: Mapping[str, Any],
    folder: Path | None = None,
    *,
    find: Find | None = None,
    device: str | torch.device = "cpu",
    download: bool = False,
) -> Tower:
    """The tower of a reference, of the kinds that need no ComfyUI; ValueError unless it is the one that was meant.

    `folder` is the taste encoder's, `find` looks names up (left out, they are paths). A tag's weights that are not on
    this computer are fetched only with `download`.
    """
    look_up = find or (lambda _kind, name: Path(name))
    kind = reference.get("kind")
    if kind == "folder":
        tower = _in_folder(folder, reference.get("of"), device)
    elif kind == "open_clip":
        tower = _by_open_clip(reference, look_up, device, download)
    elif kind == "transformers":
        from .vlm import LocalVLM, TransformersVLMTower

        vlm = LocalVLM.from_folder(look_up("vlm", needed(reference, "directory")), device=device)
        tower = TransformersVLMTower(vlm, **reading(reference))
    elif kind in KINDS:
        raise ValueError(f"A tower of kind {kind} is one of ComfyUI's, and works in there alone: use it in a workflow.")
    else:
        raise ValueError(f"Expected a tower of kind {', '.join(KINDS)}, got {kind!r}: update this software.")
    return same_tower(tower, reference)


def same_tower(tower: Tower, reference: Mapping[str, Any]) -> Tower:
    """The tower, if it is the one that the reference was written for; a reference without a hash takes any."""
    expected = reference.get("hash")
    if expected is not None and expected != tower.weight_hash:
        raise ValueError(
            f"The tower {tower.name} is another than the taste encoder was made with: expected {str(expected)[:12]}, "
            f"got {tower.weight_hash[:12]}; put the model it was made with in its place, or make the taste encoder "
            "again with this one."
        )
    return tower


def complete(reference: Mapping[str, Any], tower: Any) -> dict[str, Any]:
    """The reference as a taste encoder keeps it: with the tower's name and hash and how it was read, defaults too."""
    inner = getattr(tower, "tower", tower)  # inside ComfyUI's memory management
    how = {name: getattr(inner, name) for name in HOW if hasattr(inner, name)}
    return {**reference, **how, "name": tower.name, "hash": tower.weight_hash}


class RememberedTower:
    """A tower that is not there: what it saw before is found in the cache, and new pictures are refused one by one.

    For a thread beside ComfyUI's queue, where a model of gigabytes must not be loaded.
    """

    batch = 1

    def __init__(self, name: str, weight_hash: str, dim: int) -> None:
        self.name, self.weight_hash, self.dim = name, weight_hash, dim

    def prepare(self, picture: Image.Image) -> Tensor:
        """Raises PreferenceError: there is nothing here to look with."""
        raise PreferenceError(
            f"a picture that {self.name} never looked at, and it works in ComfyUI's queue only: run a workflow with "
            "Encode User Embedding once"
        )

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features of no pictures [0, f]: none can be prepared."""
        return torch.empty(len(prepared), self.dim)


def needed(reference: Mapping[str, Any], name: str) -> str:
    """A text that the reference must have."""
    value = reference.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"A tower of kind {reference.get('kind')} is named by its {name}, got {value!r}: make the taste encoder "
            "again."
        )
    return value


def reading(reference: Mapping[str, Any]) -> dict[str, Any]:
    """How a vision-language model is to be read: layer, instruction and pixels, those that are given."""
    return {name: reference[name] for name in ("layer", "instruction", "pixels") if reference.get(name) is not None}


def _in_folder(folder: Path | None, of: Any, device: str | torch.device) -> Tower:
    from .open_clip import OpenClipTower

    if folder is None:
        raise ValueError("This tower lies in its taste encoder's folder: open it by that folder.")
    if of is not None:
        folder = folder.with_name(line("of", of))  # a name with a slash is a ValueError
    return OpenClipTower.from_file(folder / TOWER_FILE, device=device)


def _by_open_clip(reference: Mapping[str, Any], find: Find, device: str | torch.device, download: bool) -> Tower:
    from .open_clip import OpenClipTower

    normalize = bool(reference.get("normalize", False))
    if reference.get("directory"):
        directory = find("open_clip", needed(reference, "directory"))
        return OpenClipTower.from_open_clip(f"local-dir:{directory}", normalize=normalize, device=device)
    model = needed(reference, "model")
    if reference.get("file"):
        weights = str(find("open_clip", needed(reference, "file")))
        return OpenClipTower.from_open_clip(model, weights, normalize=normalize, device=device)
    tag = needed(reference, "pretrained")
    with nullcontext() if download else _only_what_is_here(model, tag):
        return OpenClipTower.from_open_clip(model, tag, normalize=normalize, device=device)


@contextmanager
def _only_what_is_here(model: str, tag: str) -> Iterator[None]:
    """Nothing comes over the network meanwhile; ValueError unless the tag's weights were fetched before."""
    from huggingface_hub import constants, try_to_load_from_cache

    from .open_clip import import_open_clip

    repository = import_open_clip().get_pretrained_cfg(model, tag).get("hf_hub", "").rpartition("/")[0]
    if not repository or not isinstance(try_to_load_from_cache(repository, "open_clip_model.safetensors"), str):
        raise ValueError(
            f"The weights {tag} of {model} are not on this computer, and nothing is fetched unasked: allow the "
            "download, or put the .safetensors file into models/open_clip and name it."
        )
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
