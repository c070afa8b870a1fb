"""Text probes: what has been learned of a person, in words, from a contrastive encoder's text side.

A text encoder that shares its space with the picture features turns two words into a direction: the mean over many
captions of text(caption + high word) - text(caption + low word) (prompt ensembling: Radford et al. 2021, 3.1.4).
Pictures that the high word fits better lie further along it. The text side is needed once, to make the directions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import read_tensors, write_tensors
from .population import PopulationPrior

FORMAT = "ppd-attribute-probes"
VERSION = "1"


@dataclass(frozen=True)
class Attribute:
    """How much one person likes more of one attribute, in log-odds per step from `low` towards `high`.

    A step is one standard deviation of the pictures along the attribute: of two pictures that far apart, and otherwise
    as such pictures are, the higher one is chosen with probability sigmoid(mean), or sigmoid(mean / noise) by whoever
    picks `noise` times as noisily as most people. `deviation` is the posterior's standard deviation of `mean`;
    `prior_mean` and `prior_deviation` are what is known of anybody before any pick.
    """

    name: str
    low: str
    high: str
    mean: float
    deviation: float
    prior_mean: float
    prior_deviation: float


@dataclass(frozen=True, eq=False)
class AttributeProbes:
    """`names`, `low` and `high` words of k attributes, and their unit `directions` [k, f] in feature space.

    `encoder`, `encoder_hash`: name and weight hash of the picture features that share the text encoder's space.
    """

    names: tuple[str, ...]
    low: tuple[str, ...]
    high: tuple[str, ...]
    directions: Tensor
    encoder: str
    encoder_hash: str

    def __post_init__(self) -> None:
        directions = self.directions.detach().cpu().to(torch.float32)
        shape, counts = list(directions.shape), [len(self.names), len(self.low), len(self.high)]
        if directions.ndim != 2 or counts != [shape[0]] * 3 or not counts[0]:
            raise ValueError(f"Expected a name, a low and a high word per direction [k, f], got {counts} and {shape}.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"Expected attributes of different names, got {', '.join(self.names)}.")
        lengths = directions.norm(dim=1)
        unusable = [name for name, n in zip(self.names, lengths.tolist(), strict=True) if not 0 < n < float("inf")]
        if unusable:
            raise ValueError(
                f"There is no direction for {', '.join(unusable)}: give words that the encoder tells apart."
            )
        object.__setattr__(self, "directions", directions / lengths[:, None])

    @classmethod
    def from_texts(
        cls,
        encode_text: Callable[[list[str]], Tensor],
        captions: Sequence[str],
        words: Mapping[str, tuple[str, str]],
        *,
        encoder: str,
        encoder_hash: str,
    ) -> AttributeProbes:
        """Probes of attributes by name, each with its low and high word (or words), by any text encoder.

        `encode_text` turns texts into features [n, f] in the space of the picture features that `encoder` names: an
        open_clip model's `lambda texts: model.encode_text(tokenizer(texts))`. `captions` say what pictures show and
        nothing of how; each word is put after each.
        """
        if not captions or not words:
            raise ValueError(f"Expected captions and words to probe, got {len(captions)} and {len(words)}.")

        def unit(word: str) -> Tensor:
            with torch.no_grad():
                return F.normalize(encode_text([f"{caption} {word}" for caption in captions]).double(), dim=-1)

        directions = [(unit(high) - unit(low)).mean(0) for low, high in words.values()]
        low, high = zip(*words.values(), strict=True)
        return cls(tuple(words), low, high, torch.stack(directions), encoder=encoder, encoder_hash=encoder_hash)

    def axes(self, prior: PopulationPrior) -> Tensor:
        """One step of each attribute in the prior's coordinates: rows [k, d], of length 1.

        Row a is the mean of phi(x) - phi(center) over pictures x one standard deviation further along direction a:
        the covariance of phi with the projection, over its deviation. (With features = phi @ pinv(basis) and phi of
        unit covariance that is pinv(basis) @ a, made unit.) A picture cannot be moved along a itself: a @ basis would
        follow directions in which pictures hardly differ, blown up by the whitening.
        """
        self.check_encoder(prior.encoder, prior.encoder_hash)
        return F.normalize(self.directions.double() @ torch.linalg.pinv(prior.basis.double()).T, dim=1)

    def readings(self, mean: Tensor, covariance: Tensor, prior: PopulationPrior) -> list[Attribute]:
        """What theta ~ N(mean [d], covariance [d, d]) says of each attribute, beside what the prior does."""
        axes = self.axes(prior)
        if mean.shape != (prior.dim,) or covariance.shape != (prior.dim, prior.dim):
            raise ValueError(
                f"Expected mean [{prior.dim}] and covariance [{prior.dim}, {prior.dim}], as the prior's, got "
                f"{list(mean.shape)} and {list(covariance.shape)}."
            )

        def along(center: Tensor, spread: Tensor) -> list[tuple[float, float]]:
            at, variance = axes @ center.cpu().double(), ((axes @ spread.cpu().double()) * axes).sum(1).clamp_min(0)
            return list(zip((at / prior.noise).tolist(), (variance.sqrt() / prior.noise).tolist(), strict=True))

        known, unknown = along(mean, covariance), along(prior.mean, prior.covariance)
        named = zip(self.names, self.low, self.high, known, unknown, strict=True)
        return [Attribute(name, low, high, *own, *everybody) for name, low, high, own, everybody in named]

    def check_encoder(self, encoder: str, encoder_hash: str) -> None:
        """Raise ValueError unless these probes were made for that encoder."""
        if self.encoder_hash != encoder_hash:
            raise ValueError(
                f"The attribute probes do not fit: they were made for encoder {self.encoder} "
                f"({self.encoder_hash[:12]}), got {encoder} ({encoder_hash[:12]}); make them again from the text side "
                f"of {encoder}."
            )

    def save(self, path: Path | str) -> None:
        """Write the probes as safetensors (format "ppd-attribute-probes", version "1")."""
        lists = {"names": self.names, "low": self.low, "high": self.high}
        metadata = {"encoder": self.encoder, "encoder_hash": self.encoder_hash}
        metadata |= {key: json.dumps(value) for key, value in lists.items()}
        write_tensors(Path(path), FORMAT, VERSION, {"directions": self.directions}, metadata)

    @classmethod
    def load(cls, path: Path | str) -> AttributeProbes:
        """Read probes; a file that holds none raises ValueError saying so."""
        path = Path(path)
        lists = ("names", "low", "high")
        tensors, metadata = read_tensors(
            path, FORMAT, VERSION, ("directions",), ("encoder", "encoder_hash", *lists), "probe set"
        )
        try:
            names, low, high = (_words(key, metadata[key]) for key in lists)
            directions, encoder, encoder_hash = tensors["directions"], metadata["encoder"], metadata["encoder_hash"]
            return cls(names, low, high, directions, encoder=encoder, encoder_hash=encoder_hash)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def _words(key: str, text: str) -> tuple[str, ...]:
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a list of words as {key}, got {text[:80]!r}.")
    return tuple(words)
