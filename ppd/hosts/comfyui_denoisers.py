"""The denoisers that ComfyUI's host runs: told apart by their classes, and at which layers a user branch acts."""

from __future__ import annotations

from typing import Any, TypeAlias

import comfy.model_base
import comfy.supported_models
import torch
from comfy.ldm.cascade.common import AttnBlock, OptimizedAttention
from comfy.ldm.cascade.stage_c import StageC
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..adapters import AdapterConfig, CrossAttentionConfig, LowRankConfig, Site
from ..families import FAMILIES, title_of
from ..families.sites import family_of_denoiser, transformer_layers

MODELS: dict[str, tuple[type, type, type]] = {
    "sd15": (comfy.supported_models.SD15, comfy.model_base.BaseModel, UNetModel),
    "sd2": (comfy.supported_models.SD20, comfy.model_base.BaseModel, UNetModel),
    "sdxl": (comfy.supported_models.SDXL, comfy.model_base.SDXL, UNetModel),
    "stable_cascade": (comfy.supported_models.Stable_Cascade_C, comfy.model_base.StableCascade_C, StageC),
}
"""Family to ComfyUI's classes of configuration, model and denoiser, exactly: their subclasses are other models.
A model that comes with the pack adds itself."""

Place = tuple[str, int, int]
"""Of an attention layer in a UNet: "input", "output" or "middle", the block's id, the transformer's index in there, as
ComfyUI tells its patches; in Stage C: "down" or "up", the level, the block's index in there."""
Attention: TypeAlias = CrossAttention | OptimizedAttention


def cross_attentions(denoiser: UNetModel | StageC) -> dict[Place, Attention]:
    """The denoiser's cross-attention layers in adapters' order: down blocks, up blocks, middle block."""
    return _of_stage_c(denoiser) if isinstance(denoiser, StageC) else _of_unet(denoiser)


def _of_unet(denoiser: UNetModel) -> dict[Place, Attention]:
    return {place: block.attn2 for place, block in _transformers(denoiser).items()}


def _transformers(denoiser: UNetModel) -> dict[Place, BasicTransformerBlock]:
    found: dict[Place, BasicTransformerBlock] = {}
    sides = (("input", denoiser.input_blocks), ("output", denoiser.output_blocks), ("middle", [denoiser.middle_block]))
    for side, blocks in sides:
        for number, block in enumerate(blocks):
            transformers = [] if block is None else [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
            found |= {(side, number, index): transformer for index, transformer in enumerate(transformers)}
    return found


def _of_stage_c(denoiser: StageC) -> dict[Place, Attention]:
    return {
        (side, level, index): block.attention.attn
        for side, levels in (("down", denoiser.down_blocks), ("up", denoiser.up_blocks))
        for level, blocks in enumerate(levels)
        for index, block in enumerate(blocks)
        if isinstance(block, AttnBlock)
    }


def output_layer(attention: Attention) -> nn.Module:
    """The layer behind the heads."""
    return attention.to_out if isinstance(attention, CrossAttention) else attention.out_proj


def family_of(model: ModelPatcher) -> str | None:
    """The family of a MODEL by its classes, or None for those that no adapter of this version serves."""
    return next((family for family, classes in MODELS.items() if classes == _classes(model)), None)


def widths_of(model: ModelPatcher) -> tuple[int, ...]:
    """Widths of the queries of a MODEL's cross-attention layers, in adapters' order."""
    return tuple(layer.to_q.out_features for layer in cross_attentions(model.model.diffusion_model).values())


def linear_sites(denoiser: nn.Module) -> dict[Site, nn.Module]:
    """The Linear layers that a low-rank branch adds to, in the order of its family."""
    if isinstance(denoiser, (UNetModel, StageC)):
        names = {module: name for name, module in denoiser.named_modules()}
        blocks = _around_cross_attention(denoiser)
        layers = {names[layer]: number for number, block in enumerate(blocks) for layer in block}
    else:
        layers = transformer_layers(denoiser)
    modules = {name: denoiser.get_submodule(name) for name in layers}
    return {
        Site(name, layers[name], module.in_features, module.out_features): module  # type: ignore[arg-type]
        for name, module in modules.items()
    }


def low_rank_family(model: ModelPatcher) -> str:
    """The family of a MODEL as low-rank adapters name it: any has one."""
    return family_of(model) or family_of_denoiser(model.model.diffusion_model)


def _around_cross_attention(denoiser: UNetModel | StageC) -> list[list[nn.Module]]:
    """For each cross-attention layer, in adapters' order, the Linear layers of its block's attention."""
    if isinstance(denoiser, StageC):
        return [[layer.to_q, layer.to_k, layer.to_v, layer.out_proj] for layer in _of_stage_c(denoiser).values()]
    transformers = _transformers(denoiser).values()
    return [
        [
            linear
            for layer in (block.attn1, block.attn2)
            for linear in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0])
        ]
        for block in transformers
    ]


def quantisation_of(model: ModelPatcher) -> str | None:
    """What the layers that a low-rank branch adds to are held in, where that is fewer bits than half precision has."""
    for layer in linear_sites(model.model.diffusion_model).values():
        if found := getattr(layer, "quant_format", None):  # ComfyUI's weights pass for those that they stand for
            return str(found)
        weight: Any = layer.weight
        if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            ggml = getattr(weight, "tensor_type", None)
            return str(weight.dtype).removeprefix("torch.") if ggml is None else f"GGUF {ggml.name}"
    return None


def check_model(model: ModelPatcher, config: AdapterConfig) -> None:
    """Refuse, in one sentence, a MODEL that an adapter was not made for: by its classes, then by its layers."""
    if isinstance(config, LowRankConfig):
        _check_sites(model, config)
    elif isinstance(config, CrossAttentionConfig):
        _check_cross_attention(model, config)


def _check_sites(model: ModelPatcher, config: LowRankConfig) -> None:
    family = low_rank_family(model)
    if family != config.family:
        title = title_of(family)
        raise ValueError(
            f"The MODEL is {title}, but the user adapter is for {title_of(config.family)}: load a model of that "
            f"family, or an adapter for {title}."
        )
    config.check_sites(list(linear_sites(model.model.diffusion_model)))


def _check_cross_attention(model: ModelPatcher, config: CrossAttentionConfig) -> None:
    family = config.family
    if family not in MODELS:
        raise ValueError(
            f"The user adapter is for the family {family!r}, but this version runs {', '.join(MODELS)} only: "
            "update the node pack, or load another adapter."
        )
    if _classes(model) != MODELS[family]:
        kind, base, denoiser = (cls.__name__ for cls in _classes(model))
        served = [name for name, classes in MODELS.items() if classes[0] is _classes(model)[0]]
        own = [f"or an adapter for {FAMILIES[name].title}." for name in served]
        none = (
            f"or an adapter of the low-rank kind, which can be made for {kind} too. The nodes Apply Taste to "
            "Conditioning and Sort by Taste need none."
        )
        raise ValueError(
            f"The MODEL is {kind} ({base}, {denoiser}), but the user adapter is for {FAMILIES[family].title}: load a "
            f"model of that family, {own[0] if own else none}"
        )
    config.check_layers(widths_of(model))


def _classes(model: ModelPatcher) -> tuple[type, type, type]:
    base = model.model
    return type(base.model_config), type(base), type(base.diffusion_model)
