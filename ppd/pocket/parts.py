"""What a recipe has made, as it lies in the folders of work and weights: read, never made by being read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..adapters import UserAdapter
from ..encoders.encoder import JSON_FILE, PosteriorEncoder, TasteEncoder
from ..encoders.features import PictureFeatures
from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..encoders.towers import TOWER_FILE
from ..encoders.towers.open_clip import OpenClipTower
from ..files import file_digest, write_file
from ..training.distributed import default_device
from ..training.picks import QueryPicks
from . import scenes
from .autoencoder import PocketAutoencoder
from .classifier import ObjectClassifier
from .data import PictureSet, picture_set
from .encoder import TEXT, VISION
from .flow import FlowModel
from .painter import Painter
from .people import People, pick, population
from .statistics import Whitening, reward_statistics
from .taste import SUPPORT_COUNTS, Pool, draw_support, embed_people
from .turbo import with_turbo
from .world import POCKET, World

PICKS_PER_PERSON, SUPPORTS = 48, 4


@dataclass
class Parts:
    """Parts of a world: finished weights in `weights`, what they were made of in `work`. ValueError where one is
    missing, or belongs to others than those that are there."""

    work: Path
    weights: Path
    world: World = POCKET

    def __post_init__(self) -> None:
        for folder in (self.work, self.weights):
            folder.mkdir(parents=True, exist_ok=True)
        world, painter = self.world, self.world.model
        wanted = {
            "steps": world.steps,
            "sizes": [*world.sizes.values(), PICKS_PER_PERSON, SUPPORTS],
            "models": [world.vae_config, painter.config, painter.text_config, VISION, TEXT],
            "adapter": [world.new_adapter.__name__, world.end_percent, world.beta, world.learning_rate],
        }
        # As JSON has it, where tuples are lists
        self._claim("settings", json.loads(json.dumps(wanted)), "made with other settings than this version's")

    def _claim(self, name: str, value: Any, difference: str) -> None:
        """Note in work.json what the work folder's stages depend on; refuse a folder whose stages depend on other."""
        path = self.work / "work.json"
        if not path.exists() and any(file.suffix != ".part" for file in self.work.iterdir()):
            raise ValueError(f"{self.work} is in use for something else: name an empty or a new folder with --work.")
        noted = json.loads(path.read_text()) if path.exists() else {}
        if noted.setdefault(name, value) != value:
            raise ValueError(f"{self.work} holds stages {difference}: delete the folder, or name another with --work.")
        write_file(path, json.dumps(noted, indent=1).encode())

    def _there(self, path: Path) -> Path:
        """The path, if there is something."""
        if not path.exists():
            raise ValueError(
                f"There is no {path.name} in {path.parent}: `python -m ppd train {self.world.name}` makes it, with the "
                "same --work and --weights."
            )
        return path

    def _kept(self, name: str) -> Path:
        """Tensors in the folder of work."""
        return self.work / f"{name}.safetensors"

    @property
    def _base(self) -> Path:
        return self.world.file(self.weights, "base")

    @property
    def _tower(self) -> Path:
        return self.weights / "taste_encoders" / self.world.tower / TOWER_FILE

    def _adapter(self, name: str) -> Path:
        """The baseline reads nobody's u: it stands apart, so that no node offers it."""
        personal, _ = self.world.adapters[name]
        return self.weights / ("adapters" if personal else "baselines") / f"{name}.safetensors"

    @cached_property
    def data(self) -> PictureSet:
        """Rendered pictures."""
        self._there(self.work / "pictures" / "done.json")
        return picture_set(self.work / "pictures", self.world.sizes["pictures"], render=self.world.render)

    @cached_property
    def vae(self) -> PocketAutoencoder:
        """The base's own where there is a base, so that what follows sees what is shipped."""
        if self._base.exists():
            return self.model.vae
        vae = PocketAutoencoder(**self.world.vae_config)
        vae.load_state_dict(load_file(self._there(self._kept("vae"))))
        vae.eval().requires_grad_(False).to(default_device())
        return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def latents(self) -> tuple[Tensor, float]:
        """Denoiser latents [n, 4, 16, 16] of all training pictures, of unit standard deviation, and their scale."""
        z = load_file(self._there(self._kept("latents")))["z"]
        scale = self.model.latent_scale if self._base.exists() else 1 / z.std().item()
        return z * scale, scale

    @cached_property
    def decoded(self) -> np.ndarray:
        """The first pictures as the shipped autoencoder returns them, [n, 128, 128, 3] uint8."""
        return np.load(self._there(self.work / "decoded.npy"), mmap_mode="r")

    @cached_property
    def model(self) -> Painter:
        """The base, as it is shipped."""
        self._claim(
            "base",
            file_digest(self._there(self._base)),
            f"that belong to another {self._base.name} than that of {self.weights}",
        )
        return self.world.load_model(self.weights).to(default_device())

    @cached_property
    def turbo(self) -> FlowModel:
        """The base with its few-step LoRA."""
        # The base anew, since a LoRA is merged into it
        model = FlowModel.load(self._there(self._base)).to(default_device())
        return with_turbo(model, self._there(self.world.file(self.weights, "turbo")))

    @cached_property
    def encoder(self) -> OpenClipTower:
        """The tower of this world's taste encoder, its own or another world's."""
        path = self._there(self._tower)
        self._claim("encoder", file_digest(path), f"that belong to another {path.name} than that of {self.weights}")
        return OpenClipTower.from_file(path, device=default_device())

    @cached_property
    def taste_encoder(self) -> TasteEncoder:
        """Whitening, prior, and what the features say in words, beside the tower in its folder."""
        folder = self.world.encoder(self.weights)
        self._there(folder / JSON_FILE)
        encoder = TasteEncoder.load(folder)
        if encoder.tower["hash"] != self.encoder.weight_hash:
            raise ValueError(
                f"{folder / JSON_FILE} was made for another tower than {folder / TOWER_FILE}: remove it, so that it is "
                "made again."
            )
        return encoder

    @property
    def prior(self) -> PopulationPrior:
        """Of training people."""
        return self.taste_encoder.prior

    @property
    def posterior(self) -> PosteriorEncoder:
        """What makes u of pairs."""
        return PosteriorEncoder(PictureFeatures(self.encoder), self.prior)

    @property
    def looks(self) -> Looks:
        """Pairs of opposites that the taste encoder reads."""
        assert self.taste_encoder.looks is not None
        return self.taste_encoder.looks

    @cached_property
    def classifier(self) -> ObjectClassifier:
        """Says which objects are in a picture."""
        classifier, path = ObjectClassifier(), self._there(self.world.file(self.weights, "classifier"))
        classifier.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        classifier.eval().requires_grad_(False).to(default_device())
        return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def painted(self) -> dict[str, Tensor]:
        """The pool: pictures that the base paints of training captions: raw statistics, features, latents, captions."""
        return load_file(self._there(self._kept("painted")))

    @cached_property
    def units(self) -> dict[str, Tensor]:
        """What makes rewards: whitening of the base's statistics, and their clipped covariance. Shipped."""
        return load_file(self._there(self.world.file(self.weights, "world")))

    @property
    def whitening(self) -> Whitening:
        """Of pictures' statistics."""
        return Whitening(self.units["mean"], self.units["matrix"])

    @cached_property
    def people(self) -> dict[str, People]:
        """All by split."""
        return population(self.units["covariance"])

    @cached_property
    def pool(self) -> Pool:
        """The pictures that everybody picks their support pairs from."""
        painted = self.painted
        scored = reward_statistics(self.whitening, painted["statistics"])
        return Pool(painted["captions"].numpy(), scored, painted["features"])

    @cached_property
    def picks(self) -> QueryPicks:
        """Training people's query picks on rendered pictures, and their u from several supports of several sizes."""
        latents, _ = self.latents
        raw = load_file(self._there(self._kept("decoded_statistics")))["raw"]
        allowed = set(scenes.TRAINING_CAPTIONS)
        captions = self.data.captions[: len(self.decoded)]
        usable = np.array([scenes.SCENES[c].caption in allowed for c in captions])
        queries = Pool(np.where(usable, captions, -1), reward_statistics(self.whitening, raw), raw)
        names = queries.drawable
        people = self.people["training"]
        rng = np.random.default_rng(51)
        embeddings, used = [], []
        for _ in range(SUPPORTS):
            support = draw_support(self.pool, people, max(SUPPORT_COUNTS), rng)
            used.append(self.pool.captions[support.chosen])
            embeddings += [embed_people(self.pool, support, self.prior, n) for n in SUPPORT_COUNTS]
        # Query captions of a person are in none of the person's supports of up to 32 pairs.
        seen = np.concatenate(used, axis=1)
        rewards = people.weights @ queries.statistics.T
        person, chosen, rejected, caption = [], [], [], []
        for i in range(len(people.weights)):
            free = np.setdiff1d(names, seen[i])
            wanted = rng.choice(free, PICKS_PER_PERSON)
            a, b = queries.draw_pairs(wanted, rng)
            first = pick(rewards[i, a], rewards[i, b], rng).numpy()
            person.append(np.full(len(a), i))
            chosen.append(np.where(first, a, b))
            rejected.append(np.where(first, b, a))
            caption.append(wanted)
        return QueryPicks(
            latents[: self.world.sizes["decoded"]],
            person=np.concatenate(person),
            chosen=np.concatenate(chosen),
            rejected=np.concatenate(rejected),
            caption=np.concatenate(caption),
            embeddings=torch.stack(embeddings),
            population=self.prior.mean,
            prompts=tuple(scene.caption for scene in scenes.SCENES),
        )

    def adapter(self, name: str) -> UserAdapter:
        """A trained adapter at its chosen strength."""
        adapter = UserAdapter.load(self._there(self._adapter(name)), family=self.model.family)
        adapter.config.check_embedding(self.posterior.encode([]))
        return adapter
