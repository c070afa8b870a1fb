"""The artist's families at small widths of the real classes, in diffusers and as ComfyUI's MODEL, with adapters."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from diffusers import UNet2DConditionModel

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig
from ppd.hosts.diffusers import cross_attentions as diffusers_layers
from ppd.user_embedding import UserEmbedding

if find_spec("comfy"):
    import comfy.ldm.wan.vae
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.utils

CONTEXT = 32
ARTISTS = ("sd15", "sd2", "sdxl")
LEVELS = {"sd15": (1, 2, 4, 4), "sd2": (1, 2, 4, 4), "sdxl": (1, 2, 4)}
DEPTHS = {"sd15": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}


def denoiser(family, in_channels=4):
    """The family's denoiser in diffusers: its own blocks, a tenth of its width, random weights."""
    width = 32 if family != "sd2" else 64
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in DEPTHS[family]]
    heads = {"sd15": 8, "sd2": (1, 2, 4, 4), "sdxl": (1, 1, 2)}[family]
    settings = {
        "sample_size": 16,
        "in_channels": in_channels,
        "block_out_channels": tuple(width * level for level in LEVELS[family]),
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "layers_per_block": 2,
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": heads,
        "use_linear_projection": family != "sd15",
    }
    if family == "sdxl":
        settings |= {
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(**settings).eval().requires_grad_(False)


def settings_of(family, unet):
    """What ComfyUI's detection finds for that denoiser."""
    depths, outputs = DEPTHS[family], [depth for depth in DEPTHS[family] for _ in range(3)]
    config = {
        "image_size": 32,
        "in_channels": unet.config.in_channels,
        "out_channels": 4,
        "model_channels": unet.config.block_out_channels[0],
        "num_res_blocks": [2] * len(depths),
        "channel_mult": list(LEVELS[family]),
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_output": outputs,
        "transformer_depth_middle": depths[-1] or 1,
        "use_linear_in_transformer": family != "sd15",
        "context_dim": CONTEXT,
        "adm_in_channels": 2816 if family == "sdxl" else None,
        "num_classes": "sequential" if family == "sdxl" else None,
        "use_temporal_attention": False,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    kind = {"sd15": "SD15", "sd2": "SD20", "sdxl": "SDXL"}[family]
    return getattr(comfy.supported_models, kind)(config)


def comfy_weights(settings, unet):
    """The denoiser's weights by ComfyUI's names."""
    names = comfy.utils.unet_to_diffusers(settings.unet_config)
    return {names[name]: value for name, value in unet.state_dict().items()}


def comfy_model(family, unet, weights=torch.float32, compute=None):
    """The same denoiser as ComfyUI builds it; weights and arithmetic in other dtypes."""
    settings = settings_of(family, unet)
    settings.set_inference_dtype(weights, compute)
    base = settings.get_model({})
    base.diffusion_model.load_state_dict(comfy_weights(settings, unet))
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


def qwen_image():
    """Qwen-Image's MODEL and VAE, whose latents are videos of one frame, at small widths with random weights."""
    config = {"image_model": "qwen_image", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
    config |= {"in_channels": 64, "out_channels": 16, "joint_attention_dim": CONTEXT, "axes_dims_rope": (8, 12, 12)}
    settings = comfy.supported_models.QwenImage(config)
    settings.set_inference_dtype(torch.float32, None)
    autoencoder = comfy.ldm.wan.vae.WanVAE(
        8, 16, [1, 2, 4, 4], 2, temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = settings.get_model({})
        for weight in base.diffusion_model.parameters():
            weight.data = 0.1 * torch.randn(weight.shape)
        weights = {name: at_random(name, weight) for name, weight in autoencoder.state_dict().items()}
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    return model, comfy.sd.VAE(sd=weights)


def at_random(name, weight):
    """Weights that keep their input's size; norms that do nothing."""
    if weight.ndim > 1 and "gamma" not in name:
        return torch.randn(weight.shape) / weight[0].numel() ** 0.5
    return torch.full(weight.shape, float("gamma" in name))


def adapter_for(family, unet, **changes):
    values = {"family": family, "encoder": "some-clip", "encoder_hash": "0" * 64, "embedding_dim": 6}
    values["layers"] = tuple(attention.inner_dim for attention in diffusers_layers(unet))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = CrossAttentionAdapter(CrossAttentionConfig(**{**values, **changes}))
        for layer in adapter.layers:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.3)
    return adapter


def person(seed=0):
    u = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    return UserEmbedding(u, "some-clip", "0" * 64, pairs=4, created="2026-01-01")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
