"""The user embedding u: a person's taste as a vector, how sure we are of it, where it came from, and its file.

u = 0 is the null user, for whom the model paints as its base does. The file holds the vector and its provenance, and
never a picture, prompt, path or name but those of a card that its owner wants in it (taste_file.py), and epsilon and
delta where noise hides each pick (privacy.py); contract: format "ppd-user-embedding", version "1".
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from .files import read_tensors, write_tensors
from .limits import LONGEST_NAME, WIDEST
from .messages import quoted, shortened
from .privacy import ClippedTaste, Guarantee, noised

FORMAT = "ppd-user-embedding"
VERSION = "1"
LONGEST = 1e6
"""Length of u, and of its covariance's factor; tastes have lengths of a few."""
MOST_VECTORS = 255
"""As many as a taste code holds; the encoders make one."""
MOST_NUMBERS = 1 << 24
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PAIRS, _HASH = re.compile("[0-9]{1,9}"), re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class UserEmbedding:
    """A user embedding of N vectors with d dimensions, and its provenance.

    `u` [N, d] float32 · `encoder`, `encoder_hash` the encoder that made it · `pairs` how many picks are behind it, the
    best of several being one · `created` ISO date ·
    `covariance_factor` [d, r], F with posterior covariance F F' · `noise` scale of this person's pick noise as inferred
    from contradictions, 1 the population's; it explains the covariance, and no file holds it · `clipped` what
    `release` puts its noise on, where the embedding comes from picks; no file holds it · `guarantee` where
    that noise is in u.
    """

    u: Tensor
    encoder: str
    encoder_hash: str
    pairs: int
    created: str
    covariance_factor: Tensor | None = None
    noise: float = 1.0
    clipped: ClippedTaste | None = None
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        if self.u.ndim != 2 or 0 in self.u.shape or self.u.shape[0] > MOST_VECTORS or self.u.shape[1] > WIDEST:
            raise ValueError(
                f"Expected a user embedding u of shape [N, d], N at most {MOST_VECTORS} and d at most {WIDEST}, got "
                f"{_shape(self.u)}."
            )
        width = self.u.shape[1]
        factor = self.covariance_factor
        if factor is not None and (factor.ndim != 2 or factor.shape[0] != width or not 0 < factor.shape[1] <= width):
            raise ValueError(
                f"Expected a covariance factor of shape [{width}, r], r at most {width}, got {_shape(factor)}."
            )
        if self.pairs < 0:
            raise ValueError(f"Expected a number of pairs of at least 0, got {self.pairs}.")
        for name in ("u", "covariance_factor"):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tensor.dtype not in _FLOATS:
                raise ValueError(
                    f"Expected the user embedding's {name} in floats of 16 to 64 bits, got {tensor.dtype}."
                )
            tensor = tensor.detach().to(torch.float32)
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"The user embedding's {name} holds values that are not finite: encode the pairs again."
                )
            if not tensor.norm() <= LONGEST:
                raise ValueError(
                    f"Expected the user embedding's {name} to have a length of at most {LONGEST:g}, got "
                    f"{tensor.double().norm():g}: encode the pairs again."
                )
            object.__setattr__(self, name, tensor)

    @property
    def dim(self) -> int:
        """d, the width of one vector."""
        return self.u.shape[1]

    @property
    def length_told(self) -> str:
        """Its norm, which says how far it moves pictures, for people to read."""
        return f"embedding length {self.u.norm():.2f}"

    @property
    def is_null(self) -> bool:
        """Whether this is the null user, for whom the branch is skipped."""
        return not bool(self.u.any())

    @property
    def covariance(self) -> Tensor | None:
        """The posterior covariance [d, d], if it is known."""
        return None if self.covariance_factor is None else self.covariance_factor @ self.covariance_factor.T

    @property
    def uncertainty(self) -> float | None:
        """Trace of the posterior covariance: the expected squared distance from u to the true taste."""
        return None if self.covariance_factor is None else float(self.covariance_factor.double().square().sum())

    def draw(self, seed: int) -> UserEmbedding:
        """A taste that may be this person's: one draw from the posterior (Thompson 1933), without its covariance."""
        factor = self.covariance_factor
        if factor is None:
            raise ValueError(
                "This user embedding does not know how sure it is, so there is nothing to draw from: it is "
                "a draw itself, or of a file saved without its covariance; connect what Encode User Embedding makes."
            )
        z = torch.randn(factor.shape[1], len(self.u), generator=torch.Generator().manual_seed(seed))
        return self.moved(self.u + (factor.cpu() @ z).T.to(self.u))

    def moved(self, u: Tensor, covariance_factor: Tensor | None = None) -> UserEmbedding:
        """The same person with another u, such as a draw or a turned look: no longer what their picks say, so that
        nothing is known of what one pick moves in it."""
        return replace(self, u=u, covariance_factor=covariance_factor, clipped=None)

    def check_encoder(self, encoder: str, encoder_hash: str, what: str = "user adapter") -> None:
        """Raise ValueError unless this embedding was made by the encoder that the other file (`what`) was made for."""
        if self.encoder_hash == encoder_hash:
            return
        made, expected = f"{self.encoder} ({self.encoder_hash[:12]})", f"{encoder} ({encoder_hash[:12]})"
        again = f"encode the pairs again with {encoder}"
        if self.encoder == encoder:  # the name is the tower's, on which there may be several taste encoders
            again = (
                f"encode the pairs again with the {what}'s own taste encoder, another or an earlier one on {encoder}"
            )
        raise ValueError(
            f"The user embedding does not fit the {what}: it was made by encoder {made} and the {what} expects "
            f"{expected}; {again}, or choose a {what} made for this one."
        )

    def save(self, path: Path | str, *, with_covariance: bool = False, card: Mapping[str, str] | None = None) -> None:
        """Write the embedding as safetensors, in one step, with the metadata of a `TasteCard` where one is given.

        The covariance goes in only when asked for: factors of differences reveal feature vectors of the pictures.
        """
        tensors = {"u": self.u}
        if with_covariance:
            if self.covariance_factor is None:
                raise ValueError(
                    "This user embedding has no covariance to save: encode the pairs again, or save u alone."
                )
            tensors["covariance_factor"] = self.covariance_factor
        metadata = {
            "encoder": self.encoder,
            "encoder_hash": self.encoder_hash,
            "pairs": str(self.pairs),
            "created": self.created,
            **({} if self.guarantee is None else {key: repr(value) for key, value in asdict(self.guarantee).items()}),
            **(card or {}),
        }
        write_tensors(Path(path), FORMAT, VERSION, tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> UserEmbedding:
        """Read an embedding; a file that is none, or of another version, raises ValueError saying so."""
        path = Path(path)
        tensors, metadata = read_tensors(
            path,
            FORMAT,
            VERSION,
            ("u",),
            ("encoder", "encoder_hash", "pairs", "created"),
            "user embedding",
            most=MOST_NUMBERS,
            largest=LONGEST,
        )
        if not (metadata["encoder"].isprintable() and len(metadata["encoder"]) <= LONGEST_NAME):
            raise ValueError(
                f"{path.name}: expected an encoder's name of at most {LONGEST_NAME} letters, got "
                f"{quoted(metadata['encoder'])}."
            )
        if not _HASH.fullmatch(metadata["encoder_hash"]):
            raise ValueError(f"{path.name}: expected an encoder's sha256, got {quoted(metadata['encoder_hash'])}.")
        if not _PAIRS.fullmatch(metadata["pairs"]):
            raise ValueError(
                f"{path.name}: expected a number of pairs in the metadata, got {quoted(metadata['pairs'])}."
            )
        try:
            created = date.fromisoformat(metadata["created"]).isoformat()
        except ValueError:
            raise ValueError(
                f"{path.name}: expected an ISO date as created, got {quoted(metadata['created'])}."
            ) from None
        try:
            return cls(
                u=tensors["u"],
                encoder=metadata["encoder"],
                encoder_hash=metadata["encoder_hash"],
                pairs=int(metadata["pairs"]),
                created=created,
                covariance_factor=tensors.get("covariance_factor"),
                guarantee=_guarantee(metadata),
            )
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def _guarantee(metadata: Mapping[str, str]) -> Guarantee | None:
    """Of a file's metadata; older files have none, nor do those without noise."""
    if "epsilon" not in metadata:
        return None
    try:
        epsilon, delta = (float(metadata.get(key, "")) for key in ("epsilon", "delta"))
    except ValueError:
        told = " and ".join(quoted(metadata.get(key)) for key in ("epsilon", "delta"))
        raise ValueError(f"Expected numbers as epsilon and delta, got {told}.") from None
    return Guarantee(epsilon, delta)


def _shape(tensor: Tensor) -> str:
    return shortened(str(list(tensor.shape)))


def null_user(like: UserEmbedding) -> UserEmbedding:
    """The null user (u = 0) of the same encoder and shape: the base itself."""
    return replace(like, u=torch.zeros_like(like.u), pairs=0, covariance_factor=None, clipped=None, guarantee=None)


def release(embedding: UserEmbedding, guarantee: Guarantee, noise: random.Random | None = None) -> UserEmbedding:
    """What may be shared of a person, without covariance; each call is a release of its own, with new noise, by
    default the operating system's."""
    if embedding.guarantee is not None:
        raise ValueError(
            f"This user embedding has its noise already ({embedding.guarantee.told}): save it as it is, with epsilon 0."
        )
    if embedding.clipped is None:
        raise ValueError(
            "This user embedding does not come from picks alone, so nothing is known of what one pick moves in it: "
            "connect what Encode User Embedding makes of picks, without rated or loved pictures, and bind or turn it "
            "afterwards; or use epsilon 0 for no noise. The tab Taste makes such codes of who is bound to a guide."
        )
    u, picks = noised(embedding.clipped, guarantee, noise or random.SystemRandom())
    return replace(
        embedding,
        u=u[None].to(embedding.u),
        pairs=picks,
        covariance_factor=None,
        noise=1.0,
        clipped=None,
        guarantee=guarantee,
    )


def blend(a: UserEmbedding, b: UserEmbedding, weight: float) -> UserEmbedding:
    """The person between two people: u = (1-w) a + w b, covariance (1-w)^2 A + w^2 B, for w in 0..1."""
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"Expected a blend weight from 0 (the first person) to 1 (the second), got {weight}.")
    b.check_encoder(a.encoder, a.encoder_hash, "other user embedding")
    if a.u.shape != b.u.shape:
        raise ValueError(
            f"Only embeddings of one shape blend, got {list(a.u.shape)} and {list(b.u.shape)}: encode both alike."
        )
    factor = None
    if a.covariance_factor is not None and b.covariance_factor is not None:
        factor = torch.cat([(1 - weight) * a.covariance_factor, weight * b.covariance_factor], dim=1)
        if factor.shape[1] > factor.shape[0]:
            factor = covariance_factor(factor.double() @ factor.double().T)
    return UserEmbedding(
        u=(1 - weight) * a.u + weight * b.u,
        encoder=a.encoder,
        encoder_hash=a.encoder_hash,
        pairs=a.pairs + b.pairs,
        created=max(a.created, b.created),
        covariance_factor=factor,
    )


def covariance_factor(covariance: Tensor) -> Tensor:
    """F [d, r] with F F' = covariance [d, d]; directions without variance are left out (at least one is kept)."""
    values, vectors = torch.linalg.eigh(covariance.double())
    kept = values > 1e-12 * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
    kept[-1] = True
    return vectors[:, kept] * values[kept].clamp_min(0).sqrt()
