"""Published IP-Adapter weights (arXiv 2308.06721) as user adapters: taste on day one, before any is trained.

Their user embedding is made of the person's own pictures (encoders/image_prompt.py). Unlike our adapters', their
projectors have biases and end in a norm: confidence cannot live in the length of u, and u = 0 is no base. So a person
is a centre and a displacement, conditional rows get the one side and unconditional rows the other, and strength says
how far apart they lie.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import AdapterConfig, UserAdapter
from .families import FAMILIES
from .files import read_tensors
from .user_embedding import UserEmbedding

IMAGE_WIDTH, STATE_WIDTH = 1024, 1280
"""Widths of ViT-H-14's image_embeds, and of its patch states."""

PLAIN_TOKENS = 4
HEAD_WIDTH = 64
FARTHEST = 2.0
"""Strengths above it displace no farther."""


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


class IPAdapter(UserAdapter):
    """An IP-Adapter as a user adapter. In the plain kind the projector turns u [B, 1, 1024] into tokens; in the plus
    kind u [B, 16, token_dim] is tokens already, since `projector` is for one picture's patch states."""

    default_part = "style only"  # its other layers copy what the pictures show
    farthest = FARTHEST

    def __init__(self, config: AdapterConfig, projector: ImageProjection | Resampler) -> None:
        super().__init__(config)
        self.projector: ImageProjection | Resampler = projector  # type: ignore[assignment]

    @property
    def is_plus(self) -> bool:
        """Whether it reads pictures' patch states instead of their image_embeds."""
        return isinstance(self.projector, Resampler)

    @property
    def tokens_per_picture(self) -> int:
        """User tokens, whatever their number of embeddings."""
        return self.projector.latents.shape[1] if isinstance(self.projector, Resampler) else PLAIN_TOKENS

    def user_tokens(self, u: Tensor) -> Tensor:
        """u and u_negative [B, N, embedding_dim] -> user tokens [B, tokens, token_dim]."""
        return u if self.is_plus else self.projector(u).flatten(1, 2)

    def check_embedding(self, embedding: UserEmbedding) -> None:
        """Refuse embeddings of other encoders, and those without an unconditional side."""
        if embedding.encoder_hash != self.config.encoder_hash:
            raise ValueError(
                f"The user embedding was made by {embedding.encoder}, but this IP-Adapter takes {self.config.encoder}: "
                "connect the same Load User Adapter to Encode User Embedding (encoder 'image adapter') and here."
            )
        super().check_embedding(embedding)
        if embedding.u_negative is None and not embedding.is_null:
            raise ValueError(
                "The user embedding has no u_negative, which an IP-Adapter needs: encode the preference pairs again "
                "with this adapter."
            )

    def sides(self, u: Tensor, u_negative: Tensor, strength: float) -> tuple[list[Tensor], float]:
        """u and u_negative moved from their middle to `strength` times their distance, at most twice.

        Below 1 the tokens' values shrink as well, so that the effect vanishes continuously towards strength 0.
        """
        center, half = (u + u_negative) / 2, (u - u_negative) / 2
        reach = min(strength, self.farthest)
        return [center + reach * half, center - reach * half], min(strength, 1.0)


def load_ip_adapter(path: Path | str) -> IPAdapter:
    """Read a published IP-Adapter file for ViT-H-14 (`ip-adapter_sd15`, `_plus_sd15`, `_sdxl_vit-h`,
    `_plus_sdxl_vit-h` and what shares their layouts) in its own precision."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not safetensors, and other files can run code when they are read: download the "
            ".safetensors file, or where you trust it convert it: torch.load, flatten its two dictionaries to names "
            "image_proj.* and ip_adapter.*, safetensors.torch.save_file."
        )
    tensors, _ = read_tensors(path, None, "", (), (), "IP-Adapter")
    image = {name.removeprefix("image_proj."): x for name, x in tensors.items() if name.startswith("image_proj.")}
    layers = _layers(tensors)
    if not image or not layers or len(image) + 2 * len(layers) != len(tensors):
        raise ValueError(
            f"{path.name} is neither a user adapter nor an IP-Adapter: expected the tensors image_proj.* and "
            "ip_adapter.* of the latter, and no others."
        )
    token_dim = layers[0][0].shape[1]
    families = [
        name for name, known in FAMILIES.items() if (known.count, known.context_dim) == (len(layers), token_dim)
    ]
    if not families:
        raise ValueError(
            f"{path.name} is an IP-Adapter of {len(layers)} layers for a context of {token_dim}: this version runs "
            "those of SD1.5 (16 layers, 768) and SDXL (70 layers, 2048)."
        )
    projector = _projector(path.name, image, token_dim)
    plus = isinstance(projector, Resampler)
    digest = hashlib.sha256(b"".join(x.half().contiguous().numpy().tobytes() for _, x in sorted(image.items())))
    config = AdapterConfig(
        family=families[0],
        encoder="ViT-H-14 tokens" if plus else "ViT-H-14 image_embeds",
        # image_embeds are the same for every plain adapter; tokens belong to the resampler that made them
        encoder_hash=digest.hexdigest() if plus else hashlib.sha256(b"ViT-H-14 image_embeds").hexdigest(),
        embedding_dim=token_dim if plus else IMAGE_WIDTH,
        layers=tuple(k.shape[0] for k, _ in layers),
        tokens=1 if plus else PLAIN_TOKENS,
        token_dim=token_dim,
        unconditional="negative",
    )
    with torch.device("meta"):
        adapter = IPAdapter(config, projector)
    weights = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    for number, (k, v) in enumerate(layers):
        weights |= {f"layers.{number}.to_k_user.weight": k, f"layers.{number}.to_v_user.weight": v}
    adapter.load_state_dict(weights, assign=True)
    return adapter.requires_grad_(False)


def _layers(tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """to_k_ip and to_v_ip [inner, token_dim] in the file's order, which is that of diffusers' attn_processors."""
    numbers = sorted({int(n) for name in tensors for n in re.findall(r"^ip_adapter\.(\d+)\.to_k_ip\.weight$", name)})
    names = [tuple(f"ip_adapter.{number}.to_{which}_ip.weight" for which in "kv") for number in numbers]
    return [(tensors[k], tensors[v]) for k, v in names if v in tensors]


def _projector(name: str, image: dict[str, Tensor], token_dim: int) -> ImageProjection | Resampler:
    """The image projector with its weights; other layouts are refused."""
    kind: ImageProjection | Resampler | None = None
    with torch.device("meta"):
        if "proj.weight" in image:
            kind = ImageProjection(image["proj.weight"].shape[1], PLAIN_TOKENS, token_dim)
        elif image.keys() >= {"latents", "layers.0.0.to_q.weight", "layers.0.1.1.weight"}:
            depth = 1 + max(int(key.split(".")[1]) for key in image if key.startswith("layers."))
            heads = image["layers.0.0.to_q.weight"].shape[0] // HEAD_WIDTH
            _, tokens, width = image["latents"].shape
            kind = Resampler(width, token_dim, tokens, heads, depth, image["layers.0.1.1.weight"].shape[0])
    expected = {} if kind is None else {key: tuple(value.shape) for key, value in kind.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in image.items()}
    width = found.get("proj.weight", found.get("proj_in.weight", (0, 0)))[1]
    if kind is None or expected != found or width != (IMAGE_WIDTH if "proj.weight" in found else STATE_WIDTH):
        raise ValueError(
            f"{name} is an IP-Adapter of another kind (its image projector reads {width or 'other'} features): use a "
            "plain or a plus one for ViT-H-14, such as ip-adapter_sd15 or ip-adapter-plus_sdxl_vit-h."
        )
    kind.load_state_dict(image, assign=True)
    return kind
