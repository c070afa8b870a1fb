"""ComfyUI's denoisers in the forms that gradients flow through: its own switch, and what that leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.quant_ops
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy_kitchen.backends.eager import rope
from torch import Tensor, nn

FUSED = ("apply_rope_split_half", "rms_rope_split_half", "rms_rope")
"""Kernels without a backward that Anima, Cosmos, Ernie and JoyImage call in training too."""
IN_PLACE = (DoubleStreamBlock, SingleStreamBlock)
"""Blocks that add to their input in place, which a norm's backward needs as it was: Flux, Chroma, Hunyuan."""


@contextmanager
def differentiable(denoiser: nn.Module) -> Iterator[None]:
    """Within it ComfyUI's layers have gradients, also on quantised weights; forward and backward must run in it."""
    with ExitStack() as stack:
        stack.enter_context(_attribute(comfy.model_management, "in_training", True))
        for name in FUSED:
            stack.enter_context(_attribute(comfy.quant_ops.ck, name, getattr(rope, name)))
        for block in denoiser.modules():
            norms = block.children() if isinstance(block, IN_PLACE) else ()
            for norm in norms:
                if isinstance(norm, nn.LayerNorm):
                    stack.callback(norm.register_forward_pre_hook(_of_a_copy).remove)
        yield


def leave_inference_mode(model: nn.Module) -> None:
    """Copy the weights that ComfyUI loaded or patched as it painted, in inference mode: no gradient may pass those."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_inference():
                module._parameters[name] = nn.Parameter(weight.detach().clone(), False)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = buffer.detach().clone()


def _of_a_copy(norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    return (args[0].clone(), *args[1:]) if torch.is_grad_enabled() else None


@contextmanager
def _attribute(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)
