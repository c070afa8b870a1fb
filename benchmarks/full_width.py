"""Today's denoisers as MODELs of ComfyUI at full width with random weights, which cost what trained ones cost.

    model = full_width("qwen_image", 2, torch.bfloat16)

The numbers are those that ComfyUI finds in the published checkpoints. Only main blocks are built, those of Flux in
their own proportion, and no refiners, so that a ratio of times is that of the whole model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

FORMATS = {"int8": "int8_tensorwise", "fp8": "float8_e4m3fn"}
"""Names of formats in ComfyUI's files."""
MAIN_LAYER = 2**12
"""Weights of a layer above which files in 8 bits have it so."""


@dataclass(frozen=True)
class Denoiser:
    """A class of `comfy.supported_models`, what its detection finds, and what one block of each kind is called."""

    kind: str
    config: dict[str, Any]
    blocks: dict[str, int]
    tiny: dict[str, Any]
    """What is smaller where a test runs."""
    channels: int = 16
    frames: tuple[int, ...] = ()
    text: str = ""
    """Where the configuration has the width of a text token."""
    pooled: int = 0


DENOISERS = {
    "qwen_image": Denoiser(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "out_channels": 16,
            "joint_attention_dim": 3584,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "axes_dims_rope": (16, 56, 56),
        },
        {"num_layers": 1},
        {"num_attention_heads": 2, "joint_attention_dim": 64},
        frames=(1,),
        text="joint_attention_dim",
    ),
    "z_image": Denoiser(
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "qk_norm": True,
            "cap_feat_dim": 2560,
            "dim": 3840,
            "n_heads": 30,
            "n_kv_heads": 30,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8.0 / 3.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
            "n_refiner_layers": 0,
        },
        {"n_layers": 1},
        {"dim": 256, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64},
        text="cap_feat_dim",
    ),
    "flux": Denoiser(
        "Flux",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        },
        {"depth": 1, "depth_single_blocks": 2},
        {"hidden_size": 256, "num_heads": 2, "context_in_dim": 64},
        text="context_in_dim",
        pooled=768,
    ),
    "krea2": Denoiser(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 6144,
            "tdim": 256,
            "txtdim": 2560,
            "heads": 48,
            "kvheads": 12,
            "multiplier": 4,
            "txtlayers": 1,
            "txtheads": 20,
            "txtkvheads": 20,
        },
        {"layers": 1},
        {"features": 256, "heads": 2, "kvheads": 1, "txtdim": 64, "txtheads": 2, "txtkvheads": 2},
        frames=(1,),
        text="txtdim",
    ),
}


@dataclass(frozen=True)
class FullWidth:
    """A MODEL, and what a run of it needs."""

    family: str
    model: Any
    text_width: int
    settings: dict[str, Any] = field(default_factory=dict)

    def conditions(self, tokens: int = 64) -> list[Any]:
        """Positive and negative conditioning, random."""
        import torch

        pooled = DENOISERS[self.family].pooled
        options = {"pooled_output": torch.randn(1, pooled)} if pooled else {}
        return [[[torch.randn(1, tokens, self.text_width), options]] for _ in range(2)]

    def noise(self, size: int, batch: int = 1) -> Any:
        """Of a square picture of `size` pixels."""
        import torch

        row = DENOISERS[self.family]
        return torch.randn(batch, row.channels, *row.frames, size // 8, size // 8)


def full_width(family: str, blocks: int, dtype: Any, stored: str | None = None, tiny: bool = False) -> FullWidth:
    """`blocks` times one block of each kind, computed in `dtype`, weights in 8 bits where `stored` is int8 or fp8."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models
    import comfy.utils

    row, device = DENOISERS[family], comfy.model_management.get_torch_device()
    config = row.config | {name: count * blocks for name, count in row.blocks.items()} | (row.tiny if tiny else {})

    def settings() -> Any:
        found = getattr(comfy.supported_models, row.kind)(dict(config))
        found.set_inference_dtype(dtype, None)
        return found

    base = settings().get_model({}, device=device)
    for weight in base.diffusion_model.state_dict().values():
        if weight.is_floating_point():
            weight.normal_(0, 0.02)
    if stored is not None:
        weights = in_8_bits(base.diffusion_model, FORMATS[stored])
        del base
        quantised = settings()
        quantised.quant_config = comfy.utils.detect_layer_quantization(weights, "")
        quantised.custom_operations = comfy.ops.mixed_precision_ops(quantised.quant_config, dtype)
        base = quantised.get_model({}, device=device)
        base.diffusion_model.load_state_dict(weights, strict=False, assign=True)
        base.to(device)
    offload = comfy.model_management.unet_offload_device()
    model = comfy.model_patcher.ModelPatcher(base, device, offload)
    facts = {"family": family, "blocks": {name: config[name] for name in row.blocks}, "dtype": stored or str(dtype)[6:]}
    return FullWidth(family, model, config[row.text], facts)


def in_8_bits(denoiser: Any, kind: str) -> dict[str, Any]:
    """The state dict of a file whose large layers are in 8 bits, one scale each."""
    import torch

    dtype, largest = (torch.int8, 127) if kind.startswith("int8") else (torch.float8_e4m3fn, 448)
    large = {
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight.numel() >= MAIN_LAYER
    }
    weights = dict(denoiser.state_dict())
    for name in large:
        weight = weights[f"{name}.weight"].float()
        scale = weight.abs().max() / largest
        stored = weight / scale
        weights[f"{name}.weight"] = (stored.round() if dtype is torch.int8 else stored).to(dtype)
        weights[f"{name}.weight_scale"] = scale
        told = json.dumps({"format": kind}).encode()
        weights[f"{name}.comfy_quant"] = torch.tensor(list(told), dtype=torch.uint8)
    return weights
