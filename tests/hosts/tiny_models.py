"""The denoisers of today's models as real MODELs of ComfyUI: its own classes, a few thousand weights each, all random.

    model = build("qwen_image")
    x = sample(model, conditioning("qwen_image"), conditioning("qwen_image", seed=1), latent("qwen_image"), cfg=4.0)

Nothing is as a checkpoint initialises it: layers of zeros, such as the last one of a diffusion transformer, would hide
every effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch

if find_spec("comfy"):
    import comfy.ldm.anima.model
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models

WIDTH = 48
"""Width of a text token, but for models that take several layers of their text encoder."""
TOKENS = 7
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tiny:
    """One class of `comfy.supported_models`: what its detection would find, a latent's shape, and its conditioning."""

    kind: str
    config: dict[str, Any]
    latent: tuple[int, ...] = (16, 8, 8)
    width: int = WIDTH
    pooled: int = 0
    options: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of further tensors that this family's text encoder gives."""


_FLUX_TEXT = {"context_in_dim": WIDTH, "theta": 10000, "mlp_ratio": 4.0, "num_heads": 2, "hidden_size": 64}
_FLUX = {"axes_dim": [8, 12, 12], "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], "vec_in_dim": None}
_LUMINA: dict[str, Any] = {
    "in_channels": 16,
    "n_layers": 3,
    "n_refiner_layers": 2,
    "qk_norm": True,
    "cap_feat_dim": WIDTH,
}
_LUMINA |= {"axes_dims": [8, 12, 12], "axes_lens": [64, 32, 32], "multiple_of": 32, "patch_size": 2}
_ROPE = {"axes_dims_rope": (8, 12, 12)}
_HEADS = {"attention_head_dim": 32, "num_attention_heads": 2}

TINY = {
    "flux1": Tiny(
        "Flux",
        {
            **_FLUX_TEXT,
            **_FLUX,
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 32,
            "depth": 2,
            "depth_single_blocks": 3,
            "guidance_embed": True,
        },
        pooled=32,
    ),
    "flux2": Tiny(
        "Flux2",
        {
            **_FLUX_TEXT,
            **_FLUX,
            "image_model": "flux2",
            "in_channels": 128,
            "out_channels": 128,
            "mlp_ratio": 3.0,
            "depth": 2,
            "depth_single_blocks": 3,
            "axes_dim": [8] * 4,
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "guidance_embed": True,
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        },
        latent=(128, 4, 4),
    ),
    "chroma": Tiny(
        "Chroma",
        {
            **_FLUX_TEXT,
            **_FLUX,
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "depth": 19,  # as many as the 344 rows of its modulation serve
            "depth_single_blocks": 38,
            "in_dim": 64,
            "out_dim": 64,
            "hidden_dim": 32,
            "n_layers": 2,
        },
    ),
    "qwen_image": Tiny(
        "QwenImage",
        {
            **_ROPE,
            **_HEADS,
            "image_model": "qwen_image",
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 3,
            "joint_attention_dim": WIDTH,
        },
        latent=(16, 1, 8, 8),
    ),
    "z_image": Tiny(
        "ZImage",
        {
            **_LUMINA,
            "image_model": "lumina2",
            "dim": 256,
            "n_heads": 8,
            "n_kv_heads": 8,
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
            "multiple_of": 2,  # as wide as 8 / 3 of so small a model asks
        },
    ),
    "lumina2": Tiny("Lumina2", {**_LUMINA, "image_model": "lumina2", "dim": 64, "n_heads": 2, "n_kv_heads": 1}),
    "krea2": Tiny(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 64,
            "tdim": 32,
            "txtdim": 24,
            "heads": 2,
            "kvheads": 1,
            "multiplier": 2,
            "layers": 3,
            "txtlayers": 2,
            "txtheads": 2,
            "txtkvheads": 2,
        },
        latent=(16, 1, 8, 8),
        width=2 * 24,
    ),
    "anima": Tiny(
        "Anima",
        {
            "image_model": "anima",
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "concat_padding_mask": True,
            "model_channels": 96,
            "num_blocks": 3,
            "num_heads": 2,
            "crossattn_emb_channels": WIDTH,
            "pos_emb_cls": "rope3d",
            "pos_emb_learnable": True,
            "use_adaln_lora": True,
            "adaln_lora_dim": 16,
            "rope_enable_fps_modulation": False,
        },
        latent=(16, 1, 8, 8),
    ),
    "sd35": Tiny(
        "SD3",
        {
            "input_size": None,
            "patch_size": 2,
            "in_channels": 16,
            "depth": 2,
            "adm_in_channels": 32,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 128},
            },
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
            "num_blocks": 3,
        },
        pooled=32,
    ),
    "wan21": Tiny(
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "patch_size": (1, 2, 2),
            "in_dim": 16,
            "dim": 96,
            "ffn_dim": 128,
            "freq_dim": 32,
            "text_dim": WIDTH,
            "out_dim": 16,
            "num_heads": 2,
            "num_layers": 3,
            "cross_attn_norm": True,
        },
        latent=(16, 1, 8, 8),
    ),
    "hidream_i1": Tiny(
        "HiDream",
        {
            **_HEADS,
            "image_model": "hidream",
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "caption_channels": [WIDTH, WIDTH],
            "text_emb_dim": 32,
            "num_routed_experts": 2,
            "num_activated_experts": 1,
            "axes_dims_rope": [8, 12, 12],
            "max_resolution": (32, 32),
            "llama_layers": [0, 1, 1, 1],
        },
        pooled=32,
        options={"conditioning_llama3": (1, 2, TOKENS, WIDTH)},
    ),
    "hunyuan_image": Tiny(
        "HunyuanImage21",
        {
            **_FLUX_TEXT,
            "image_model": "hunyuan_video",
            "in_channels": 64,
            "out_channels": 64,
            "vec_in_dim": None,
            "depth": 2,
            "depth_single_blocks": 2,
            "axes_dim": [16, 16],
            "theta": 256,
            "patch_size": [1, 1],
            "qkv_bias": True,
            "guidance_embed": True,
            "byt5": False,
            "meanflow": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
            "meanflow_sum": False,
        },
        latent=(64, 4, 4),
    ),
    "ideogram4": Tiny(
        "Ideogram4",
        {
            **_HEADS,
            "image_model": "ideogram4",
            "in_channels": 128,
            "num_layers": 3,
            "intermediate_size": 64,
            "adaln_dim": 32,
            "llm_features_dim": WIDTH,
            "mrope_section": (6, 5, 5),
        },
        latent=(128, 4, 4),
    ),
    "lens": Tiny(
        "Lens",
        {
            **_ROPE,
            **_HEADS,
            "image_model": "lens",
            "in_channels": 128,
            "out_channels": 32,
            "num_layers": 3,
            "enc_hidden_dim": 24,
            "selected_layer_index": (0, 1),
        },
        latent=(128, 4, 4),
        width=2 * 24,
    ),
    "ernie": Tiny(
        "ErnieImage",
        {
            "image_model": "ernie",
            "hidden_size": 64,
            "num_attention_heads": 2,
            "num_layers": 3,
            "ffn_hidden_size": 96,
            "in_channels": 128,
            "out_channels": 128,
            "text_in_dim": WIDTH,
            "rope_axes_dim": (8, 12, 12),
        },
        latent=(128, 4, 4),
    ),
    "mage_flow": Tiny(
        "MageFlow",
        {**_ROPE, **_HEADS, "image_model": "mage_flow", "num_layers": 3, "joint_attention_dim": WIDTH},
        latent=(128, 4, 4),
    ),
    "sdxl": Tiny(
        "SDXL",
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1, 1],
            "channel_mult": [1, 2, 2],
            "transformer_depth": [0, 1, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [0, 0, 1, 1, 1, 1],
            "context_dim": WIDTH,
            "num_head_channels": 32,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "adm_in_channels": 2816,
            "num_classes": "sequential",
            "legacy": False,
        },
        latent=(4, 8, 8),
        pooled=1280,
    ),
}
"""17 classes of denoisers by the names of their families."""


def build(name: str, dtype: torch.dtype = torch.float32) -> comfy.model_patcher.ModelPatcher:
    """A family's MODEL: the same random weights at each call."""
    return at_random(TINY[name], dtype)


def at_random(tiny: Tiny, dtype: torch.dtype = torch.float32) -> comfy.model_patcher.ModelPatcher:
    """A class's MODEL, with random weights."""
    settings = getattr(comfy.supported_models, tiny.kind)(tiny.config)
    settings.unet_config |= tiny.config  # Ideogram states its full size beside what is detected
    settings.set_inference_dtype(dtype, None)
    # Anima builds its text adapter at the checkpoint's own size
    adapter = partial(
        comfy.ldm.anima.model.LLMAdapter, source_dim=WIDTH, target_dim=WIDTH, model_dim=WIDTH, num_layers=1, num_heads=2
    )
    with torch.random.fork_rng(devices=[]), patch.object(comfy.ldm.anima.model, "LLMAdapter", adapter):
        torch.manual_seed(0)
        base = settings.get_model({}, device=CPU)
        for key, weight in base.diffusion_model.state_dict().items():
            if weight.is_floating_point():
                weight.copy_(random_weight(key, weight))
    return comfy.model_patcher.ModelPatcher(base, CPU, CPU)


def random_weight(key: str, weight: torch.Tensor) -> torch.Tensor:
    """Matrices that keep their input's size, norms that scale by 1, small biases."""
    if weight.ndim > 1:
        return torch.randn(weight.shape) / weight[0].numel() ** 0.5
    if key.endswith(("weight", "scale")):
        return torch.ones(weight.shape)
    return 0.1 * torch.randn(weight.shape)


def conditioning(name: str, seed: int = 0, tokens: int = TOKENS, **options: Any) -> list[list[Any]]:
    """CONDITIONING of one prompt, random: other seeds are other prompts."""
    tiny, generator = TINY[name], torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, tiny.width, generator=generator)
    for key, extra in tiny.options.items():
        options.setdefault(key, torch.randn(extra, generator=generator))
    if name == "anima":  # its own text adapter makes tokens of these, for lack of which it would be passed by
        options.setdefault("t5xxl_ids", torch.randint(0, 32128, (tokens,), generator=generator))
        options.setdefault("t5xxl_weights", torch.ones(tokens))
    if tiny.pooled:
        options.setdefault("pooled_output", torch.randn(1, tiny.pooled, generator=generator))
    return [[text, options]]


def latent(name: str, batch: int = 1) -> torch.Tensor:
    """An empty latent of the family's shape."""
    return torch.zeros(batch, *TINY[name].latent)


def sample(
    model: comfy.model_patcher.ModelPatcher,
    positive: list[list[Any]],
    negative: list[list[Any]],
    start: torch.Tensor,
    *,
    cfg: float = 4.0,
    steps: int = 2,
    seed: int = 0,
) -> torch.Tensor:
    """What a KSampler with euler makes of `start`, on CPU and without a progress bar."""
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    sampler = comfy.samplers.KSampler(model, steps, CPU, "euler", "simple", 1.0, model.model_options)
    return sampler.sample(noise, positive, negative, cfg, latent_image=start, disable_pbar=True, seed=seed)
