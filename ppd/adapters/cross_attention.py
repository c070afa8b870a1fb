"""The user adapter: user embedding -> user tokens -> keys and values per cross-attention layer, and its file.

Nothing in it has a bias or a norm, so that u = 0 gives values of exactly zero and the effect vanishes continuously
towards it: the length of u is confidence.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..files import check_shapes, read_shapes, read_tensors, write_tensors
from ..limits import line, number, parsed, whole
from ..messages import quoted
from ..user_embedding import UserEmbedding

FORMAT = "ppd-user-adapter"
VERSION = "1"
UNCONDITIONAL_RULES = ("none", "same", "negative")
MOST_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter was made for; stored in its file's metadata.

    layers: width of the queries of each cross-attention layer, in diffusers' order of attn_processors (down, up, mid).
    start_percent, end_percent: part of the noise schedule in which the branch acts, as ComfyUI counts: timesteps
        (1 - end_percent) * 999 <= t <= (1 - start_percent) * 999.
    unconditional: what guidance's unconditional rows get: "none" (no user branch), "same" (the same user) or
        "negative" (the opposite taste's, -u).
    training: summary of the training, for people to read.
    """

    family: str
    encoder: str
    encoder_hash: str
    embedding_dim: int
    layers: tuple[int, ...]
    tokens: int = 4
    token_dim: int = 64
    hidden: int = 128
    start_percent: float = 0.0
    end_percent: float = 1.0
    unconditional: str = "none"
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("family", "encoder", "encoder_hash"):
            line(name, getattr(self, name))
        for name in ("embedding_dim", "tokens", "token_dim", "hidden"):
            whole(name, getattr(self, name))
        if not isinstance(self.layers, (list, tuple)) or not 0 < len(self.layers) <= MOST_LAYERS:
            raise ValueError(f"Expected the widths of 1 to {MOST_LAYERS} layers as layers, got {_got(self.layers)}.")
        object.__setattr__(self, "layers", tuple(whole("a layer's width", width) for width in self.layers))
        for name in ("start_percent", "end_percent"):
            number(name, getattr(self, name), 0, 1)
        if not isinstance(self.training, dict):
            raise ValueError(f"Expected names and values as training, got {quoted(self.training)}.")
        if self.unconditional not in UNCONDITIONAL_RULES:
            raise ValueError(
                f"unconditional is {quoted(self.unconditional)}: use one of {', '.join(UNCONDITIONAL_RULES)}."
            )
        if self.start_percent >= self.end_percent:
            raise ValueError(
                f"The active range is {self.start_percent} to {self.end_percent}: "
                "start_percent must be below end_percent."
            )

    @property
    def timesteps(self) -> tuple[float, float]:
        """Lowest and highest timestep (0 to 999) at which the branch acts."""
        return (1 - self.end_percent) * 999, (1 - self.start_percent) * 999

    def metadata(self) -> dict[str, str]:
        """The configuration as safetensors metadata: texts as they are, everything else as JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    def check_layers(self, widths: Sequence[int]) -> None:
        """Refuse a denoiser whose cross-attention layers (query widths, in diffusers' order) are not the adapter's."""
        if tuple(widths) != self.layers:
            raise ValueError(
                f"This denoiser has {_layout(widths)}, but the user adapter is for the family {self.family!r} "
                f"with {_layout(self.layers)}: load a model of that family."
            )

    def check_embedding(self, embedding: UserEmbedding) -> None:
        """Refuse a user embedding that another encoder made, saying which file is wrong and what would fit."""
        embedding.check_encoder(self.encoder, self.encoder_hash)
        if embedding.dim != self.embedding_dim:
            raise ValueError(
                f"The user embedding has {embedding.dim} dimensions, but the user adapter takes {self.embedding_dim}:"
                f" encode the preference pairs again with {quoted(self.encoder)} and its own prior."
            )

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> AdapterConfig:
        """The configuration that `metadata` wrote."""
        values: dict[str, Any] = {}
        for item in fields(cls):
            said = metadata[item.name]
            values[item.name] = said if item.type == "str" else parsed(item.name, said)
        return cls(**values)

    @classmethod
    def of_file(cls, path: Path) -> AdapterConfig | None:
        """What an adapter's file was made for, without its weights; None where it is no such file, or damaged."""
        try:
            _, metadata = read_shapes(path, "user adapter")
            is_ours = (metadata.get("format"), metadata.get("version")) == (FORMAT, VERSION)
            return cls.from_metadata(metadata) if is_ours else None
        except (KeyError, ValueError):  # loading it says what is wrong
            return None


class UserLayer(nn.Module):
    """Keys and values of the user tokens for one cross-attention layer."""

    def __init__(self, token_dim: int, inner: int) -> None:
        super().__init__()
        self.to_k_user = nn.Linear(token_dim, inner, bias=False)
        self.to_v_user = nn.Linear(token_dim, inner, bias=False)


class UserAdapter(nn.Module):
    """PPD's user conditioning (arXiv 2501.06655): a projector makes user tokens, each layer keys and values of them."""

    default_part = "all"
    max_strength = math.inf
    groups = 1

    def __init__(self, config: AdapterConfig) -> None:
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

    def user_tokens(self, u: Tensor) -> Tensor:
        """User embedding [B, N, embedding_dim] -> user tokens [B, N * tokens, token_dim]."""
        if u.ndim != 3 or u.shape[-1] != self.config.embedding_dim:
            raise ValueError(
                f"The user embedding has shape {list(u.shape)}, but this user adapter takes [B, N, "
                f"{self.config.embedding_dim}]: use an embedding made by the encoder {quoted(self.config.encoder)}."
            )
        return self.projector(u).unflatten(-1, (self.config.tokens, self.config.token_dim)).flatten(1, 2)

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, N * tokens, inner] of each layer, or of those numbered `layers`, for user embeddings
        u [B, N, embedding_dim]; `strength` scales the values."""
        tokens, own = self.user_tokens(u), self._layers()
        chosen = own if layers is None else [own[number] for number in layers]
        return [(layer.to_k_user(tokens), layer.to_v_user(tokens) * strength) for layer in chosen]

    def scaled(self, gain: float) -> UserAdapter:
        """A copy whose effect at strength 1 is this one's at strength `gain`."""
        adapter = copy.deepcopy(self)
        with torch.no_grad():
            for layer in adapter._layers():
                layer.to_v_user.weight.mul_(gain)
        return adapter

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the adapter as safetensors in one step, its weights in `dtype` (their own by default)."""
        tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in self.state_dict().items()}
        write_tensors(Path(path), FORMAT, VERSION, tensors, self.config.metadata())

    @classmethod
    def load(cls, path: str | Path, *, family: str | None = None) -> UserAdapter:
        """Read an adapter's file as float32; refuse any other file, and any family but `family` where one is given."""
        path = Path(path)
        names = tuple(item.name for item in fields(AdapterConfig))
        tensors, metadata = read_tensors(path, FORMAT, VERSION, (), names, "user adapter")
        try:
            config = AdapterConfig.from_metadata(metadata)
        except ValueError as error:
            raise ValueError(
                f"{path.name} has damaged user adapter metadata ({error}): download it or train it again."
            ) from error
        if family is not None and config.family != family:
            raise ValueError(
                f"{path.name} is a user adapter for the family {quoted(config.family)}, but the model's is "
                f"{family!r}: load a {quoted(config.family)} model, or an adapter for {family!r}."
            )
        with torch.device("meta"):
            adapter = cls(config)
        check_shapes(path.name, adapter.state_dict(), tensors)
        adapter.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        return adapter

    def _layers(self) -> list[UserLayer]:
        return cast(list[UserLayer], list(self.layers))


def _got(layers: Any) -> str:
    return f"{len(layers)} of them" if isinstance(layers, (list, tuple)) else quoted(layers)


def _layout(widths: Sequence[int]) -> str:
    return f"{len(widths)} cross-attention layers of widths {', '.join(map(str, widths)) or 'none'}"
