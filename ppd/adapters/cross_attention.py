"""The cross-attention kind of user adapter: user embedding -> user tokens -> keys and values per cross-attention layer.

PPD's user conditioning (arXiv 2501.06655): decoupled cross-attention beside the one on the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..families import layers_of
from ..limits import whole
from ..messages import quoted
from .user_adapter import AdapterConfig, UserAdapter

MOST_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig(AdapterConfig):
    """layers: width of the queries of each cross-attention layer, in diffusers' order of attn_processors (down, up,
    mid)."""

    kind = "cross_attention"
    places = "cross-attention layers"

    layers: tuple[int, ...]
    tokens: int = 4
    token_dim: int = 64
    hidden: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "token_dim", "hidden"):
            whole(name, getattr(self, name))
        if not isinstance(self.layers, (list, tuple)) or not 0 < len(self.layers) <= MOST_LAYERS:
            raise ValueError(f"Expected the widths of 1 to {MOST_LAYERS} layers as layers, got {_got(self.layers)}.")
        object.__setattr__(self, "layers", tuple(whole("a layer's width", width) for width in self.layers))

    @property
    def count(self) -> int:
        return len(self.layers)

    def places_of(self, part: str) -> tuple[int, ...]:
        return tuple(range(self.count)) if part == "all" else layers_of(self.family, part)

    def check_layers(self, widths: Sequence[int]) -> None:
        """Refuse a denoiser whose cross-attention layers (query widths, in diffusers' order) are not the adapter's."""
        if tuple(widths) != self.layers:
            raise ValueError(
                f"This denoiser has {_layout(widths)}, but the user adapter is for the family {self.family!r} "
                f"with {_layout(self.layers)}: load a model of that family."
            )


class UserLayer(nn.Module):
    """Keys and values of the user tokens for one cross-attention layer."""

    def __init__(self, token_dim: int, inner: int) -> None:
        super().__init__()
        self.to_k_user = nn.Linear(token_dim, inner, bias=False)
        self.to_v_user = nn.Linear(token_dim, inner, bias=False)


class CrossAttentionAdapter(UserAdapter):
    """A projector makes user tokens of u, each layer keys and values of them."""

    config_class = CrossAttentionConfig
    config: CrossAttentionConfig
    groups = 1

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = nn.Sequential(
            nn.Linear(config.embedding_dim, config.hidden, bias=False),
            nn.SiLU(),
            nn.Linear(config.hidden, config.tokens * config.token_dim, bias=False),
        )
        self.layers = nn.ModuleList(UserLayer(config.token_dim, inner) for inner in config.layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start training at the base: values zero, all else random (projector and values both zero get no gradient).

        A user embedding of length 1 starts as tokens and keys of root mean square about 1: with weaker keys every query
        would attend to all tokens alike, and all tokens would learn the same.
        """
        first, second = self.projector.parameters()
        nn.init.normal_(first, std=1.0)
        nn.init.normal_(second, std=(0.36 * self.config.hidden) ** -0.5)  # .36 is the mean of SiLU(z)^2, z ~ N(0, 1)
        for layer in self._layers():
            nn.init.normal_(layer.to_k_user.weight, std=self.config.token_dim**-0.5)
            nn.init.zeros_(layer.to_v_user.weight)

    def first_layer(self) -> nn.Parameter:
        return next(self.projector.parameters())

    def last_layers(self) -> list[Tensor]:
        return [layer.to_v_user.weight for layer in self._layers()]

    def user_tokens(self, u: Tensor) -> Tensor:
        """User embedding [B, N, embedding_dim] -> user tokens [B, N * tokens, token_dim]."""
        self.check_user(u)
        return self.projector(u).unflatten(-1, (self.config.tokens, self.config.token_dim)).flatten(1, 2)

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, N * tokens, inner] of each layer, or of those numbered `layers`, for user embeddings
        u [B, N, embedding_dim]; `strength` scales the values."""
        tokens, own = self.user_tokens(u), self._layers()
        chosen = own if layers is None else [own[number] for number in layers]
        return [(layer.to_k_user(tokens), layer.to_v_user(tokens) * strength) for layer in chosen]

    def _layers(self) -> list[UserLayer]:
        return cast(list[UserLayer], list(self.layers))


def _got(layers: Any) -> str:
    return f"{len(layers)} of them" if isinstance(layers, (list, tuple)) else quoted(layers)


def _layout(widths: Sequence[int]) -> str:
    return f"{len(widths)} cross-attention layers of widths {', '.join(map(str, widths)) or 'none'}"
