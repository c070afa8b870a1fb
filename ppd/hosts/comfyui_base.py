"""A checkpoint loaded by ComfyUI's own loaders where no server runs. Importing this module needs no ComfyUI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

PACK = Path(__file__).resolve().parents[2]
SUFFIXES = (".safetensors", ".sft")


@dataclass(frozen=True)
class Base:
    """ComfyUI's MODEL, CLIP and VAE; the VAE is None where no file has one."""

    model: Any
    clip: Any
    vae: Any


def find_comfyui(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """The folder of ComfyUI: COMFYUI_PATH, else the one that this pack lies in, else ~/comfy/ComfyUI; ValueError where
    it is missing."""
    if named := environment.get("COMFYUI_PATH"):
        folders = [Path(named).expanduser()]
    else:
        folders = [*PACK.parents, (home or Path.home()) / "comfy" / "ComfyUI"]
    for folder in folders:
        if (folder / "comfy" / "model_patcher.py").is_file():
            return folder.resolve()
    where = f"COMFYUI_PATH is {named}, which is none" if named else "it is not around this folder, nor ~/comfy/ComfyUI"
    raise ValueError(f"No ComfyUI was found ({where}): set COMFYUI_PATH to its folder.")


def use_comfyui(comfyui: Path) -> None:
    """Make `comfy` importable, once for the process: on the CPU where there is no GPU, with none of our arguments."""
    if "comfy.model_management" in sys.modules:
        return
    if find_spec("comfy") is None:
        sys.path.insert(0, str(comfyui))
    try:
        import comfy.cli_args

        # It reads the command line only in its server
        comfy.cli_args.args.cpu |= not torch.accelerator.is_available()
        import comfy.model_management  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"ComfyUI in {comfyui} does not start in this Python ({error}): use the one that runs ComfyUI, or install "
            "its requirements.txt here."
        ) from error


def load_checkpoint(comfyui: Path, checkpoint: Path) -> Base:
    """A checkpoint with everything in it, as Load Checkpoint has it; ValueError where it is none."""
    use_comfyui(comfyui)
    import comfy.sd

    with _told(checkpoint, "checkpoint"):
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    if clip is None:
        raise ValueError(
            f"{checkpoint.name} has no text encoder: name it as the diffusion model, and its text encoders' files."
        )
    return Base(model, clip, vae if vae.first_stage_model is not None else None)


def load_parts(
    comfyui: Path, diffusion_model: Path, text_encoders: Sequence[Path], text_type: str, vae: Path | None = None
) -> Base:
    """A diffusion model and its other parts, as Load Diffusion Model, Load CLIP and Load VAE have them.

    text_type: what Load CLIP calls the kind of text encoder, such as "qwen_image", "lumina2" (Z-Image too), or "flux".
    ValueError where a file is none of the kind.
    """
    use_comfyui(comfyui)
    import comfy.sd
    import comfy.utils

    kinds = {kind.name.lower(): kind for kind in comfy.sd.CLIPType}
    if text_type not in kinds:
        raise ValueError(f"There is no kind of text encoder {text_type!r}: use one of {', '.join(sorted(kinds))}.")
    if not text_encoders:
        raise ValueError(f"{diffusion_model.name} needs a text encoder: name its file.")
    with _told(diffusion_model, "diffusion model"):
        model = comfy.sd.load_diffusion_model(str(diffusion_model))
    for path in text_encoders:
        _check_file(path, "text encoder")
    names = [str(path) for path in text_encoders]
    with _told(text_encoders[0], "text encoder"):
        clip = comfy.sd.load_clip(names, clip_type=kinds[text_type])
    autoencoder = None
    if vae is not None:
        with _told(vae, "VAE"):
            weights, metadata = comfy.utils.load_torch_file(str(vae), return_metadata=True)
            autoencoder = comfy.sd.VAE(sd=weights, metadata=metadata)
            autoencoder.throw_exception_if_invalid()
    return Base(model, clip, autoencoder)


def _check_file(path: Path, kind: str) -> None:
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no {kind}: name a file with the ending {' or '.join(SUFFIXES)}.")


@contextmanager
def _told(path: Path, kind: str) -> Iterator[None]:
    """Say in one sentence what ComfyUI's loaders say in their own ways."""
    _check_file(path, kind)
    try:
        yield
    except Exception as error:
        first = str(error).strip().splitlines()
        raise ValueError(
            f"ComfyUI could not load {path.name} as a {kind} ({first[0] if first else type(error).__name__}): name "
            "another file, or update ComfyUI."
        ) from error
