"""What every kind of user adapter has in common: what it was made for, and its file.

A user adapter turns a user embedding u into a change of the denoiser. Nothing in it has a bias or a norm, so that u = 0
changes nothing at all and the effect vanishes continuously towards it: the length of u is confidence.
"""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..files import check_shapes, read_shapes, read_tensors, write_tensors
from ..limits import line, number, parsed, whole
from ..messages import quoted
from ..user_embedding import UserEmbedding

FORMAT = "ppd-user-adapter"
VERSION = "1"
UNCONDITIONAL_RULES = ("none", "same", "negative")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(ABC):
    """What an adapter was made for; stored in its file's metadata.

    family: a name of families.FAMILIES, or of ComfyUI's class of denoiser where there is no row for it.
    start_percent, end_percent: part of the noise schedule in which the branch acts, as ComfyUI counts.
    unconditional: what guidance's unconditional rows get: "none" (no user branch), "same" (the same user) or
        "negative" (the opposite taste's, -u).
    training: summary of the training, for people to read.
    """

    kind: ClassVar[str]
    """Name of the kind of adapter in files."""
    places: ClassVar[str]
    """What the places in a denoiser are called at which this kind acts."""

    family: str
    encoder: str
    encoder_hash: str
    embedding_dim: int
    start_percent: float = 0.0
    end_percent: float = 1.0
    unconditional: str = "none"
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("family", "encoder", "encoder_hash"):
            line(name, getattr(self, name))
        whole("embedding_dim", self.embedding_dim)
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
    @abstractmethod
    def count(self) -> int:
        """At how many places in the denoiser the adapter acts."""

    @abstractmethod
    def places_of(self, part: str) -> tuple[int, ...]:
        """Numbers of the places that `part` (families.PARTS, but for the default) names."""

    @property
    def timesteps(self) -> tuple[float, float]:
        """Lowest and highest timestep (0 to 999) at which the branch acts, where noise is counted in timesteps."""
        return (1 - self.end_percent) * 999, (1 - self.start_percent) * 999

    def metadata(self) -> dict[str, str]:
        """The configuration as safetensors metadata: texts as they are, everything else as JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return {"kind": self.kind, **texts}

    def check_embedding(self, embedding: UserEmbedding) -> None:
        """Refuse a user embedding that another encoder made, saying which file is wrong and what would fit."""
        embedding.check_encoder(self.encoder, self.encoder_hash)
        if embedding.dim != self.embedding_dim:
            raise ValueError(
                f"The user embedding has {embedding.dim} dimensions, but the user adapter takes {self.embedding_dim}:"
                f" encode the preference pairs again with {quoted(self.encoder)} and its own prior."
            )

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Self:
        """The configuration that `metadata` wrote."""
        values: dict[str, Any] = {}
        for item in fields(cls):
            said = metadata[item.name]
            values[item.name] = said if item.type == "str" else parsed(item.name, said)
        return cls(**values)


class UserAdapter(nn.Module, ABC):
    """A kind of adapter: `config` says what it was made for, `kinds` has all kinds by their names in files."""

    default_part = "all"
    max_strength = math.inf
    config_class: ClassVar[type[AdapterConfig]]
    kinds: ClassVar[dict[str, type[UserAdapter]]] = {}
    config: AdapterConfig

    def __init_subclass__(cls) -> None:
        cls.kinds[cls.config_class.kind] = cls

    @abstractmethod
    def reset_parameters(self) -> None:
        """Start training at the base."""

    def start_at(self, spread: Tensor) -> None:
        """Expect u whose coordinates have the standard deviations `spread` [d]: at the start they count alike."""
        with torch.no_grad():
            self.first_layer().div_(spread * len(spread) ** 0.5)

    @abstractmethod
    def first_layer(self) -> nn.Parameter:
        """The weights [..., d] that u meets first."""

    @abstractmethod
    def last_layers(self) -> Sequence[Tensor]:
        """The weights in which the effect is linear."""

    def scaled(self, gain: float) -> Self:
        """A copy whose effect at strength 1 is this one's at strength `gain`."""
        adapter = copy.deepcopy(self)
        with torch.no_grad():
            for weight in adapter.last_layers():
                weight.mul_(gain)
        return adapter

    def check_user(self, u: Tensor) -> None:
        """Refuse what is no user embedding [B, N, embedding_dim]."""
        if u.ndim != 3 or u.shape[-1] != self.config.embedding_dim:
            raise ValueError(
                f"The user embedding has shape {list(u.shape)}, but this user adapter takes [B, N, "
                f"{self.config.embedding_dim}]: use an embedding made by the encoder {quoted(self.config.encoder)}."
            )

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the adapter as safetensors in one step, its weights in `dtype` (their own by default)."""
        tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in self.state_dict().items()}
        write_tensors(Path(path), FORMAT, VERSION, tensors, self.config.metadata())

    @classmethod
    def load(cls, path: str | Path, *, family: str | None = None, dtype: torch.dtype | None = torch.float32) -> Self:
        """Read an adapter's file in `dtype`, by default float32, or with None as it is; refuse any other file, another
        kind than `cls` where that is one, and any family but `family` where one is given."""
        path = Path(path)
        tensors, metadata = read_tensors(path, FORMAT, VERSION, (), (), "user adapter")
        kind = _kind(metadata)
        if kind is None or not issubclass(kind, cls):
            expected = [name for name, known in cls.kinds.items() if issubclass(known, cls)]
            raise ValueError(
                f"{path.name} is a user adapter of the kind {quoted(metadata.get('kind'))}, expected "
                f"{' or '.join(expected)}: update this software, or load another adapter."
            )
        missing = [item.name for item in fields(kind.config_class) if item.name not in metadata]
        if missing:
            raise ValueError(
                f"{path.name} is an incomplete user adapter, it lacks {', '.join(missing)}: make the file again."
            )
        try:
            config = kind.config_class.from_metadata(metadata)
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
            adapter = kind(config)
        check_shapes(path.name, adapter.state_dict(), tensors)
        adapter.load_state_dict(
            {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}, assign=True
        )
        return adapter


def config_of(path: Path) -> AdapterConfig | None:
    """What an adapter's file was made for, without its weights; None where it is no such file, or damaged."""
    try:
        _, metadata = read_shapes(path, "user adapter")
        kind = _kind(metadata)
        is_ours = (metadata.get("format"), metadata.get("version")) == (FORMAT, VERSION)
        return kind.config_class.from_metadata(metadata) if is_ours and kind else None
    except (KeyError, ValueError):  # loading it says what is wrong
        return None


def _kind(metadata: dict[str, str]) -> type[UserAdapter] | None:
    """Of a file; the first adapters had one kind only, and named none."""
    return UserAdapter.kinds.get(metadata.get("kind", "cross_attention"))
