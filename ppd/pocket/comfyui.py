"""The pocket models in ComfyUI: a base file as the MODEL, CLIP and VAE that the stock nodes work on."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.taesd.taesd
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..files import check_shapes, on_meta
from ..hosts.comfyui_denoisers import MODELS
from .autoencoder import PocketAutoencoder
from .base_file import END, START, PocketBase, read_base

log = logging.getLogger(__name__)

OPERATIONS = comfy.ops.disable_weight_init
UNKNOWN_WORDS = "ppd_unknown_words"
"""Key in a CONDITIONING's options: the words of its prompt that the pocket model was never taught."""
LARGEST = 192
"""Pixels a side beyond which the pocket model's pictures fall apart."""


class PocketLatents(comfy.latent_formats.LatentFormat):
    """The pocket autoencoder's latents: f8, 4 channels, with their own scale and preview colours."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.scale_factor = metadata["latent_scale"]
        self.latent_rgb_factors = metadata["latent_rgb_factors"]
        self.latent_rgb_factors_bias = metadata["latent_rgb_bias"]


class PocketFlowLatents(PocketLatents):
    """The same with an axis of frames, which Qwen-Image's class has."""

    latent_dimensions = 3


class Notes:
    """What a pocket tells of a run."""

    def notes_on_run(self, latent: Tensor, positive: Any, negative: Any) -> list[str]:
        """What to tell of a run: a latent [B, 4, H, W] too large to compose, and words that were never taught."""
        side = 8 * max(latent.shape[-2:])
        notes = []
        if side > LARGEST:
            notes.append(f"The pocket model has seen 128 x 128 pixels only and cannot compose {side}: use 128.")
        for prompt, conditioning in (("positive", positive), ("negative", negative)):
            words = dict.fromkeys(word for _, options in conditioning for word in options.get(UNKNOWN_WORDS, []))
            if words:
                notes.append(f"The model does not know these words of the {prompt} prompt: {', '.join(words)}.")
        return notes


class Pocket(Notes, comfy.supported_models.SD15):
    """Stable Diffusion 1.5 at the width a pocket base's metadata say. ComfyUI detects it nowhere: only we make it."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        super().__init__(denoiser_config(metadata["unet_config"]))
        self.unet_config["num_heads"] = metadata["unet_config"]["attention_head_dim"]  # diffusers means heads by it
        self.latent_format = PocketLatents(metadata)
        schedule = metadata["scheduler_config"]
        wanted = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
        found = {name: schedule.get(name) for name in wanted}
        if found != wanted:
            raise ValueError(f"The pocket base has the schedule {found}, expected {wanted}: train it with that.")
        self.sampling_settings = {
            "beta_schedule": "linear",  # ComfyUI's name for what diffusers calls scaled_linear
            "linear_start": schedule["beta_start"],
            "linear_end": schedule["beta_end"],
            "timesteps": schedule["num_train_timesteps"],
        }


class PocketFlow(Notes, comfy.supported_models.QwenImage):
    """Qwen-Image at the size a pocket base's metadata say."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        # The class's arguments have the names of diffusers'
        super().__init__({"image_model": "qwen_image", **metadata["transformer_config"]})
        self.latent_format = PocketFlowLatents(metadata)
        # diffusers says e^mu where ComfyUI says mu
        self.sampling_settings = {"multiplier": 1.0, "shift": math.log(metadata["scheduler_config"]["shift"])}


MODELS["pocket"] = (Pocket, comfy.model_base.BaseModel, UNetModel)
KINDS: dict[str, tuple[type, type]] = {
    "unet": (Pocket, UNetModel),
    "transformer": (PocketFlow, QwenImageTransformer2DModel),
}
"""A base's kind of denoiser to ComfyUI's classes of configuration and denoiser."""


def denoiser_config(config: dict[str, Any]) -> dict[str, Any]:
    """diffusers' UNet2DConditionModel arguments as ComfyUI's UNetModel arguments."""
    widths, layers, heads = config["block_out_channels"], config["layers_per_block"], config["attention_head_dim"]
    if any(width % widths[0] for width in widths):
        raise ValueError(f"Expected pocket widths that are multiples of the first, got {list(widths)}.")
    if config.get("norm_num_groups", 32) != 32 or not isinstance(layers, int) or not isinstance(heads, int):
        raise ValueError(
            f"The pocket base has norm_num_groups {config.get('norm_num_groups')}, layers_per_block {layers} and "
            f"attention_head_dim {heads}, expected 32 and one number each: ComfyUI's denoiser has no others."
        )
    down = ["CrossAttn" in name for name in config["down_block_types"]]
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [layers] * len(widths),
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": [int(attends) for attends in down for _ in range(layers)],
        # ComfyUI takes these from the end, so they are in the order of the down blocks
        "transformer_depth_output": [int(attends) for attends in down for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def _show(text: str) -> None:
    """Show a text at the node that is running: a log is kept, and a prompt's words are somebody's."""
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:  # tools run nodes without either
        server.send_progress_text(text, context.node_id)


class PocketText(comfy.sd1_clip.SD1ClipModel):
    """The pocket text encoder, which names the words it was never taught in the conditioning it makes."""

    def __init__(self, vocabulary: frozenset[int], **params: Any) -> None:
        super().__init__(**params)
        self.vocabulary = vocabulary
        self.token_texts: dict[int, str] = {}
        self.told: set[tuple[str, ...]] = set()

    def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> tuple[Any, ...]:
        cond, pooled = super().encode_token_weights(token_weight_pairs)
        ids = [token[0] for batch in token_weight_pairs[self.clip_name] for token in batch]
        words = self.unknown_words(ids)
        if words and tuple(words) not in self.told:  # a measurement asks the same again and again
            self.told.add(tuple(words))
            log.warning("The pocket model does not know %d of a prompt's words: see the node.", len(words))
            _show(f"The pocket model does not know: {', '.join(words)}. These words are painted as nothing.")
        return cond, pooled, {UNKNOWN_WORDS: words}

    def unknown_words(self, tokens: list[Any]) -> list[str]:
        """Words with a token outside the vocabulary, in the prompt's order; `tokens` are ids (or inserted vectors)."""
        words: dict[str, None] = {}
        word, known = "", True
        for token in tokens:
            if not isinstance(token, int) or token in (START, END):
                continue
            text = self.token_texts[token]
            word, known = word + text.removesuffix("</w>"), known and token in self.vocabulary
            if text.endswith("</w>"):
                if not known and any(map(str.isalnum, word)):  # a comma says nothing to begin with
                    words[word] = None
                word, known = "", True
        return list(words)


def load_pocket(path: Path | str) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a pocket base file."""
    base = read_base(path)
    model = load_denoiser(path, base=base)
    model.cached_patcher_init = (load_denoiser, (path,))
    return model, _text_encoder(base, Path(path).name), _autoencoder(base, Path(path).name)


def load_turbo(
    path: Path | str, lora: Path | str
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """A pocket base with its few-step LoRA, as the stock LoRA loader applies one."""
    model, clip, vae = load_pocket(path)
    tensors = comfy.utils.load_torch_file(str(lora), safe_load=True)
    turbo, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    return turbo, clip, vae


def load_denoiser(
    path: Path | str, *, base: PocketBase | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL alone: also what ComfyUI calls for a copy of it on another device, or without dynamic memory."""
    base, source = base or read_base(path), Path(path).name
    kind, denoiser = KINDS[base.part]
    config = on_meta(source, lambda: kind(base.metadata))
    device, offload_device = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    names = on_meta(source, lambda: comfy.utils.unet_to_diffusers(config.unet_config)) if kind is Pocket else {}
    weights = {names.get(name, name): tensor for name, tensor in base.denoiser.items()}
    planned = on_meta(source, lambda: denoiser(**config.unet_config, device="meta", operations=OPERATIONS))
    check_shapes(f"{source}'s denoiser", planned.state_dict(), weights)
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    model = config.get_model(weights, "")
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=offload_device)
    model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


def _text_encoder(base: PocketBase, source: str) -> comfy.sd.CLIP:
    config = dict(base.metadata["text_config"])

    def plan() -> comfy.clip_model.CLIPTextModel:
        model = comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", OPERATIONS)
        model(torch.zeros(1, 1, dtype=torch.long))  # heads that do not fit show here only
        return model

    ours = {
        name: tensor
        for name, tensor in on_meta(source, plan).state_dict().items()
        if name != "text_projection.weight"  # pocket prompts have no pooled embedding
    }
    check_shapes(f"{source}'s text encoder", ours, base.text_encoder)
    weights = {f"clip_l.transformer.{name}": tensor for name, tensor in base.text_encoder.items()}
    target = comfy.supported_models_base.ClipTarget(
        partial(
            comfy.sd1_clip.SD1Tokenizer,
            tokenizer=partial(
                comfy.sd1_clip.SDTokenizer,
                embedding_size=config["hidden_size"],
                max_length=config["max_position_embeddings"],
            ),
        ),
        partial(PocketText, frozenset(base.vocabulary.tolist())),
    )
    target.params["clip_model"] = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=config["max_position_embeddings"],
        textmodel_json_config=config,
        return_projected_pooled=False,
    )
    clip = comfy.sd.CLIP(target, state_dict=dict(weights), parameters=comfy.utils.calculate_parameters(weights))
    clip.cond_stage_model.token_texts = clip.tokenizer.clip_l.inv_vocab
    return clip


def _autoencoder(base: PocketBase, source: str) -> comfy.sd.VAE:
    """ComfyUI's VAE around the pocket's own autoencoder.

    Its constructor knows published autoencoders only, so it makes one of the same format (TAESD: f8, 4 channels, -1..1)
    and the pocket's takes that one's place.
    """
    planned = on_meta(source, lambda: PocketAutoencoder(**base.metadata["vae_config"]))
    check_shapes(f"{source}'s autoencoder", planned.state_dict(), base.vae)
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    autoencoder = PocketAutoencoder(**base.metadata["vae_config"], conv=OPERATIONS.Conv2d)
    autoencoder.eval().to(vae.vae_dtype)
    comfy.model_management.archive_model_dtypes(autoencoder)
    offload_device = comfy.model_management.vae_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(autoencoder, load_device=vae.device, offload_device=offload_device)
    autoencoder.load_state_dict(base.vae, assign=patcher.is_dynamic())
    vae.first_stage_model, vae.patcher = autoencoder, patcher
    vae.size = comfy.model_management.module_size(autoencoder)
    return vae
