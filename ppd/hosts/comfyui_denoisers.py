"""The denoisers that ComfyUI's host runs: told apart by their classes, and where their cross-attention layers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import comfy.model_base
import comfy.supported_models
from comfy.ldm.cascade.common import AttnBlock, OptimizedAttention
from comfy.ldm.cascade.stage_c import StageC
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..adapter import UserAdapter
from ..families import FAMILIES
from .comfyui_pocket import Pocket

MODELS = {
    "pocket": (Pocket, comfy.model_base.BaseModel, UNetModel),
    "sd15": (comfy.supported_models.SD15, comfy.model_base.BaseModel, UNetModel),
    "sd2": (comfy.supported_models.SD20, comfy.model_base.BaseModel, UNetModel),
    "sdxl": (comfy.supported_models.SDXL, comfy.model_base.SDXL, UNetModel),
    "stable_cascade": (comfy.supported_models.Stable_Cascade_C, comfy.model_base.StableCascade_C, StageC),
}
"""Family to ComfyUI's classes of configuration, model and denoiser, exactly: their subclasses are other models."""

Place = tuple[str, int, int]
"""Of an attention layer in a UNet: "input", "output" or "middle", the block's id, the transformer's index in there, as
ComfyUI tells its patches; in Stage C: "down" or "up", the level, the block's index in there."""
Attention: TypeAlias = CrossAttention | OptimizedAttention


def cross_attentions(denoiser: UNetModel | StageC) -> dict[Place, Attention]:
    """The denoiser's cross-attention layers in adapters' order: down blocks, up blocks, middle block."""
    return _of_stage_c(denoiser) if isinstance(denoiser, StageC) else _of_unet(denoiser)


def _of_unet(denoiser: UNetModel) -> dict[Place, Attention]:
    found: dict[Place, Attention] = {}
    sides = (("input", denoiser.input_blocks), ("output", denoiser.output_blocks), ("middle", [denoiser.middle_block]))
    for side, blocks in sides:
        for number, block in enumerate(blocks):
            transformers = [] if block is None else [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
            found |= {(side, number, index): transformer.attn2 for index, transformer in enumerate(transformers)}
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


def check_model(model: ModelPatcher, adapter: UserAdapter) -> None:
    """Refuse, in one sentence, a MODEL that `adapter` was not made for: by its classes, then by counting its layers."""
    family = adapter.config.family
    if family not in MODELS:
        raise ValueError(
            f"The user adapter is for the family {family!r}, but this version runs {', '.join(MODELS)} only: "
            "update the node pack, or load another adapter."
        )
    base = model.model
    classes = type(base.model_config), type(base), type(base.diffusion_model)
    if classes != MODELS[family]:
        config, kind, denoiser = (cls.__name__ for cls in classes)
        raise ValueError(
            f"The MODEL is {config} ({kind}, {denoiser}), but the user adapter is for {FAMILIES[family].title}: load a "
            "model of that family, or an adapter made for this one."
        )
    adapter.check_layers([layer.to_q.out_features for layer in cross_attentions(base.diffusion_model).values()])


def add_layer_patches(model: ModelPatcher, places: list[Place], key: str) -> None:
    """Give Stage C, which calls no patches, one around each of its attentions; UNets call those of a run's options."""
    if not isinstance(model.model.diffusion_model, StageC):
        return
    for place in places:
        side, level, index = place
        # Around `forward` and not the module, whose parameters LoRAs know by name
        path = f"diffusion_model.{side}_blocks.{level}.{index}.attention.forward"
        model.add_object_patch(path, PersonalForward(model.get_model_object(path), place, key))


@dataclass(frozen=True)
class PersonalForward:
    """Stage C's Attention2D.forward, or a patch of it, and what the call under `key` of the run's options adds."""

    forward: Callable[..., Tensor]
    place: Place
    key: str

    def __call__(
        self, x: Tensor, kv: Tensor, self_attn: bool = False, transformer_options: dict[str, Any] | None = None
    ) -> Tensor:
        """x and the result are [B, C, H, W]."""
        options = transformer_options or {}
        out = self.forward(x, kv, self_attn, transformer_options=options)
        call = options.get(self.key)
        if call is None:
            return out
        personal = call.add(self.place, _rows(x), _rows(out))
        return personal.transpose(1, 2).reshape(out.shape)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
