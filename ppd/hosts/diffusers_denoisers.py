"""The denoisers that diffusers' host runs: at which layers a user branch acts, and how they count noise.

Sites have the names of ComfyUI's classes, in the order of its host: an adapter that is trained here paints there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias, cast

from diffusers import StableCascadeUNet, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_stable_cascade import SDCascadeAttnBlock
from torch import nn

from ..adapters import AdapterConfig, LowRankConfig, Site
from ..families.transformers import TRANSFORMERS, Transformer

UNet: TypeAlias = UNet2DConditionModel | StableCascadeUNet
Schedule = Callable[[float], float]
"""Percent of the noise schedule as ComfyUI counts, 0 (noise) to 1, to the timestep that a denoiser is called with."""
Named = tuple[str, int, tuple[nn.Module, ...]]
"""A site's name, the number of its block, and its layers here."""


def discrete_timestep(percent: float) -> float:
    """The timestep, 999 to 0, of denoisers that are trained on a thousand levels of noise."""
    return (1 - percent) * 999


def stage_c_ratio(percent: float) -> float:
    """The timestep ratio, 1 to 0, that Stage C is told.

    ComfyUI goes evenly through a cosine schedule whose log SNR is lowered by 2 log 2; the ratio is the plain one's.
    """
    offset, quarter = 0.008, math.pi / 2
    signal = (
        math.cos((1 - percent + offset) / (1 + offset) * quarter) / math.cos(offset / (1 + offset) * quarter)
    ) ** 2
    shifted = signal / (signal + 4 * (1 - signal))
    return math.acos(shifted**0.5 * math.cos(offset / (1 + offset) * quarter)) / quarter * (1 + offset) - offset


def flow_sigma(percent: float, shift: float) -> float:
    """The sigma, 1 to 0, that flow models are told, on a schedule with `shift` (arXiv 2403.03206, equation 23).

    Where a model's shift is given as mu, it is e^mu.
    """
    return shift * (1 - percent) / (1 + (shift - 1) * (1 - percent))


def rising_flow(percent: float, shift: float) -> float:
    """What flow models are told that count from noise, 0, to picture, 1."""
    return 1 - flow_sigma(percent, shift)


SCHEDULES: dict[str, Schedule] = {
    "UNet2DConditionModel": discrete_timestep,
    "StableCascadeUNet": stage_c_ratio,
    "FluxTransformer2DModel": partial(flow_sigma, shift=math.exp(1.15)),
    "QwenImageTransformer2DModel": partial(flow_sigma, shift=math.exp(1.15)),
    "ZImageTransformer2DModel": partial(rising_flow, shift=3.0),
}
"""The classes that are run, with the schedules that ComfyUI gives their families where no node changes them."""

_TWINS = {row.twin.denoiser: row for row in TRANSFORMERS.values() if row.twin}


def schedule_of(denoiser: nn.Module) -> Schedule:
    """The schedule of a denoiser's class."""
    name = class_of(denoiser)
    if name == "FluxTransformer2DModel" and not denoiser.config.guidance_embeds:  # type: ignore[union-attr]
        return partial(flow_sigma, shift=1.0)  # schnell
    return SCHEDULES[name]


def cross_attentions(unet: UNet) -> list[Attention]:
    """The cross-attention modules of a U-Net in its own order: down blocks, up blocks, mid block."""
    return [cast(Attention, unet.get_submodule(name)) for name in _cross_attention_names(unet)]


def linear_sites(denoiser: nn.Module) -> dict[Site, tuple[nn.Module, ...]]:
    """Where a low-rank branch acts, as ComfyUI has it, and the layers here whose outputs, one after the other, are the
    site's; `tuple` of it is what LowRankConfig wants as `sites`."""
    twin = _TWINS.get(class_of(denoiser))
    found = _of_transformer(denoiser, twin) if twin else _of_unet(denoiser)
    return {
        Site(name, number, layers[0].in_features, sum(layer.out_features for layer in layers)): layers  # type: ignore[arg-type,misc]
        for name, number, layers in found
    }


def check_denoiser(denoiser: nn.Module, config: AdapterConfig) -> None:
    """Refuse, in one sentence, a denoiser that an adapter was not made for."""
    name = class_of(denoiser)
    if isinstance(config, LowRankConfig):
        config.check_sites(list(linear_sites(denoiser)))
    elif isinstance(denoiser, UNet):
        config.check_layers([attention.inner_dim for attention in cross_attentions(denoiser)])  # type: ignore[attr-defined]
    else:
        raise ValueError(
            f"The user adapter acts in cross-attention layers, and the denoiser is a {name}, which has none: load a "
            "U-Net, or a low-rank adapter."
        )


def class_of(denoiser: nn.Module) -> str:
    """The name of the class in SCHEDULES that a denoiser is of."""
    for base in type(denoiser).__mro__:
        if base.__name__ in SCHEDULES:
            return base.__name__
    raise ValueError(
        f"The denoiser is a {type(denoiser).__name__}, but this host runs diffusers' {', '.join(SCHEDULES)}: load one "
        "of those, or use another host."
    )


def _cross_attention_names(unet: UNet) -> list[str]:
    if isinstance(unet, StableCascadeUNet):
        return [f"{name}.attention" for name, block in unet.named_modules() if isinstance(block, SDCascadeAttnBlock)]
    names = (name.removesuffix(".processor") for name in unet.attn_processors)
    return [name for name in names if name.endswith("attn2")]


def _of_transformer(denoiser: nn.Module, family: Transformer) -> Iterator[Named]:
    twin, modules = family.twin, dict(denoiser.named_modules())
    assert twin is not None
    number = 0
    for blocks, layers in family.blocks.items():
        ours = twin.lists.get(blocks, blocks)
        for index in range(len(modules[ours])):
            for layer in layers:
                parts = [modules.get(f"{ours}.{index}.{part}") for part in twin.layers.get(layer, (layer,))]
                here = tuple(part for part in parts if part is not None)
                if here:
                    yield f"{blocks}.{index}.{layer}", number, here
            number += 1


def _of_unet(unet: UNet) -> Iterator[Named]:
    """Around each cross-attention layer, the Linear layers of its block's attention."""
    names = _cross_attention_names(unet)
    if isinstance(unet, StableCascadeUNet):
        ends = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "out_proj"}
        for number, name in enumerate(names):
            for ours, theirs in ends.items():
                yield f"{name}.attn.{theirs}", number, (unet.get_submodule(f"{name}.{ours}"),)
        return
    places = _unet_places(unet)
    for number, name in enumerate(names):
        transformer, _, block = name.removesuffix(".attn2").partition(".transformer_blocks.")
        for layer in (f"{kind}.{end}" for kind in ("attn1", "attn2") for end in ("to_q", "to_k", "to_v", "to_out.0")):
            inside = f"transformer_blocks.{block}.{layer}"
            yield f"{places[transformer]}.{inside}", number, (unet.get_submodule(f"{transformer}.{inside}"),)


def _unet_places(unet: UNet2DConditionModel) -> dict[str, str]:
    """ComfyUI's names of a U-Net's transformers: it counts blocks through all levels, downsamplers among them."""
    found = {"mid_block.attentions.0": "middle_block.1"}
    number = 1  # 0 is the convolution that latents go into
    for level, block in enumerate(unet.down_blocks):
        for index in range(len(block.resnets)):
            found[f"down_blocks.{level}.attentions.{index}"] = f"input_blocks.{number + index}.1"
        number += len(block.resnets) + (block.downsamplers is not None)
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for index in range(len(block.resnets)):
            found[f"up_blocks.{level}.attentions.{index}"] = f"output_blocks.{number + index}.1"
        number += len(block.resnets)
    return found
