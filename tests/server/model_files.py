"""Model files of random weights for the stock loaders, each family at the narrowest that they still recognise.

ComfyUI tells a family by a width of 320, the depths of its transformers and the width of its context. With all of the
layers that adapters count, SD1.5 and SD2 have 111 million weights at that width, SDXL 283 million. The state dicts are
those of ComfyUI's own classes, laid out by what its Save Checkpoint uses, which is the published layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.random_models import MODELS, WIDTH
from ppd.adapters import AdapterConfig, CrossAttentionAdapter, CrossAttentionConfig
from ppd.families import FAMILIES
from ppd.user_embedding import UserEmbedding

if find_spec("comfy"):
    import comfy.clip_vision
    import comfy.ops
    from comfy.ldm.cascade.stage_c import StageC
    from comfy.taesd.taesd import TAESD

TOKENS, POOLED = 77, 1280
"""Of text states."""
ENCODER, ENCODER_HASH = "some-clip", "0" * 64


def widths(family: str) -> list[int]:
    """The widths of a narrow denoiser's cross-attention layers."""
    return [WIDTH] * FAMILIES[family].count


def write_checkpoint(path: Path, family: str, *, text_encoder: bool) -> None:
    """A checkpoint: denoiser, tiny autoencoder and, where asked for, the text encoder, which has one size only."""
    model = MODELS[family]()
    with torch.device("meta"):
        autoencoder = {name: x for name, x in TAESD().state_dict().items() if x.ndim}
        text = None
        if text_encoder:
            text = model.model_config.clip_target({}).clip(device="meta", dtype=torch.float16).state_dict()
    parts = model.state_dict_for_saving(model.diffusion_model.state_dict(), text, autoencoder)
    write_random(path, parts)


def write_stage_c(path: Path) -> list[int]:
    """Stable Cascade's Stage C lite, the smaller of the two sizes that the loader knows: a billion weights; the widths
    of its layers."""
    config = {"stable_cascade_stage": "c", "c_cond": 1536, "c_hidden": [1536] * 2, "nhead": [24] * 2}
    config["blocks"] = [[4, 12], [12, 4]]
    with torch.device("meta"):
        weights = StageC(**config, operations=comfy.ops.disable_weight_init).state_dict()
    write_random(path, weights)
    return [1536] * 32


def write_clip_vision(path: Path) -> None:
    """CLIP-ViT-H-14 at its full size, since the loader knows no smaller one by its layers."""
    settings = Path(comfy.clip_vision.__file__).with_name("clip_vision_config_h.json")
    write_random(path, comfy.clip_vision.ClipVisionModel(settings).get_sd())


def write_random(path: Path, like: dict[str, Tensor]) -> None:
    """Tensors of these names and shapes, in half precision: norms that do nothing, the rest keeps its input's size."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, shape: Iterable[int]) -> Tensor:
        x = torch.empty(tuple(shape), dtype=torch.float16)
        if x.ndim < 2:
            return x.fill_(float(name.endswith("weight")))
        reach = (3 / prod(x.shape[1:])) ** 0.5
        return x.uniform_(-reach, reach, generator=generator)

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: draw(name, x.shape) for name, x in like.items()}, path)


def write_text_states(datasets: Path, family: str, width: int | None = None) -> dict[str, str]:
    """Stored text states, as Save Training Dataset writes them, where the text encoder is too large; their folders."""
    names = {}
    for seed, side in enumerate(("positive", "negative")):
        generator = torch.Generator().manual_seed(seed)
        states = torch.randn(1, TOKENS, width or FAMILIES[family].context_dim, generator=generator)
        pooled = {"pooled_output": torch.randn(1, POOLED, generator=generator)}
        data = {"latents": [{"samples": torch.zeros(1, 4, 8, 8)}], "conditioning": [[[states, pooled]]]}
        names[side] = f"{family} {side}"
        folder = datasets / names[side]
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(data, folder / "shard_0000.pkl")
        (folder / "metadata.json").write_text(json.dumps({"num_samples": 1, "num_shards": 1, "shard_size": 1}))
    return names


def write_user_adapter(path: Path, family: str, layers: list[int] | None = None) -> AdapterConfig:
    """A user adapter that is not at its start: its values are random instead of zero."""
    config = CrossAttentionConfig(
        family=family,
        encoder=ENCODER,
        encoder_hash=ENCODER_HASH,
        embedding_dim=6,
        layers=tuple(layers or widths(family)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = CrossAttentionAdapter(config)
        for layer in adapter.layers:
            nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.3)
    adapter.save(path)
    return config


def write_person(path: Path, config: AdapterConfig, seed: int = 0) -> None:
    """A user embedding that an adapter takes."""
    u = torch.randn(1, config.embedding_dim, generator=torch.Generator().manual_seed(seed))
    UserEmbedding(u, config.encoder, config.encoder_hash, 4, "2026-01-01").save(path)
