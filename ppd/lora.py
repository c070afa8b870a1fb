"""Ordinary LoRA files (arXiv 2106.09685), for all that reads LoRAs, and a person's taste as one.

Keys are the names of the layers in ComfyUI's class of the denoiser, `diffusion_model.<name>.lora_A.weight` [K, in] and
`.lora_B.weight` [out, K], and y = W x + B A x without a further scale. A low-rank adapter is linear in u, so with the
person and the strength fixed it is a LoRA. A LoRA knows neither the part of the noise schedule nor the rows without a
prompt: `differences` says where that tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from .adapters import LowRankAdapter
from .branch import Adapter, Scope, reason_to_be_off
from .files import LARGEST, read_tensors, write_tensors
from .user_embedding import UserEmbedding

FORMAT = "ppd-lora"
VERSION = "1"
PREFIX = "diffusion_model."
"""Before a layer's name, as ComfyUI's stock loaders of LoRAs look for it."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precisions of LoRA files by their names."""

_ON_NEGATIVE = {
    "none": "It acts on negative prompts too, which the adapter leaves alone: above cfg 1 it is the weaker one.",
    "negative": "It acts on negative prompts as on others, and the adapter gives them the opposite taste: above "
    "cfg 1 it is the weaker one.",
}


def lora_of(adapter: Adapter, person: UserEmbedding, strength: float = 1.0, part: str = "default") -> dict[str, Tensor]:
    """Tensors by keys of the LoRA that does to the layers of `part` (families.PARTS) what the adapter does there.

    ValueError for another kind of adapter, another encoder's person, or where the LoRA would change nothing.
    """
    if not isinstance(adapter, LowRankAdapter):
        raise ValueError(
            f"Expected a low-rank user adapter, got one that acts in {adapter.config.places}, which no LoRA does: "
            "load a low-rank one."
        )
    adapter.config.check_embedding(person)
    scope = Scope(part)
    if off := reason_to_be_off(adapter, [person], strength, scope):
        raise ValueError(
            f"This LoRA would change nothing ({off}): choose somebody with picks, and a strength other than 0."
        )
    u = person.u[None].to(adapter.directions)
    found = adapter.lora(u, min(strength, adapter.max_strength), scope.places(adapter))
    return keyed(found)


def keyed(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A [K, in] and B [out, K] by names of layers, as a LoRA file's tensors by their keys."""
    down = {f"{PREFIX}{name}.lora_A.weight": a for name, (a, _) in parts.items()}
    return down | {f"{PREFIX}{name}.lora_B.weight": b for name, (_, b) in parts.items()}


def merge(denoiser: nn.Module, path: Path) -> None:
    """Add a LoRA file's B A to the weights of a denoiser whose layers have the names of ComfyUI's class."""
    tensors, _ = read_tensors(path, FORMAT, VERSION, (), (), "LoRA")
    layers = dict(denoiser.named_modules())
    for key, down in tensors.items():
        name, _, end = key.removeprefix(PREFIX).rpartition(".lora_A")
        if end == ".weight":
            weight = cast(Tensor, layers[name].weight)
            up = tensors[f"{PREFIX}{name}.lora_B.weight"]
            weight.data += (up.float() @ down.float()).to(weight)


def write_lora(path: Path, tensors: dict[str, Tensor], family: str, dtype: torch.dtype = torch.float16) -> None:
    """Write a LoRA's tensors as safetensors in one step; nothing in the file says whose it is."""
    largest = max(float(tensor.detach().abs().max()) for tensor in tensors.values())
    if not largest <= LARGEST:
        raise ValueError(f"The LoRA's numbers reach {largest:g}, expected at most {LARGEST:g}: lower the strength.")
    write_tensors(path, FORMAT, VERSION, {key: value.to(dtype) for key, value in tensors.items()}, {"family": family})


def differences(adapter: Adapter) -> list[str]:
    """Sentences on where the LoRA does something else than the adapter itself."""
    config = adapter.config
    start, end, rule = config.start_percent, config.end_percent, config.unconditional
    found = [_ON_NEGATIVE[rule]] if rule in _ON_NEGATIVE else []
    if (start, end) != (0, 1):
        found.insert(0, f"It acts in the whole noise schedule, the adapter from {start:.0%} to {end:.0%} of it.")
    return found


def quantised_sentence(precision: str) -> str:
    """What to do with a LoRA where the model's layers are held in few bits, called `precision`."""
    return (
        f"This model is quantised ({precision}): load the LoRA beside it, with Load LoRA (Bypass, Model Only), as GGUF "
        "loaders do by themselves. Merged into the model's layers, rounding would drown most of it."
    )
