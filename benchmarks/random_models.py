"""Model files of random weights, laid out as published ones are, whose pictures really depend on a few words.

    write_model("sd15", base / "models")   # checkpoints/random.safetensors, or one file in each folder of the parts

Each is as small as ComfyUI's stock loaders still recognise it. How it hears: the tokens of opposite words have opposite
embeddings, the text encoder's layers change little, and the last attention to the text weighs all tokens alike and has
values along these words alone, so that such a word moves every picture in one direction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor

from .full_width import DENOISERS

if TYPE_CHECKING:
    from comfy.model_base import BaseModel

OPPOSITES = (("green", "purple"), ("blue", "golden"))
"""Words of the two looks that are heard: each is one token of every tokenizer."""
LOOKS = "green-purple, blue-gold"
"""What the lexicon calls these looks."""
TEXT_TYPES = {"z_image": "lumina2", "qwen_image": "qwen_image"}
"""What Load CLIP calls the text encoder of a family that comes in parts; others come as a checkpoint."""
FILE = "random.safetensors"
WIDTH = 320
"""Of all levels of a narrow U-Net: ComfyUI tells these families by it."""
BLOCKS = 2
"""Of a transformer. Its refiners are as many as the loader expects."""
QUIET, LOUD = 0.05, 6.0
"""What layers change that are to change little, and what a heard word adds, to values of about 1."""
TOKENS = {"sd15": 77, "sdxl": 77, "z_image": 64, "qwen_image": 40}
"""Among which attention spreads, about."""
QUIET_TEXT = r"(self_attn\.out_proj|mlp\.fc2|attn\.out_proj|mlp\.c_proj|o_proj|down_proj)\.weight$"
QUIET_AUTOENCODER = r"taesd_decoder\.\d+\.conv\.4\.weight$|residual\.6\.weight$"
QUIET_DENOISER = r"(norm2|attn\.to_out\.0|to_add_out|mlp\.net\.2)\.weight$"
TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
"""Names of types in safetensors."""

Changes = dict[str, Callable[[Tensor], object]]
"""By a weight's name, what is done to it in place."""


def write_model(family: str, models: Path) -> dict[str, Path]:
    """The files of a model below ComfyUI's folder of models, by the folder each lies in."""
    files: dict[str, Callable[[Path], None]]
    if family in MODELS:
        files = {"checkpoints": partial(write_checkpoint, family=family)}
    else:
        files = {
            "diffusion_models": partial(write_transformer, family=family),
            "text_encoders": partial(write_text_encoder, family=family),
            "vae": write_video_autoencoder if family == "qwen_image" else partial(write_autoencoder, channels=16),
        }
    paths = {folder: models / folder / FILE for folder in files}
    for folder, write in files.items():
        write(paths[folder])
    return paths


def write_checkpoint(path: Path, family: str) -> None:
    """A narrow U-Net, its text encoders at their own size, and the tiny autoencoder."""
    from comfy.sd1_clip import SDTokenizer

    model = MODELS[family]()
    with torch.device("meta"):
        text = model.model_config.clip_target({}).clip(device="meta", dtype=torch.float16).state_dict()
    weights = model.state_dict_for_saving(model.diffusion_model.state_dict(), text, autoencoder(4, 0.04))
    tables = sorted(name for name in weights if name.endswith("token_embedding.weight"))  # CLIP-L's, then CLIP-G's
    directions = [directions_in(name, weights[name].shape[1]) for name in tables]
    last = [name for name in weights if name.endswith("attn2.to_v.weight")][-1].removesuffix("to_v.weight")
    changes: Changes = {
        name: partial(embed, SDTokenizer(), "", own) for name, own in zip(tables, directions, strict=True)
    }
    changes |= {f"{last}to_{one}.weight": torch.Tensor.zero_ for one in "qk"}
    changes[f"{last}to_v.weight"] = partial(hear, torch.cat(directions, 1), TOKENS[family])
    changes |= visible(weights)
    write_weights(path, weights, changes, f"{QUIET_TEXT}|{QUIET_AUTOENCODER}")


def write_transformer(path: Path, family: str) -> None:
    """A transformer of full width and few blocks, without the parts of the checkpoint."""
    import comfy.supported_models

    row = DENOISERS[family]
    settings = getattr(comfy.supported_models, row.kind)(
        {**row.config, **dict.fromkeys(row.blocks, BLOCKS)} | ({"n_refiner_layers": 2} if family == "z_image" else {})
    )
    settings.set_inference_dtype(torch.bfloat16, None)
    weights = settings.get_model({}, device="meta").diffusion_model.state_dict()
    into = "cap_embedder.1.weight" if family == "z_image" else "txt_in.weight"
    directions = directions_in(family, weights[into].shape[1]) @ drawn(into, weights[into]).float().T
    listen = partial(hear, directions, TOKENS[family])
    changes: Changes
    if family == "z_image":
        last, width = f"layers.{BLOCKS - 1}.", weights[into].shape[0]
        changes = {
            f"{last}attention.qkv.weight": lambda x: listen(x.zero_()[2 * width :]),
            f"{last}attention_norm2.weight": lambda x: x.fill_(1),
            f"{last}adaLN_modulation.0.bias": lambda x: x[width : 2 * width].fill_(2),  # its gate is open
            "cap_pad_token": torch.Tensor.zero_,  # there are many, which would add up
            "x_pad_token": torch.Tensor.zero_,
        }
    else:
        last = f"transformer_blocks.{BLOCKS - 1}.attn."
        silent = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj")
        changes = {f"{last}{one}.weight": torch.Tensor.zero_ for one in silent}
        changes |= {f"{last}add_v_proj.weight": listen, f"{last}to_out.0.weight": lambda x: x.div_(QUIET)}
    write_weights(path, weights, changes, QUIET_DENOISER)


def write_text_encoder(path: Path, family: str) -> None:
    """The family's language model, of which the loader knows one size."""
    import comfy.ops
    import comfy.text_encoders.llama as language_models
    from comfy.text_encoders.qwen_image import Qwen25_7BVLITokenizer
    from comfy.text_encoders.z_image import Qwen3Tokenizer

    kind = language_models.Qwen3_4B if family == "z_image" else language_models.Qwen25_7BVLI
    tokenizer = Qwen3Tokenizer() if family == "z_image" else Qwen25_7BVLITokenizer()
    weights = dict(kind({}, torch.bfloat16, "meta", comfy.ops.disable_weight_init).state_dict())
    table = "model.embed_tokens.weight"
    width = weights[table].shape[1]
    own = directions_in(family, width)
    words: Changes = {
        table: lambda x: embed(tokenizer, " ", own, x.mul_(width**0.5))
    }  # as large as what the layers add up to
    write_weights(path, weights, words, QUIET_TEXT)


def write_autoencoder(path: Path, channels: int) -> None:
    """The tiny autoencoder for latents of so many channels."""
    weights = autoencoder(channels, 0.3)
    write_weights(path, weights, visible(weights), QUIET_AUTOENCODER)


def write_video_autoencoder(path: Path) -> None:
    """Wan's autoencoder, which is Qwen-Image's too, a sixth as wide: its loader reads the width from the file."""
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        wan = WanVAE(
            dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
        ).half()
    write_weights(path, wan.state_dict(), {}, QUIET_AUTOENCODER)


def autoencoder(channels: int, scale: float) -> dict[str, Tensor]:
    """The weights of the tiny autoencoder, without values but for its scale of latents."""
    from comfy.taesd.taesd import TAESD

    with torch.device("meta"):
        weights = {name: x.half() for name, x in TAESD(latent_channels=channels).state_dict().items()}
    return weights | {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(0.0)}


def visible(weights: Mapping[str, Tensor]) -> Changes:
    """Has the tiny autoencoder's pictures lie around grey, not around black, where half of them would be cut off."""
    name = [name for name in weights if re.search(r"taesd_decoder\.\d+\.bias$", name)][-1]
    return {name: lambda x: x.fill_(0.5)}


def directions_in(name: str, width: int) -> Tensor:
    """For each of OPPOSITES a direction [width] of signs, the same for the same name."""
    return torch.randint(0, 2, (len(OPPOSITES), width), generator=seeded(f"directions {name}")).float() * 2 - 1


def embed(tokenizer: Any, before: str, directions: Tensor, table: Tensor) -> None:
    """Puts the words' tokens into a table of embeddings; `before`: what a word begins with inside a text."""
    for words, direction in zip(OPPOSITES, directions, strict=True):
        for word, sign in zip(words, (-1, 1), strict=True):
            ends = {tokenizer.start_token, tokenizer.end_token}
            found = [one for one in tokenizer.tokenizer(before + word)["input_ids"] if one not in ends]
            if len(found) != 1:
                raise ValueError(f"Expected {word!r} to be one token, got {len(found)}.")
            table[found[0]] = sign * direction


def hear(directions: Tensor, tokens: int, values: Tensor) -> None:
    """Makes values [out, in] that are LOUD for a token along a direction [k, in], in the mean of so many tokens."""
    out = directions_in("values", values.shape[0])
    values.copy_(LOUD * tokens * out.T @ directions / directions.square().sum(1).mean())


def write_weights(path: Path, like: Mapping[str, Tensor], changes: Changes, quiet: str = "(?!)") -> None:
    """Random weights of these names, shapes and types, QUIET where `quiet` is found in the name; one at a time, since
    a file may be larger than what memory is left."""
    header, end = {}, 0
    for name, x in like.items():
        begin, end = end, end + x.numel() * x.element_size()
        header[name] = {"dtype": TYPES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name, x in like.items():
            weight = drawn(name, x)
            if re.search(quiet, name):
                weight *= QUIET
            if name in changes:
                changes[name](weight)
            file.write(weight.reshape(-1).view(torch.uint8).numpy().data)


def drawn(name: str, like: Tensor) -> Tensor:
    """A tensor by its name: norms that do nothing, the rest keeps its input's size; what has values keeps them."""
    if not like.is_meta:
        return like.contiguous().clone()
    x = torch.empty(like.shape, dtype=like.dtype)
    if x.ndim < 2 or name.endswith("gamma"):
        return x.fill_(float(name.endswith(("weight", "gamma"))))
    reach = (3 / prod(x.shape[1:])) ** 0.5
    return x.uniform_(-reach, reach, generator=seeded(name))


def seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(crc32(name.encode()))


def unet_model(
    kind: str, depths: tuple[int, ...], context: int, *, linear: bool = True, pooled: int | None = None
) -> BaseModel:
    """ComfyUI's model of the configuration `kind` in half precision, without weights.

    depths: transformer blocks of each level · linear: whether they project linearly, not by convolutions ·
    pooled: width of the pooled text states and picture sizes, where the denoiser reads them.
    """
    import comfy.supported_models

    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": WIDTH,
        "num_res_blocks": [2] * len(depths),
        "channel_mult": [1] * len(depths),
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_output": [depth for depth in depths for _ in range(3)],
        "transformer_depth_middle": depths[-1] or 1,
        "use_linear_in_transformer": linear,
        "context_dim": context,
        "adm_in_channels": pooled,
        "num_classes": "sequential" if pooled else None,
        "use_temporal_attention": False,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    settings = getattr(comfy.supported_models, kind)(config)
    settings.set_inference_dtype(torch.float16, None)
    return settings.get_model({}, device="meta")


MODELS = {
    "sd15": partial(unet_model, "SD15", (1, 1, 1, 0), 768, linear=False),
    "sd2": partial(unet_model, "SD20", (1, 1, 1, 0), 1024),
    "sdxl": partial(unet_model, "SDXL", (0, 2, 10), 2048, pooled=2816),
}
"""Family to what builds its narrow model."""
