"""Where a low-rank branch acts: Linear layers of a denoiser, by the table of its family or by how blocks are named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import nn

from .transformers import BY_DENOISER, TRANSFORMERS, Layers

_AROUND_ATTENTION = re.compile(r"attn|attention|modulation|adaln|(^|[._])mod([._]|$)", re.IGNORECASE)
_LEFT_OUT = re.compile(r"expert|mlp|feed_?forward|(^|[._])ff([._]|$)|norm", re.IGNORECASE)
_NOT_MAIN = re.compile(r"refiner|fusion|token|text|vision|embed|adapter|control", re.IGNORECASE)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a Linear layer; quantised ones of ComfyUI and of GGUF packs are no nn.Linear."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def family_of_denoiser(denoiser: nn.Module) -> str:
    """The name of its row in TRANSFORMERS, else that of its class, which such an adapter serves alone."""
    name = type(denoiser).__name__
    return BY_DENOISER.get(name, name)


def transformer_layers(denoiser: nn.Module) -> dict[str, int]:
    """Names of the Linear layers that a branch adds to, in the family's order, each with the number of its block."""
    row = TRANSFORMERS.get(family_of_denoiser(denoiser))
    modules = {name: module for name, module in denoiser.named_modules() if is_linear(module)}
    if row is None:
        found = _around_attention(denoiser, modules)
    else:
        found = {layer: 0 for layer in row.shared if layer in modules} | _of_blocks(denoiser, row.blocks, modules)
    if not found:
        raise ValueError(
            f"The denoiser is a {type(denoiser).__name__}, in which no Linear layer around attention was found: "
            "use words instead (Apply Taste to Conditioning)."
        )
    return found


def _of_blocks(denoiser: nn.Module, blocks: Mapping[str, Layers], modules: dict[str, nn.Module]) -> dict[str, int]:
    names = [f"{name}.{i}" for name in blocks for i in range(len(denoiser.get_submodule(name)))]  # type: ignore[arg-type]
    return {
        f"{block}.{layer}": number
        for number, block in enumerate(names)
        for layer in blocks[block.rpartition(".")[0]]
        if f"{block}.{layer}" in modules
    }


def _around_attention(denoiser: nn.Module, modules: dict[str, nn.Module]) -> dict[str, int]:
    """For a class without a row: what is named after attention or modulation, in the long lists of blocks."""
    lists = dict(_outermost_lists(denoiser))
    longest = max((len(blocks) for blocks in lists.values()), default=0)
    found: dict[str, int] = {}
    number = 0
    for name, blocks in lists.items():
        if 4 * len(blocks) < longest:
            continue
        for i in range(len(blocks)):
            inside = f"{name}.{i}."
            for layer in modules:
                rest = layer.removeprefix(inside)
                if rest != layer and _AROUND_ATTENTION.search(rest) and not _LEFT_OUT.search(rest):
                    found[layer] = number
            number += 1
    return found


def _outermost_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        if _NOT_MAIN.search(name):
            continue
        if isinstance(child, nn.ModuleList):
            yield prefix + name, child
        else:
            yield from _outermost_lists(child, f"{prefix}{name}.")
