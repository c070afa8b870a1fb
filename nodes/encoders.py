"""The taste encoders that can be chosen: the shipped one, and folders of ComfyUI's models/taste_encoders."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
from torch import nn

from ..ppd.encoders.encoder import JSON_FILE, TENSOR_FILE, PosteriorEncoder, TasteEncoder
from ..ppd.encoders.towers import open_tower
from ..ppd.files import file_digest
from . import folders

FOLDER = "taste_encoders"

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def taste_encoders() -> list[str]:
    """Names of all taste encoders, the shipped ones first."""
    shipped = sorted(path.parent.name for path in (folders.WEIGHTS / FOLDER).glob(f"*/{JSON_FILE}"))
    roots = map(Path, folder_paths.get_folder_paths(FOLDER))
    own = {path.parent.name for root in roots for path in root.glob(f"*/{JSON_FILE}")}
    return [*shipped, *sorted(own - set(shipped))]


def encoder_folder(name: str) -> Path:
    """The folder of a taste encoder by the name that the list shows."""
    if name in taste_encoders():
        for root in (folders.WEIGHTS / FOLDER, *map(Path, folder_paths.get_folder_paths(FOLDER))):
            if (root / name / JSON_FILE).is_file():
                return root / name
    raise ValueError(
        f"There is no taste encoder {name!r}: choose one of the list ({', '.join(taste_encoders())}), or make it."
    )


def encoder_digest(name: str) -> str:
    """Changes when the taste encoder does."""
    folder = encoder_folder(name)
    return " ".join(file_digest(folder / file) for file in (JSON_FILE, TENSOR_FILE))


def read_encoder(name: str) -> PosteriorEncoder:
    """A taste encoder on the CPU, so that it waits for no model; features of pictures are kept on disk."""
    folder = encoder_folder(name)
    encoder = TasteEncoder.load(folder)
    return encoder.open(open_tower(encoder.tower, folder), folders.feature_cache())


def load_encoder(name: str) -> PosteriorEncoder:
    """The same with its tower on the device ComfyUI computes on."""
    encoder = read_encoder(name)
    visual = getattr(encoder.features.tower, "visual", None)
    if isinstance(visual, nn.Module):
        patcher = comfy.model_patcher.ModelPatcher(  # not the dynamic one: open_clip's layers are not ComfyUI's
            visual,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        comfy.model_management.load_model_gpu(patcher)
    return encoder
