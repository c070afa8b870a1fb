"""A pack of one node for the tests' server: a CLIP_VISION of ComfyUI's own class with ViT-H-14's widths and two layers.

ComfyUI's loader knows ViT-H-14 by its 32 layers and no smaller one, which takes seconds a picture on a CPU.
"""

from __future__ import annotations

import comfy.clip_vision
import torch

CONFIG = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 64,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 56,
    "projection_dim": 1024,
}


class SmallClipVision:
    """Random weights under which outputs are as large as inputs."""

    CATEGORY = "tests"
    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {}}

    def load(self) -> tuple[comfy.clip_vision.ClipVisionModel]:
        vision, generator = comfy.clip_vision.ClipVisionModel(CONFIG), torch.Generator().manual_seed(0)
        weights = vision.get_sd()
        for name, x in weights.items():
            if x.is_floating_point() and x.ndim > 1:
                weights[name] = (torch.randn(x.shape, generator=generator) / x[0].numel() ** 0.5).to(x.dtype)
            elif x.is_floating_point():
                weights[name] = torch.full_like(x, float(name.endswith("weight")))
        vision.load_sd(weights)
        return (vision,)


NODE_CLASS_MAPPINGS = {"SmallClipVision": SmallClipVision}
