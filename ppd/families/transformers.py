"""Families of diffusion transformers: which of their Linear layers a low-rank branch adds to.

Names are those of ComfyUI's classes. Of the main blocks the projections around attention are taken, and the layers that
make modulation; never experts, nor down-projections, which fused kernels go around, nor what refines text or noise
before the main blocks. A layer that a variant lacks is left out: Flux.2's blocks share their modulation, SD3's last
block has no text output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Layers = tuple[str, ...]


@dataclass(frozen=True)
class Twin:
    """The same model in diffusers: its class, and what lists and layers are called where that differs. A layer fused in
    ComfyUI is several there, in the order of its outputs."""

    denoiser: str
    lists: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Layers] = field(default_factory=dict)


@dataclass(frozen=True)
class Transformer:
    """A family: how it is called, ComfyUI's class of its denoiser, the layers of each list of blocks, and those outside
    the blocks that make the modulation of all."""

    title: str
    denoiser: str
    blocks: Mapping[str, Layers]
    shared: Layers = ()
    twin: Twin | None = None


def _both(*layers: str) -> Layers:
    """Layers of the picture's stream and of the text's."""
    return tuple(f"{stream}_{layer}" for layer in layers for stream in ("img", "txt"))


_SINGLE = ("linear1", "linear2", "modulation.lin")
_FLUX = {"double_blocks": _both("attn.qkv", "attn.proj", "mod.lin"), "single_blocks": _SINGLE}
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_QWEN = (*_QKV, *_ADDED_QKV, "attn.to_out.0", "attn.to_add_out", *_both("mod.1"))
_LUMINA = ("attention.qkv", "attention.out", "adaLN_modulation.0", "adaLN_modulation.1")
_HIDREAM = tuple(f"block.attn1.to_{end}" for end in ("q", "k", "v", "out", "q_t", "k_t", "v_t", "out_t"))
_WAN = tuple(f"{kind}_attn.{end}" for kind in ("self", "cross") for end in "qkvo")
_COSMOS = tuple(f"{kind}_attn.{end}_proj" for kind in ("self", "cross") for end in ("q", "k", "v", "output"))
_SD3 = tuple(
    f"{stream}_block.{layer}"
    for stream in ("x", "context")
    for layer in ("attn.qkv", "attn.proj", "attn2.qkv", "attn2.proj", "adaLN_modulation.1")
)

TRANSFORMERS = {
    "flux": Transformer(
        "Flux",
        "Flux",
        _FLUX,
        shared=(
            "double_stream_modulation_img.lin",
            "double_stream_modulation_txt.lin",
            "single_stream_modulation.lin",
        ),
        twin=Twin(
            "FluxTransformer2DModel",
            {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"},
            {
                "img_attn.qkv": _QKV,
                "img_attn.proj": ("attn.to_out.0",),
                "txt_attn.qkv": _ADDED_QKV,
                "txt_attn.proj": ("attn.to_add_out",),
                "img_mod.lin": ("norm1.linear",),
                "txt_mod.lin": ("norm1_context.linear",),
                "linear1": (*_QKV, "proj_mlp"),
                "linear2": ("proj_out",),
                "modulation.lin": ("norm.linear",),
            },
        ),
    ),
    "chroma": Transformer("Chroma", "Chroma", _FLUX),
    "chroma_radiance": Transformer("Chroma Radiance", "ChromaRadiance", _FLUX),
    "hunyuan_image": Transformer("Hunyuan Image", "HunyuanVideo", _FLUX),
    "qwen_image": Transformer(
        "Qwen-Image",
        "QwenImageTransformer2DModel",
        {"transformer_blocks": _QWEN},
        twin=Twin("QwenImageTransformer2DModel"),
    ),
    "mage_flow": Transformer("Mage Flow", "MageFlowTransformer2DModel", {"transformer_blocks": _QWEN}),
    "z_image": Transformer(
        "Z-Image and Lumina 2",
        "NextDiT",
        {"layers": _LUMINA},
        twin=Twin(
            "ZImageTransformer2DModel",
            layers={
                "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
                "attention.out": ("attention.to_out.0",),
            },
        ),
    ),
    "krea2": Transformer(
        "Krea 2", "SingleStreamDiT", {"blocks": tuple(f"attn.w{end}" for end in "qkvo")}, shared=("tproj.1",)
    ),
    "anima": Transformer(
        "Anima",
        "Anima",
        {"blocks": (*_COSMOS, *(f"adaln_modulation_{part}.2" for part in ("self_attn", "cross_attn", "mlp")))},
    ),
    "cosmos": Transformer("Cosmos Predict 2", "MiniTrainDIT", {"blocks": _COSMOS}),
    "sd3": Transformer("SD3", "OpenAISignatureMMDITWrapper", {"joint_blocks": _SD3}),
    "wan": Transformer("Wan", "WanModel", {"blocks": _WAN}, shared=("time_projection.1",)),
    "hidream": Transformer(
        "HiDream",
        "HiDreamImageTransformer2DModel",
        {
            "double_stream_blocks": (*_HIDREAM, "block.adaLN_modulation.1"),
            "single_stream_blocks": (*_HIDREAM, "block.adaLN_modulation.1"),
        },
    ),
    "ideogram4": Transformer(
        "Ideogram 4",
        "Ideogram4Transformer2DModel",
        {"layers": ("attention.qkv", "attention.o", "adaln_modulation")},
    ),
    "lens": Transformer(
        "Lens",
        "LensTransformer2DModel",
        {
            "transformer_blocks": (
                "attn.img_qkv",
                "attn.txt_qkv",
                "attn.to_out.0",
                "attn.to_add_out",
                *_both("mod.1"),
            )
        },
    ),
    "ernie": Transformer(
        "Ernie Image",
        "ErnieImageModel",
        {"layers": tuple(f"self_attention.to_{end}" for end in ("q", "k", "v", "out.0"))},
        shared=("adaLN_modulation.1",),
    ),
}
"""Families by their names in adapters' files."""

BY_DENOISER = {row.denoiser: name for name, row in TRANSFORMERS.items()}
"""Names of families by ComfyUI's classes of their denoisers."""
