"""Published IP-Adapter weights (arXiv 2308.06721) as adapters of the user embedding: taste without any training.

Exponential tilting p(x|u) ~ p(x) exp(u . phi(x)) moves the mean of any picture features y by Cov(y, phi) u, to first
order. So an IP-Adapter's image prompt is the mean picture moved by that. These projectors have biases and end in a
norm, so they are not zero at u = 0: what they make of the mean picture itself is subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..families import FAMILIES
from ..files import check_shapes, read_shapes, read_tensors
from .cross_attention import CrossAttentionConfig, UserLayer

Value = TypeVar("Value")

IMAGE_WIDTH, STATE_WIDTH = 1024, 1280
"""Widths of ViT-H-14's image_embeds, and of its patch states."""
VIT_G = ((1280,), ()), ((), (1664,))
"""The same of ViT-bigG-14, as an IP-Adapter's plain or plus projector takes one of them."""
FLUX_CONTEXT = 4096
"""Width of Flux's text states."""

PLAIN_TOKENS = 4
HEAD_WIDTH = 64
MAX_STRENGTH = 2.0
RULE = "negative"
"""Unconditional rows are shown the opposite taste, so that guidance runs from one to the other."""


class ImageProjection(nn.Module):
    """IP-Adapter's projector: image_embeds [..., 1024] to tokens [..., 4, token_dim]."""

    def __init__(self, width: int, tokens: int, token_dim: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(width, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).unflatten(-1, (self.tokens, -1)))


class PerceiverAttention(nn.Module):
    """Latents [B, T, C] attend to states [B, S, C] and to themselves (Flamingo's resampler, arXiv 2204.14198)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * HEAD_WIDTH, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)

    def forward(self, states: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        q, (k, v) = self.to_q(latents), self.to_kv(torch.cat([self.norm1(states), latents], 1)).chunk(2, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """IP-Adapter Plus's projector: patch states [n, S, 1280] of pictures to tokens [n, 16, token_dim]."""

    def __init__(self, width: int, token_dim: int, tokens: int, heads: int, depth: int, inner: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, tokens, width))
        self.proj_in, self.proj_out = nn.Linear(STATE_WIDTH, width), nn.Linear(width, token_dim)
        self.norm_out = nn.LayerNorm(token_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, heads), _feed_forward(width, inner)]) for _ in range(depth)
        )

    def forward(self, states: Tensor) -> Tensor:
        states = self.proj_in(states)
        latents = self.latents.to(states).expand(len(states), -1, -1)
        for attention, feed_forward in cast(list[tuple[nn.Module, nn.Module]], self.layers):
            latents = attention(states, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


def _feed_forward(width: int, inner: int) -> nn.Sequential:
    first, second = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
    return nn.Sequential(nn.LayerNorm(width), first, nn.GELU(), second)


class IPAdapter(nn.Module):
    """An IP-Adapter as its file has it: `projector` makes tokens [n, T, token_dim] of what it sees in pictures (rows
    [n, 1024] of image_embeds, or in the plus kind patch states [n, S, 1280]), `layers` keys and values of them."""

    def __init__(self, family: str, projector: ImageProjection | Resampler, widths: Sequence[int]) -> None:
        super().__init__()
        self.family = family
        self.projector = projector
        last = projector.norm if isinstance(projector, ImageProjection) else projector.norm_out
        self.token_dim = last.normalized_shape[0]
        self.layers = nn.ModuleList(UserLayer(self.token_dim, width) for width in widths)

    @property
    def is_plus(self) -> bool:
        """Whether it reads pictures' patch states instead of their image_embeds."""
        return isinstance(self.projector, Resampler)

    @property
    def seen_shape(self) -> tuple[int, int]:
        """Shape [N, width] of what is averaged over pictures: the image_embeds, or in the plus kind the tokens."""
        if isinstance(self.projector, Resampler):
            return self.projector.latents.shape[1], self.token_dim
        return 1, self.projector.proj.in_features


class TasteIPAdapter(nn.Module):
    """An IP-Adapter as an adapter of u [B, 1, d], the coordinates of one taste encoder.

    `center` [N, width] is what it sees in the mean picture (`IPAdapter.seen_shape`), `directions` [d, N, width] how
    that moves with u: the covariance of phi with it. `start` [N, width] is what is moved: the center by default, or the
    mean of somebody's own pictures. The modules of `published` become this adapter's.
    """

    default_part = "style only"  # its other layers copy what the pictures show
    max_strength = MAX_STRENGTH
    groups = 2
    center: Tensor
    start: Tensor
    directions: Tensor

    def __init__(
        self,
        published: IPAdapter,
        encoder: str,
        encoder_hash: str,
        center: Tensor,
        directions: Tensor,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        shape = published.seen_shape
        start = center if start is None else start
        if (center.shape, start.shape, directions.shape[1:]) != (shape, shape, shape):
            raise ValueError(
                f"This IP-Adapter takes features of shape {list(shape)}, got a center of {list(center.shape)}, a start "
                f"of {list(start.shape)} and directions of {list(directions.shape)}: fit them to this adapter."
            )
        self.config = CrossAttentionConfig(
            family=published.family,
            encoder=encoder,
            encoder_hash=encoder_hash,
            embedding_dim=len(directions),
            layers=tuple(layer.to_k_user.out_features for layer in cast(list[UserLayer], published.layers)),
            tokens=shape[0] if published.is_plus else PLAIN_TOKENS,
            token_dim=published.token_dim,
            unconditional=RULE,
        )
        self.projector = nn.Identity() if published.is_plus else published.projector
        self.layers = published.layers
        for name, tensor in (("center", center), ("start", start), ("directions", directions)):
            self.register_buffer(name, tensor.detach().float())

    def user_tokens(self, u: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, token_dim] that u [B, 1, d] is shown as, and [1, T, token_dim] those of the mean picture."""
        if u.ndim != 3 or u.shape[1:] != (1, self.config.embedding_dim):
            raise ValueError(
                f"The user embedding has shape {list(u.shape)}, but this user adapter takes [B, 1, "
                f"{self.config.embedding_dim}]: use an embedding made by the encoder {self.config.encoder!r}."
            )
        center, start, directions = (x.to(u) for x in (self.center, self.start, self.directions))
        moved = torch.lerp(center, start, min(strength, 1.0))
        moved = moved + strength * torch.einsum("bd,dnw->bnw", u[:, 0], directions)
        return self._tokens(moved), self._tokens(center[None])

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, 2 T, inner] of the layers: those of the moved picture, and of the mean one subtracted."""
        moved, center = self.user_tokens(u, strength)
        tokens = torch.cat([moved, center.expand_as(moved)], 1)
        sign = torch.ones_like(tokens[:1, :, :1])
        sign[:, moved.shape[1] :] = -1
        own = cast(list[UserLayer], list(self.layers))
        chosen = own if layers is None else [own[number] for number in layers]
        return [(layer.to_k_user(tokens), layer.to_v_user(tokens) * sign) for layer in chosen]

    def _tokens(self, seen: Tensor) -> Tensor:
        return seen if isinstance(self.projector, nn.Identity) else self.projector(seen).flatten(1, 2)


def load_ip_adapter(path: Path | str) -> IPAdapter:
    """Read a published IP-Adapter file for ViT-H-14 (`ip-adapter_sd15`, `_plus_sd15`, `_sdxl_vit-h`,
    `_plus_sdxl_vit-h` and what shares their layouts) in its own precision."""
    path = Path(path)
    if path.suffix != ".safetensors":
        if "faceid" in path.name.lower():
            raise ValueError(f"{path.name} is {_FACE_ID}")
        raise ValueError(
            f"{path.name} is not safetensors, and other files can run code when they are read: download the "
            ".safetensors file, or where you trust it convert it: torch.load, flatten its two dictionaries to names "
            "image_proj.* and ip_adapter.*, safetensors.torch.save_file."
        )
    shapes, _ = read_shapes(path, "IP-Adapter")
    if other := _other_kind(shapes):
        raise ValueError(f"{path.name} is {other}")
    image = {name.removeprefix("image_proj."): x for name, x in shapes.items() if name.startswith("image_proj.")}
    layers = _layers(shapes)
    if not image or not layers or len(image) + 2 * len(layers) != len(shapes):
        raise ValueError(
            f"{path.name} is no IP-Adapter: expected the tensors image_proj.* and ip_adapter.*, and no others."
        )
    family = _family(layers)
    if family is None:
        raise ValueError(
            f"{path.name} is an IP-Adapter of {len(layers)} layers, the first of shape {list(layers[0][0])}: this "
            "version runs those of SD1.5 (16 layers, for a context of 768) and SDXL (70 layers, 2048)."
        )
    with torch.device("meta"):
        projector = _projector(path.name, image, FAMILIES[family].context_dim)
        adapter = IPAdapter(family, projector, [k[0] for k, _ in layers])
    tensors, _ = read_tensors(path, None, "", (), (), "IP-Adapter")
    weights = {f"projector.{name}": tensors[f"image_proj.{name}"] for name in image}
    for number, (k, v) in enumerate(_layers(tensors)):
        weights |= {f"layers.{number}.to_k_user.weight": k, f"layers.{number}.to_v_user.weight": v}
    check_shapes(path.name, adapter.state_dict(), weights)
    adapter.load_state_dict(weights, assign=True)
    return adapter.requires_grad_(False)


_USE = "use a plain or a plus one for ViT-H, such as ip-adapter_sd15 or ip-adapter-plus_sdxl_vit-h."
_FACE_ID = f"an IP-Adapter FaceID, which is shown whose face it is, and that tells nothing of taste: {_USE}"
_FACE_ID_NAME = re.compile(r"image_proj\.(proj\.0|perceiver_resampler)\.|ip_adapter\.[0-9]+\.to_\w+_lora\.")
_FLUX = "for Flux, and by IP-Adapters taste reaches SD1.5 and SDXL only: use one of theirs with such a model."


def _other_kind(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What an IP-Adapter is that this version does not run, and what to use instead, told by its tensors; else None."""
    if any("ip_adapter_double_stream" in name for name in shapes):
        return f"XLabs' IP-Adapter {_FLUX}"
    if "image_proj.proj.3.weight" in shapes:
        return f"an IP-Adapter full face, which is shown faces, and these tell little of taste: {_USE}"
    if "image_proj.proj.0.weight" in shapes and shapes.get("ip_adapter.0.to_k_ip.weight", ())[1:] == (FLUX_CONTEXT,):
        return f"InstantX's IP-Adapter {_FLUX}"
    if any(_FACE_ID_NAME.match(name) for name in shapes):
        return _FACE_ID
    if (shapes.get("image_proj.proj.weight", ())[1:], shapes.get("image_proj.proj_in.weight", ())[1:]) in VIT_G:
        return f"an IP-Adapter for pictures seen by ViT-bigG, and this version's image encoder is ViT-H: {_USE}"
    return None


class Layout(NamedTuple):
    """What the shapes in an IP-Adapter's file tell: its family, the widths of its layers, whether it is a plus one."""

    family: str
    widths: tuple[int, ...]
    is_plus: bool


def layout_of(path: Path) -> Layout | None:
    """The layout of an IP-Adapter's file for ViT-H-14, without its weights; None for any other file."""
    try:
        shapes, _ = read_shapes(path, "IP-Adapter")
    except ValueError:
        return None
    layers = _layers(shapes)
    plain, plus = (shapes.get(f"image_proj.{name}.weight", ())[1:] for name in ("proj", "proj_in"))
    family = _family(layers)
    if family is None or (plain, plus) not in (((IMAGE_WIDTH,), ()), ((), (STATE_WIDTH,))):
        return None
    return Layout(family, tuple(k[0] for k, _ in layers), not plain)


def _family(layers: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str | None:
    """The family that has so many layers, with keys of shape [inner, its width of context]."""
    fits = (
        name
        for name, known in FAMILIES.items()
        if known.count == len(layers) and all(k[1:] == (known.context_dim,) for k, _ in layers)
    )
    return next(fits, None)


def _layers(tensors: Mapping[str, Value]) -> list[tuple[Value, Value]]:
    """to_k_ip and to_v_ip [inner, token_dim] in the file's order, which is that of diffusers' attn_processors."""
    found = (re.fullmatch(r"ip_adapter\.([0-9]{1,4})\.to_k_ip\.weight", name) for name in tensors)
    names = sorted((int(match[1]), match[0]) for match in found if match)
    pairs = [(name, name.replace("to_k_ip", "to_v_ip")) for _, name in names]
    return [(tensors[k], tensors[v]) for k, v in pairs if v in tensors]


def _projector(name: str, image: Mapping[str, tuple[int, ...]], token_dim: int) -> ImageProjection | Resampler:
    """The image projector for weights of such shapes; other layouts are refused."""
    keys = ("proj.weight", "proj_in.weight", "latents", "layers.0.0.to_q.weight", "layers.0.1.1.weight")
    match [image.get(key) for key in keys]:
        case [(_, seen), None, None, None, None] if seen == IMAGE_WIDTH:
            return ImageProjection(IMAGE_WIDTH, PLAIN_TOKENS, token_dim)
        case [None, (_, seen), (_, tokens, width), (inner, _), (hidden, _)] if seen == STATE_WIDTH:
            depth = 1 + max(int(n) for key in image for n in re.findall(r"^layers\.([0-9]{1,2})\.", key))
            return Resampler(width, token_dim, tokens, inner // HEAD_WIDTH, depth, hidden)
    reads = [str(image[key][1]) for key in keys[:2] if len(image.get(key, ())) > 1]
    raise ValueError(
        f"{name} is an IP-Adapter of another kind (its image projector reads {(reads or ['other'])[0]} features): use "
        "a plain or a plus one for ViT-H-14, such as ip-adapter_sd15 or ip-adapter-plus_sdxl_vit-h."
    )
