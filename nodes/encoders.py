"""The taste encoders that can be chosen: the shipped one, and folders of ComfyUI's models/taste_encoders."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..ppd.encoders.encoder import JSON_FILE, TENSOR_FILE, PosteriorEncoder, TasteEncoder, embedding_hash
from ..ppd.encoders.features import Tower
from ..ppd.encoders.population import PopulationPrior
from ..ppd.files import file_digest
from ..ppd.hosts.comfyui_towers import open_tower
from ..ppd.store import DEFAULT_ENCODER
from ..ppd.user_embedding import UserEmbedding
from . import folders

FOLDER = "taste_encoders"

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def taste_encoders() -> list[str]:
    """Names of all taste encoders: that of new people, then the other shipped ones first."""
    found = (path.parent.name for path in (folders.WEIGHTS / FOLDER).glob(f"*/{JSON_FILE}"))
    shipped = sorted(found, key=lambda name: (name != DEFAULT_ENCODER, name))
    roots = map(Path, folder_paths.get_folder_paths(FOLDER))
    own = {path.parent.name for root in roots for path in root.glob(f"*/{JSON_FILE}") if path.is_file()}
    return [*shipped, *sorted(own - set(shipped))]


def encoder_folder(name: str) -> Path:
    """The folder of a taste encoder by the name that the list shows."""
    if name in taste_encoders():
        for root in (folders.WEIGHTS / FOLDER, *map(Path, folder_paths.get_folder_paths(FOLDER))):
            if (root / name / JSON_FILE).is_file():
                return root / name
    raise ValueError(
        f"There is no taste encoder {name!r}: choose one of the list ({', '.join(taste_encoders())}), or make it."
    )


def encoder_digest(name: str) -> str:
    """Changes when the taste encoder does."""
    folder = encoder_folder(name)
    try:
        return " ".join(file_digest(folder / file) for file in (JSON_FILE, TENSOR_FILE))
    except OSError as error:
        raise ValueError(
            f"The taste encoder {name!r} cannot be read ({error.strerror}): expected {JSON_FILE} and {TENSOR_FILE} in "
            "its folder; choose another, or make or copy it again."
        ) from error


def made_by(hashes: Collection[str]) -> list[str]:
    """Names of the taste encoders that make embeddings of these hashes; a damaged one makes none."""
    return [name for name, (_, found) in identities().items() if found in hashes]


def identities() -> dict[str, tuple[str, str]]:
    """By the taste encoder's name what its embeddings carry: the tower's name and the hash; no damaged ones."""
    found = {}
    for name in taste_encoders():
        with suppress(ValueError):
            prior = _prior(name, encoder_digest(name))
            found[name] = prior.encoder, embedding_hash(prior)
    return found


def reader_of(embedding: UserEmbedding) -> str | None:
    """The taste encoder that made an embedding, None where it is not here; ValueError where it makes no such ones."""
    name = next(iter(made_by({embedding.encoder_hash})), None)
    if name is not None:
        _prior(name, encoder_digest(name)).check_embedding(embedding.u)
    return name


@lru_cache(maxsize=64)
def _prior(name: str, _digest: str) -> PopulationPrior:
    return TasteEncoder.load(encoder_folder(name)).prior


def read_encoder(name: str) -> PosteriorEncoder:
    """A taste encoder on the CPU, out of ComfyUI's sight, so that it waits for no model and disturbs none; features of
    pictures are kept on disk, and of a vision-language model there are those alone.
    """
    folder = encoder_folder(name)
    encoder = TasteEncoder.load(folder)
    tower = open_tower(encoder.tower, folder, on_cpu=True, dim=encoder.prior.center.numel())
    return encoder.open(tower, folders.feature_cache())


def load_encoder(name: str) -> PosteriorEncoder:
    """The same with its tower on the device ComfyUI computes on, and in its memory management."""
    encoder = TasteEncoder.load(encoder_folder(name))
    return encoder.open(_tower(name, encoder_digest(name)), folders.feature_cache())


@lru_cache(maxsize=1)
def _tower(name: str, _digest: str) -> Tower:
    """The tower used last stays: a vision-language model takes half a minute to open."""
    folder = encoder_folder(name)
    return open_tower(TasteEncoder.load(folder).tower, folder)
