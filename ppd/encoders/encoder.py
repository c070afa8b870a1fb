"""The taste encoder, preference pairs to user embedding, and its folder: a tower or a reference to one, the whitening,
the population prior, and the looks it can name.

    models/taste_encoders/<name>/encoder.json           the tower's reference, the looks' words, how it was made
                                 encoder.safetensors    whitening, prior, and the looks' directions
                                 tower.safetensors      the tower itself, where the reference's kind is "folder"

What gives u its coordinates is the tower and the whitening; refitting the prior moves people within the same space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..files import file_digest, read_tensors, write_file, write_tensors
from ..limits import line, number, parsed
from ..messages import quoted
from ..moodboard import is_rated
from ..pairs import PreferencePair
from ..pictures import PreferenceError
from ..privacy import ClippedTaste, clipped
from ..user_embedding import UserEmbedding, covariance_factor
from .features import PairFeatures, PictureFeatures, Tower
from .looks import Looks
from .population import PopulationPrior
from .posterior import fit_posterior, fit_with_noise, root_of
from .statements import Statement, statements

FORMAT = "ppd-taste-encoder"
VERSION = "1"
JSON_FILE, TENSOR_FILE = "encoder.json", "encoder.safetensors"
PRIOR_TENSORS = ("mean", "covariance", "center", "basis")
MOST_NUMBERS = 1 << 22
"""In the tensors: 48 dimensions of features 8,192 wide have a tenth of it."""
LARGEST, MOST_NOISE = 1e12, 1e6
"""Of its numbers, measured in whatever units the features have."""


def embedding_hash(prior: PopulationPrior) -> str:
    """sha256 of what gives u's coordinates their meaning: the features' hash, the whitening basis and the noise scale.

    The prior's mean and covariance are left out: refitting them moves people within the same space.
    """
    basis = prior.basis.contiguous().numpy().tobytes()
    return sha256(prior.encoder_hash.encode() + basis + repr(prior.noise).encode()).hexdigest()


class Told(NamedTuple):
    """What a person's picks say: phi(chosen) - phi(rejected) over the noise [n, d], outcomes [n] (1 a pick, .5 a tie),
    weights [n], and the number of each one's choice [n] (`choices.numbered`)."""

    differences: Tensor
    outcomes: Tensor
    weights: Tensor
    choices: Tensor


class PosteriorEncoder:
    """Preference pairs to user embedding: `features` reads the pictures, `prior` says what people are like, and `looks`
    what can be said of one."""

    def __init__(self, features: PictureFeatures, prior: PopulationPrior, looks: Looks | None = None) -> None:
        if prior.encoder_hash != features.weight_hash:
            raise ValueError(
                f"The population prior was fitted on features of {prior.encoder} ({prior.encoder_hash[:12]}), got "
                f"{features.name} ({features.weight_hash[:12]}): use that encoder, or fit a prior for this one."
            )
        self.features = features
        self.prior = prior
        self.looks = looks

    @property
    def name(self) -> str:
        """The encoder's name, as user embeddings and adapters carry it."""
        return self.features.name

    @cached_property
    def weight_hash(self) -> str:
        """What gives u's coordinates their meaning."""
        return embedding_hash(self.prior)

    def encode(
        self,
        pairs: Sequence[PreferencePair],
        *,
        on_bad: str = "raise",
        skipped: list[PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UserEmbedding:
        """The user embedding [1, d] behind `pairs`, covariance kept; with no pairs the population user.

        A picture that cannot be read raises PreferenceError naming its pair, or with `on_bad="skip"` is logged, put in
        `skipped`, and its pair left out. `progress(pictures done, of)` may raise to cancel. Pictures that were rated or
        loved count in several comparisons each: with any of them nothing is known of what one moves (privacy.py).
        """
        return self.encode_told(pairs, self.read(pairs, on_bad=on_bad, skipped=skipped, progress=progress))

    def encode_told(self, pairs: Sequence[PreferencePair], told: Told) -> UserEmbedding:
        """The same of what the pairs say."""
        found = self.encode_differences(*told)
        return replace(found, clipped=None) if any(map(is_rated, pairs)) else found

    def read(
        self,
        pairs: Sequence[PreferencePair],
        *,
        on_bad: str = "raise",
        skipped: list[PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Told:
        """What the picks say; arguments as in `encode`."""
        return self.told(self.features.pair_features(pairs, on_bad=on_bad, skipped=skipped, progress=progress))

    def told(self, seen: PairFeatures) -> Told:
        """What the picks say whose features these are."""
        return Told(self.prior.differences(seen.chosen, seen.rejected), seen.outcomes, seen.weights, seen.choices)

    def statements(
        self,
        differences: Tensor,
        outcomes: Tensor | None = None,
        weights: Tensor | None = None,
        choices: Tensor | None = None,
    ) -> list[Statement]:
        """What such differences say of each look; nothing where the encoder names none."""
        if self.looks is None:
            return []
        return statements(self.looks, differences * self.prior.noise, outcomes, weights, choices)

    def encode_differences(
        self,
        differences: Tensor,
        outcomes: Tensor | None = None,
        weights: Tensor | None = None,
        choices: Tensor | None = None,
    ) -> UserEmbedding:
        """The user embedding behind differences [n, d] as `prior.differences` makes them, by default all of them picks
        of one picture out of two."""
        outcomes = torch.ones(len(differences)) if outcomes is None else outcomes
        mean, covariance, noise = fit_with_noise(
            differences, outcomes, self.prior.mean.double(), self.prior.covariance.double(), weights, choices
        )
        return UserEmbedding(
            u=mean[None].float(),
            encoder=self.name,
            encoder_hash=self.weight_hash,
            pairs=len(differences) if choices is None else len(choices.unique()),
            created=date.today().isoformat(),
            covariance_factor=covariance_factor(covariance).float(),
            noise=noise,
            clipped=self._clipped(differences, outcomes, choices),
        )

    def _clipped(self, differences: Tensor, outcomes: Tensor, choices: Tensor | None) -> ClippedTaste:
        """The taste as one pick moves it little (privacy.py): clipped, at the population's noise, without fading."""
        mean, root = self.prior.mean.double(), root_of(self.prior.covariance)
        short = clipped(differences, root)
        mode, _ = fit_posterior(short, outcomes, mean, self.prior.covariance.double(), choices=choices)
        return ClippedTaste(mode, mean, root, len(differences) if choices is None else len(choices.unique()))


@dataclass(frozen=True, eq=False)
class TasteEncoder:
    """What a taste encoder's folder holds.

    `tower` is the reference: "kind" (of `encoders.towers.open_tower`), "name" and "hash" of the features, and what the
    kind needs to find them · `prior` has the whitening too · `looks` is None where none were measured · `made` tells
    people how it was made: how many pictures, people (simulated or real), looks that were dropped.
    """

    tower: dict[str, Any]
    prior: PopulationPrior
    looks: Looks | None = None
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def weight_hash(self) -> str:
        """What user embeddings of this encoder carry, known without its tower."""
        return embedding_hash(self.prior)

    def save(self, folder: Path | str) -> None:
        """Write the folder; encoder.json comes last, with its tensors' sha256, so that what was cut short is told."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self.prior, name) for name in PRIOR_TENSORS}
        values: dict[str, Any] = {"format": FORMAT, "version": VERSION, "tower": self.tower, "noise": self.prior.noise}
        if self.looks is not None:
            tensors |= self.looks.tensors()
            values["looks"] = self.looks.lists()
        write_tensors(folder / TENSOR_FILE, FORMAT, VERSION, tensors, {"hash": self.tower["hash"]})
        values |= {"tensors": file_digest(folder / TENSOR_FILE), "made": self.made}
        write_file(folder / JSON_FILE, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> TasteEncoder:
        """Read a folder; one that is no taste encoder, or damaged, raises ValueError saying so."""
        folder = Path(folder)
        values = _read_json(folder)
        tensors, metadata = read_tensors(
            folder / TENSOR_FILE,
            FORMAT,
            VERSION,
            PRIOR_TENSORS,
            ("hash",),
            "taste encoder",
            most=MOST_NUMBERS,
            largest=LARGEST,
        )
        try:
            tower, words, made = values["tower"], values.get("looks"), values.get("made", {})
            if not all(isinstance(one, dict) for one in (tower, made, {} if words is None else words)):
                raise ValueError(f"{JSON_FILE} has no names and values as tower, made and looks")
            if metadata["hash"] != tower["hash"] or file_digest(folder / TENSOR_FILE) != values["tensors"]:
                raise ValueError(f"{JSON_FILE} and {TENSOR_FILE} do not belong together")
            name, tower_hash = (line(f"the tower's {key}", tower[key]) for key in ("name", "hash"))
            mean, covariance, center, basis = (tensors[item] for item in PRIOR_TENSORS)
            noise = float(number("pick noise", values["noise"], 0, MOST_NOISE))
            prior = PopulationPrior(mean, covariance, center, basis, name, tower_hash, noise)
            looks = None if words is None else Looks.from_tensors(tensors, words)
            if looks is not None and looks.dim != prior.dim:
                raise ValueError(f"its looks have {looks.dim} dimensions and its whitening {prior.dim}")
            return cls(tower, prior, looks, made)
        except (KeyError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ValueError(
                f"The taste encoder {folder.name!r} is damaged ({reason}): make or download it again."
            ) from error

    def open(self, tower: Tower, cache_dir: Path | str | None = None) -> PosteriorEncoder:
        """The encoder with the tower that its reference names; another one raises ValueError."""
        return PosteriorEncoder(PictureFeatures(tower, cache_dir=cache_dir), self.prior, self.looks)


def _read_json(folder: Path) -> dict[str, Any]:
    """What encoder.json says, if it is of this format and version."""
    try:
        values = parsed(JSON_FILE, (folder / JSON_FILE).read_bytes())
    except OSError as error:
        raise ValueError(f"There is no taste encoder at {folder}: expected a folder with {JSON_FILE}.") from error
    except ValueError as error:
        raise ValueError(f"{JSON_FILE} of the taste encoder {folder.name!r} is no JSON: make it again.") from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{folder.name}/{JSON_FILE} is no taste encoder: expected format {FORMAT!r}, got {quoted(found)}."
        )
    if values.get("version") != VERSION:
        raise ValueError(
            f"The taste encoder {folder.name!r} is of version {quoted(values.get('version'))}, expected {VERSION!r}: "
            "update this software, or make it again."
        )
    return values
