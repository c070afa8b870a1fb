"""Today's transformers at tiny sizes in both houses: diffusers' classes with random weights, and the same ones as
ComfyUI's MODEL, made by its own conversion of checkpoints."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec

import torch
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

from .tiny_models import TINY, WIDTH, build, random_weight

if find_spec("comfy"):
    import comfy.model_detection

_HEADS = {"attention_head_dim": 32, "num_attention_heads": 2, "axes_dims_rope": (8, 12, 12)}
_ROPE = {"axes_dims": [8, 12, 12], "axes_lens": [64, 32, 32]}
TWINS = {
    "flux1": (
        FluxTransformer2DModel,
        {
            **_HEADS,
            "in_channels": 64,
            "num_layers": 2,
            "num_single_layers": 3,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": 32,
            "guidance_embeds": True,
        },
    ),
    "qwen_image": (QwenImageTransformer2DModel, {**_HEADS, "num_layers": 3, "joint_attention_dim": WIDTH}),
    "z_image": (
        ZImageTransformer2DModel,
        {**_ROPE, "dim": 256, "n_layers": 3, "n_heads": 8, "n_kv_heads": 8, "cap_feat_dim": WIDTH},
    ),
}
"""Classes and sizes by the names of `tiny_models.TINY`."""
GUIDANCE = 3.5
"""What ComfyUI tells Flux where no node tells another."""


def twin(name):
    """The denoiser in diffusers: the same random weights at each call."""
    kind, settings = TWINS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        denoiser = kind(**settings)
        if name == "z_image":  # 1024 wide whatever the model's width, where ComfyUI's is no wider than the model
            denoiser.t_embedder = TimestepEmbedder(256, mid_size=256)
        for key, weight in denoiser.state_dict().items():
            weight.copy_(random_weight(key, weight))
    return denoiser.eval().requires_grad_(False)


def comfy_twin(name, denoiser):
    """The same denoiser as ComfyUI's MODEL; names of Qwen-Image's weights are those of diffusers."""
    model, weights = build(name), copy.deepcopy(denoiser.state_dict())
    if name != "qwen_image":
        weights = comfy.model_detection.convert_diffusers_mmdit(weights)
    model.model.diffusion_model.load_state_dict(weights)
    return model


def velocity(name, denoiser, x, sigma, text, pooled=None):
    """The denoiser's velocity of latents x [B, C, H, W] at sigma [B], for text states [B, T, WIDTH]."""
    if name == "z_image":
        frames = list(x[:, :, None].unbind())
        return -torch.stack(denoiser(frames, 1 - sigma, list(text.unbind())).sample)[:, :, 0]
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    patches = x.unflatten(-2, (rows, 2)).unflatten(-1, (columns, 2)).permute(0, 2, 4, 1, 3, 5)
    given = {
        "hidden_states": patches.reshape(len(x), rows * columns, -1),
        "encoder_hidden_states": text,
        "timestep": sigma,
    }
    if name == "flux1":
        places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
        given |= {"img_ids": places, "txt_ids": torch.zeros(text.shape[1], 3), "pooled_projections": pooled}
        given["guidance"] = torch.full((len(x),), GUIDANCE)
    else:
        given["img_shapes"] = [[(1, rows, columns)]] * len(x)
    out = denoiser(**given).sample.unflatten(-1, (-1, 2, 2)).unflatten(1, (rows, columns))
    return out.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def sigmas_of(steps, shift):
    """Sigmas of an even schedule with `shift`, from 1 to 0."""
    even = [1 - i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


SHIFTS = {"flux1": math.exp(1.15), "qwen_image": math.exp(1.15), "z_image": 3.0}


def drawn(name, rows, sigma=0.7):
    """Arguments of `velocity` after the denoiser: latents, sigma and text of as many pictures."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 16, 8, 8, generator=generator)
    text = torch.randn(rows, 7, WIDTH, generator=generator)
    pooled = torch.randn(rows, TINY[name].pooled, generator=generator)
    return x, torch.full((rows,), sigma), text, pooled
