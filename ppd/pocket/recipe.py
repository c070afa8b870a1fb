"""`python -m ppd train WORLD`: makes every tracked weight from nothing, stage by stage, resuming where it stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..adapters import UserAdapter
from ..encoders.encoder import JSON_FILE, PosteriorEncoder, TasteEncoder
from ..encoders.features import PictureFeatures
from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior, fit_whitening
from ..encoders.towers import TOWER_FILE
from ..encoders.towers.open_clip import OpenClipTower, save_encoder
from ..evaluation import micro_f1, object_counts
from ..files import file_digest, replacing, write_file
from ..training.adapter import train_adapter
from ..training.distributed import default_device
from ..training.picks import QueryPicks
from ..training.settings import Objective
from . import scenes
from .autoencoder import PocketAutoencoder, decode_latents, encode_pictures
from .autoencoder_training import refine_decoder, train_autoencoder
from .data import PictureSet, picture_set, to_tensor
from .encoder import EMBED_DIM, MEAN, STD, TEXT, VISION, train_encoder
from .examples import write_examples
from .flow import FlowModel
from .judge import ObjectJudge, objects_found
from .judge_training import train_judge
from .looks import make_looks
from .painter import GUIDANCE, Painter, generate, preview_colors
from .people import People, pick, population
from .statistics import Whitening, reward_statistics
from .taste import SUPPORT_COUNTS, Pool, draw_support, embed_people, fit_prior
from .turbo import train_turbo, with_turbo
from .world import POCKET, World

log = logging.getLogger(__name__)

PICKS_PER_PERSON, SUPPORTS = 48, 4
ENCODER_NAME = "pocket-clip"

GAINS = (0.15, 0.25, 0.4, 0.6, 0.9)
OBJECT_LIMIT = 0.01
"""Strength 1 may cost tuning people this much micro F1 of the named objects."""


@dataclass
class Recipe:
    """The stages; each keeps its result in `work` and is made once. Finished weights go to `weights`."""

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

    def _once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = self.work / f"{name}.safetensors"
        if not path.exists():
            start = time.monotonic()
            tensors = make()
            _save(tensors, path)
            self._note(name, round(time.monotonic() - start, 1))
        return load_file(path)

    def _note(self, stage: str, seconds: float) -> None:
        path = self.work / "seconds.json"
        noted = json.loads(path.read_text()) if path.exists() else {}
        write_file(path, json.dumps({**noted, stage: seconds}, indent=1).encode())

    @property
    def _base(self) -> Path:
        return self.world.file(self.weights, "base")

    @cached_property
    def data(self) -> PictureSet:
        return picture_set(self.work / "pictures", self.world.sizes["pictures"], render=self.world.render)

    @cached_property
    def vae(self) -> PocketAutoencoder:
        """The base's own where there is a base, so that what follows sees what is shipped; else trained."""
        if self._base.exists():
            return self.model.vae

        config, statistics, steps = self.world.vae_config, self.world.statistics, self.world.steps

        def make() -> dict[str, Tensor]:
            vae = train_autoencoder(
                self.data, self.work / "autoencoder.pt", steps["autoencoder"], config=config, statistics=statistics
            )
            refined = refine_decoder(vae, self.data, self.work / "decoder.pt", steps["decoder"], statistics=statistics)
            return dict(refined.state_dict())

        vae = PocketAutoencoder(**config)
        vae.load_state_dict(self._once("vae", make))
        vae.eval().requires_grad_(False).to(default_device())
        return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def latents(self) -> tuple[Tensor, float]:
        """Denoiser latents [n, 4, 16, 16] of all training pictures, of unit standard deviation, and their scale."""
        z = self._once("latents", lambda: {"z": encode_pictures(self.vae, self.data.pictures)})["z"]
        scale = self.model.latent_scale if self._base.exists() else 1 / z.std().item()
        return z * scale, scale

    @cached_property
    def decoded(self) -> np.ndarray:
        """The first pictures as the shipped autoencoder returns them, [n, 128, 128, 3] uint8."""
        path = self.work / "decoded.npy"
        if not path.exists():
            latents, scale = self.latents
            parts = [
                (decode_latents(self.model.vae, part / scale) * 255 + 0.5).byte().permute(0, 2, 3, 1).numpy()
                for part in tqdm(latents[: self.world.sizes["decoded"]].split(200), desc="decoding", mininterval=2.0)
            ]
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, np.concatenate(parts))
        return np.load(path, mmap_mode="r")

    @cached_property
    def model(self) -> Painter:
        """The base: trained, written to the weights and read back, so that all that follows is
        trained on what is shipped."""
        if not self._base.exists():
            latents, scale = self.latents
            start = time.monotonic()
            kind, steps = self.world.model, self.world.steps["base"]
            denoiser, text_encoder, vocabulary = self.world.train(latents, self.data, self.work / "base.pt", steps)
            self._note("base", round(time.monotonic() - start, 1))
            colors = preview_colors(latents[:500], self.data.pictures[:500])
            made = kind(denoiser, text_encoder, self.vae, scale, vocabulary)
            made.save(self._base, self.world.vae_config, *colors)
        self._claim(
            "base", file_digest(self._base), f"that belong to another {self._base.name} than that of {self.weights}"
        )
        return self.world.load_model(self.weights).to(default_device())

    @cached_property
    def turbo(self) -> Painter:
        """The base with its few-step LoRA, distilled from it."""
        path = self.world.file(self.weights, "turbo")
        if not path.exists():
            start = time.monotonic()
            lora = train_turbo(self._flow(), self.work / "turbo.pt", self.world.steps["turbo"])
            self._note("turbo", round(time.monotonic() - start, 1))
            lora.save(path)
        return with_turbo(self._flow(), path)

    def _flow(self) -> FlowModel:
        """The base anew, since a LoRA is merged into it."""
        return FlowModel.load(self._base).to(default_device())

    @cached_property
    def encoder(self) -> OpenClipTower:
        """The tower of this world's taste encoder; that of another world must be there already."""
        path = self.weights / "taste_encoders" / self.world.tower / TOWER_FILE
        if not path.exists():
            if self.world.tower != self.world.name:
                raise ValueError(f"There is no {path}: train the world {self.world.tower} first, whose tower it is.")
            start = time.monotonic()
            trained = train_encoder(self.data, self.decoded, self.work / "encoder.pt", self.world.steps["encoder"])
            self._note("encoder", round(time.monotonic() - start, 1))
            config = {"embed_dim": EMBED_DIM, "vision_cfg": VISION}
            save_encoder(path, trained.visual, config, name=ENCODER_NAME, mean=MEAN, std=STD)
        self._claim("encoder", file_digest(path), f"that belong to another {path.name} than that of {self.weights}")
        return OpenClipTower.from_file(path, device=default_device())

    @cached_property
    def taste_encoder(self) -> TasteEncoder:
        """Whitening, prior, and what the features say in words, beside the tower in its folder."""
        folder = self.world.encoder(self.weights)
        if not (folder / JSON_FILE).exists():
            center, basis = fit_whitening(self.pool.features, dims=32)
            support = draw_support(self.pool, self.people["training"], max(SUPPORT_COUNTS), np.random.default_rng(41))
            identity = {"encoder": self.encoder.name, "encoder_hash": self.encoder.weight_hash}
            borrowed = {} if self.world.tower == self.world.name else {"of": self.world.tower}
            tower = {"kind": "folder", **borrowed, "name": self.encoder.name, "hash": self.encoder.weight_hash}
            made = {
                "people": len(self.people["training"].weights),
                "kind": "simulated",
                "pictures": self.world.sizes["pool"],
            }
            prior = fit_prior(self.pool, support, center, basis, **identity)
            start = time.monotonic()
            looks = make_looks(self.encoder, self.model.vae, prior, self.world)
            self._note("looks", round(time.monotonic() - start, 1))
            TasteEncoder(tower, prior, looks, made).save(folder)
        encoder = TasteEncoder.load(folder)
        if encoder.tower["hash"] != self.encoder.weight_hash:
            raise ValueError(
                f"{folder / JSON_FILE} was made for another tower than {folder / TOWER_FILE}: remove it, so that it is "
                "made again."
            )
        return encoder

    @property
    def prior(self) -> PopulationPrior:
        return self.taste_encoder.prior

    @property
    def looks(self) -> Looks:
        assert self.taste_encoder.looks is not None
        return self.taste_encoder.looks

    @cached_property
    def judge(self) -> ObjectJudge:
        path = self.world.file(self.weights, "judge")
        if not path.exists():
            start = time.monotonic()
            judge = train_judge(self.data, self.decoded, self.work / "judge.pt", self.world.steps["judge"])
            self._note("judge", round(time.monotonic() - start, 1))
            _save({name: value.half() for name, value in judge.state_dict().items()}, path)
        judge = ObjectJudge()
        judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        judge.eval().requires_grad_(False).to(default_device())
        return judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def painted(self) -> dict[str, Tensor]:
        """The pool: pictures that the base paints of training captions: raw statistics, features, captions."""

        def make() -> dict[str, Tensor]:
            names, count = [scene.caption for scene in scenes.SCENES], self.world.sizes["pool"]
            allowed = np.array([names.index(caption) for caption in scenes.TRAINING_CAPTIONS])
            captions = np.random.default_rng(31).permutation(np.resize(allowed, count))
            prompts = [names[i] for i in captions]
            with tqdm(total=count, desc="painting the pool", mininterval=2.0) as bar:
                latents = generate(self.model, prompts, range(10**6, 10**6 + count), on_batch=bar.update)
            statistics, features = [], []
            for part in latents.split(100):
                pictures = self.model.decode(part)
                statistics.append(self.world.statistics(pictures))
                features.append(self.encoder.image_tensor_features(pictures))
            return {
                "captions": torch.from_numpy(captions),
                "latents": latents,
                "statistics": torch.cat(statistics),
                "features": torch.cat(features),
            }

        return self._once("painted", make)

    @cached_property
    def units(self) -> dict[str, Tensor]:
        """What makes rewards: whitening of the base's statistics, and their clipped covariance. Shipped."""
        path = self.world.file(self.weights, "world")
        if not path.exists():
            raw = self.painted["statistics"]
            whitening = Whitening.fit(raw)
            covariance = torch.cov(reward_statistics(whitening, raw).T)
            _save({"mean": whitening.mean, "matrix": whitening.matrix, "covariance": covariance}, path)
        return load_file(path)

    @property
    def whitening(self) -> Whitening:
        return Whitening(self.units["mean"], self.units["matrix"])

    @cached_property
    def people(self) -> dict[str, People]:
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
        raw = self._once(
            "decoded_statistics",
            lambda: {
                "raw": torch.cat(
                    [
                        self.world.statistics(to_tensor(self.decoded[i : i + 200]))
                        for i in range(0, len(self.decoded), 200)
                    ]
                )
            },
        )["raw"]
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
        person, chosen, rejected, caption = [], [], [], []
        for i in range(len(people.weights)):
            free = np.setdiff1d(names, seen[i])
            wanted = rng.choice(free, PICKS_PER_PERSON)
            a, b = queries.draw_pairs(wanted, rng)
            reward = queries.statistics @ people.weights[i]
            first = pick(reward[a], reward[b], rng).numpy()
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
        """A trained adapter at its chosen strength, from the weights; trained and tuned when it is not there."""
        personal, seed = self.world.adapters[name]
        # The baseline reads nobody's u: it stands apart, so that no node offers it
        path = self.weights / ("adapters" if personal else "baselines") / f"{name}.safetensors"
        posterior = PosteriorEncoder(PictureFeatures(self.encoder), self.prior)
        if not path.exists():
            config = {
                "encoder": posterior.name,
                "encoder_hash": posterior.weight_hash,
                "embedding_dim": self.prior.dim,
                "end_percent": self.world.end_percent,
            }
            start = time.monotonic()
            trained = train_adapter(
                self.model,
                self.world.new_adapter(self.model, **config),
                self.picks,
                self.work / f"adapter-{name}.pt",
                steps=self.world.steps["adapter"],
                personal=personal,
                seed=seed,
                learning_rate=self.world.learning_rate,
                objective=Objective(beta=self.world.beta, contrast=0.0),
                name=name,
            )
            self._note(f"adapter {name}", round(time.monotonic() - start, 1))
            tuned = self.tuned(trained, personal)
            tuned.save(path, torch.float16)
        adapter = UserAdapter.load(path, family=self.model.family)
        adapter.config.check_embedding(posterior.encode([]))
        return adapter

    def tuned(self, adapter: UserAdapter, personal: bool) -> UserAdapter:
        """The adapter scaled so that strength 1 is the smallest gain that wins as good as most for tuning people, among
        those that hold the objects: wins hardly tell how far a picture goes. As good as: within one standard error."""
        people = self.people["tuning"]
        support = draw_support(self.pool, people, 4, np.random.default_rng(61))
        u = embed_people(self.pool, support, self.prior, 4 if personal else 0)[:, None]
        rng = np.random.default_rng(62)
        allowed = self.pool.drawable
        seen = self.pool.captions[support.chosen]
        prompts = [scenes.SCENES[rng.choice(np.setdiff1d(allowed, row))].caption for row in seen]
        seeds = range(2 * 10**6, 2 * 10**6 + len(u))
        labels = np.stack([scenes.object_labels(prompt) for prompt in prompts]) > 0.5
        host = self.model.host(adapter)
        reward0, f1_0 = self._look(people, labels, generate(self.model, prompts, seeds))
        rows: list[tuple[float, float, float]] = []
        # Where both of guidance's rows are personal, it does not amplify the person
        scale = 1.0 if adapter.config.unconditional == "none" else GUIDANCE
        for gain in tqdm([scale * gain for gain in GAINS], desc="strength on tuning people"):
            latents = generate(self.model, prompts, seeds, host=host, u=u, strength=gain)
            reward, f1 = self._look(people, labels, latents)
            rows.append((gain, (reward > reward0).float().mean().item(), f1_0 - f1))
            log.info("gain %g: wins %.3f, objects lost %.3f", *rows[-1])
        held = [row for row in rows if row[2] <= OBJECT_LIMIT]
        if not held:
            log.warning("No gain holds the objects within %g: taking the smallest.", OBJECT_LIMIT)
            held = rows[:1]
        most = max(wins for _, wins, _ in held)
        error = (most * (1 - most) / len(u)) ** 0.5
        best = next(row for row in held if row[1] >= most - error)
        scaled = adapter.scaled(best[0])
        told = {"gain": best[0], "tuning_wins": round(best[1], 4)}
        scaled.config = replace(adapter.config, training={**adapter.config.training, **told})
        return scaled

    def _look(self, people: People, labels: np.ndarray, latents: Tensor) -> tuple[Tensor, float]:
        pictures = self.model.decode(latents)
        reward = people.rewards(reward_statistics(self.whitening, self.world.statistics(pictures)))
        return reward, micro_f1(object_counts(objects_found(self.judge, pictures).numpy(), labels))

    def run(self) -> None:
        """Everything, in order."""
        stages = ("model", "judge", "encoder", "painted", "taste_encoder", *(["turbo"] if self.world.has_turbo else []))
        for stage in stages:
            getattr(self, stage)
        examples, everybody = self.weights / "examples", self.people["tuning"]
        write_examples(examples, self.world.examples, everybody, self.pool, self.painted["latents"], self.model)
        for name in self.world.adapters:
            self.adapter(name)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors in one step, since a half-written file would pass for a finished stage."""
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
