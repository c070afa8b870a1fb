"""A pocket base's file: denoiser, text encoder and autoencoder of an embedded world in one safetensors file.

Tensors are named as in diffusers (`unet.` or `transformer.`), in autoencoder.py (`vae.`) and in transformers before 5
(`text_encoder.text_model.`). Of the token embedding only the rows of `vocabulary` are stored, since the rest of CLIP's
49,408 tokens never occur in the pocket world's captions. Both hosts read it here, so nothing is imported but torch and
safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import FLOATS, read_tensors, write_tensors
from ..limits import WIDEST, line, number, parsed, whole
from ..messages import quoted

FORMAT = "ppd-pocket-base"
VERSION = "2"
DENOISERS = ("unet", "transformer")
"""Kinds of denoiser by what diffusers calls them: UNet2DConditionModel, QwenImageTransformer2DModel."""
METADATA = (
    "text_config",
    "vae_config",
    "scheduler_config",
    "latent_scale",
    "latent_rgb_factors",
    "latent_rgb_bias",
)
MOST_NUMBERS = 1 << 26
"""Eight times as many as the shipped one has."""
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
START, END = 49406, 49407
"""CLIP's tokens around every prompt; END is the padding too, as in Stable Diffusion 1."""
_TOKENS = 49408
_LONGEST_LIST = 16
_WHOLE = {
    "vocab_size": (_TOKENS, _TOKENS),
    "layers_per_block": (1, 8),
    "num_hidden_layers": (1, 48),
    "num_layers": (1, 64),
    "latent_channels": (4, 4),
    "num_train_timesteps": (10, 10_000),
}
_NUMBERS = {"latent_scale": (1e-3, 1e3), "beta_start": (1e-6, 0.999), "beta_end": (1e-6, 0.999), "shift": (0.1, 100.0)}
"""Bounds of what a configuration says; other whole numbers are sizes, and other numbers at most a thousand."""


@dataclass(frozen=True, eq=False)
class PocketBase:
    """A pocket base as its file holds it: state dicts in the file's dtype, the token embedding expanded with zeros.

    `text_encoder` has the prefix `text_model.`; `vocabulary` [n] are the token ids that have an embedding. `part` is
    the denoiser's kind, one of DENOISERS. `metadata`: `unet_config` or `transformer_config`, `text_config` and
    `vae_config` are keyword arguments of the denoiser, CLIPTextConfig and PocketAutoencoder, `scheduler_config` of a
    diffusers scheduler; the denoiser sees latents times `latent_scale`;
    `latent_rgb_factors` [4][3] and `latent_rgb_bias` [3] turn what it sees into preview colours from -1 to 1.
    """

    part: str
    denoiser: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    vae: dict[str, Tensor]
    vocabulary: Tensor
    metadata: dict[str, Any]


def write_base(
    path: Path | str,
    denoiser: Mapping[str, Tensor],
    text_encoder: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
    vocabulary: Tensor,
    metadata: Mapping[str, Any],
    *,
    part: str = "unet",
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a pocket base in one step, its floating-point weights in `dtype`.

    `denoiser` (of the kind `part`), `text_encoder` and `vae` are state dicts (text with or without the prefix
    `text_model.`), `vocabulary` [n] the token ids to keep, START and END among them, `metadata` what `PocketBase` names
    and anything else JSON carries.
    """
    missing = [name for name in (f"{part}_config", *METADATA) if name not in metadata]
    if missing:
        raise ValueError(f"The metadata of a pocket base lacks {', '.join(missing)}: add them.")
    ids = torch.unique(vocabulary.cpu())
    if not {START, END} <= set(ids.tolist()):
        raise ValueError(f"The vocabulary lacks CLIP's start {START} or end {END}, which every prompt has: add them.")
    text = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text_encoder.items()}
    text[TOKEN_EMBEDDING] = text[TOKEN_EMBEDDING].cpu()[ids]
    tensors = {"vocabulary": ids}
    for prefix, state in ((part, denoiser), ("text_encoder", text), ("vae", vae)):
        for name, tensor in state.items():
            tensors[f"{prefix}.{name}"] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    write_tensors(Path(path), FORMAT, VERSION, tensors, {name: json.dumps(value) for name, value in metadata.items()})


def read_base(path: Path | str) -> PocketBase:
    """Read a pocket base; a file that is none, or is incomplete, raises ValueError saying so."""
    path = Path(path)
    tensors, texts = read_tensors(
        path, FORMAT, VERSION, ("vocabulary",), METADATA, "pocket base", dtypes=FLOATS | {"I64"}, most=MOST_NUMBERS
    )
    try:
        metadata = {
            name: _checked(name, parsed(name, text))
            for name, text in texts.items()
            if name not in ("format", "version")
        }
        _check_kinds(metadata)
    except ValueError as error:
        raise ValueError(f"{path.name} has damaged metadata ({error}): download it or train it again.") from error
    parts = (_kind(metadata), "text_encoder", "vae")
    denoiser, text, vae = (
        {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
        for part in parts
    )
    if not denoiser or not vae or TOKEN_EMBEDDING not in text:
        raise ValueError(f"{path.name} is an incomplete pocket base: expected tensors of {', '.join(parts)} in it.")
    rows, vocabulary, size = text[TOKEN_EMBEDDING], tensors["vocabulary"], _TOKENS
    if (
        rows.ndim != 2
        or vocabulary.shape != rows.shape[:1]
        or vocabulary.dtype != torch.int64
        or not bool(((vocabulary >= 0) & (vocabulary < size)).all())
    ):
        raise ValueError(
            f"{path.name} has token embeddings {list(rows.shape)} for tokens {list(vocabulary.shape)} of {size}: "
            "download it or train it again."
        )
    text[TOKEN_EMBEDDING] = rows.new_zeros(size, rows.shape[1]).index_copy(0, vocabulary, rows)
    return PocketBase(parts[0], denoiser, text, vae, vocabulary, metadata)


def _kind(metadata: dict[str, Any]) -> str:
    """The denoiser's kind, which the metadata has a configuration of."""
    found = [kind for kind in DENOISERS if f"{kind}_config" in metadata]
    if len(found) != 1:
        raise ValueError(f"Expected one of {', '.join(f'{kind}_config' for kind in DENOISERS)}, got {len(found)}.")
    return found[0]


def _checked(name: str, value: Any) -> Any:
    """What a configuration says under a name, if it is within bounds."""
    match value:
        case dict():
            for key, one in value.items():
                _checked(line("name", key), one)
        case list() if len(value) <= _LONGEST_LIST:
            for one in value:
                _checked(name, one)
        case str():
            line(name, value)
        case bool() | None:
            pass
        case int() if name not in _NUMBERS:
            whole(name, value, *_WHOLE.get(name, (0, WIDEST)))
        case int() | float():
            number(name, value, *_NUMBERS.get(name, (-1e3, 1e3)))
        case _:
            raise ValueError(f"Expected a value or a short list as {name}, got {quoted(value)}.")
    return value


def _check_kinds(metadata: dict[str, Any]) -> None:
    """Raise ValueError where a value of the metadata is of another kind than `PocketBase` says."""
    for name in (f"{_kind(metadata)}_config", *METADATA):
        if name.endswith("_config") and not isinstance(metadata[name], dict):
            raise ValueError(f"Expected names and values as {name}, got {quoted(metadata[name])}.")
    number("latent_scale", metadata["latent_scale"], *_NUMBERS["latent_scale"])
    factors, bias = metadata["latent_rgb_factors"], metadata["latent_rgb_bias"]
    rows = [*factors, bias] if isinstance(factors, list) and len(factors) == 4 else []
    if not rows or not all(isinstance(row, list) and len(row) == 3 for row in rows):
        raise ValueError("Expected preview colours as latent_rgb_factors [4, 3] and latent_rgb_bias [3], got others.")
    for value in (one for row in rows for one in row):
        number("a preview colour", value, -1e3, 1e3)
