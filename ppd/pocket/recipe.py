"""`python -m ppd train WORLD`: makes every tracked weight from nothing, stage by stage, resuming where it stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..adapters import UserAdapter
from ..encoders.encoder import JSON_FILE, TasteEncoder
from ..encoders.population import fit_whitening
from ..encoders.towers.open_clip import save_encoder
from ..evaluation import micro_f1, object_counts
from ..files import replacing, write_file
from ..training.adapter import train_adapter
from ..training.distributed import default_device
from ..training.settings import Objective
from . import scenes
from .autoencoder import decode_latents, encode_pictures
from .autoencoder_training import refine_decoder, train_autoencoder
from .classifier import objects_found
from .classifier_training import train_classifier
from .data import picture_set, to_tensor
from .encoder import EMBED_DIM, MEAN, STD, VISION, train_encoder
from .examples import write_examples
from .flow import FlowModel
from .looks import make_looks
from .painter import GUIDANCE, generate, preview_colors
from .parts import Parts
from .people import People
from .statistics import Whitening, reward_statistics
from .taste import SUPPORT_COUNTS, draw_support, embed_people, fit_prior
from .turbo import train_turbo

log = logging.getLogger(__name__)

ENCODER_NAME = "pocket-clip"

GAINS = (0.15, 0.25, 0.4, 0.6, 0.9)
OBJECT_LIMIT = 0.01
"""Strength 1 may cost tuning people this much micro F1 of the named objects."""


class Recipe(Parts):
    """Makes the parts of a world: each stage leaves a file and is made once."""

    def run(self) -> None:
        """Everything, in order."""
        self.make("base", "classifier", "pool", "taste encoder", *(["turbo"] if self.world.has_turbo else []))
        examples, everybody = self.weights / "examples", self.people["tuning"]
        write_examples(examples, self.world.examples, everybody, self.pool, self.painted["latents"], self.model)
        for name in self.world.adapters:
            self.make_adapter(name)

    def make(self, *stages: str) -> None:
        """These stages, and what they need, as far as their files are not there."""
        for name in stages:
            stage = STAGES[name]
            if not stage.file(self).exists():
                self.make(*stage.needs)
                start = time.monotonic()
                stage.make(self)
                self._note(name, time.monotonic() - start)

    def _note(self, stage: str, seconds: float) -> None:
        path = self.work / "seconds.json"
        noted = json.loads(path.read_text()) if path.exists() else {}
        write_file(path, json.dumps({**noted, stage: round(seconds, 1)}, indent=1).encode())

    def make_adapter(self, name: str) -> None:
        """A user adapter at its chosen strength."""
        path = self._adapter(name)
        if path.exists():
            return
        self.make("classifier", "pool", "taste encoder", "latents", "statistics")
        personal, seed = self.world.adapters[name]
        start = time.monotonic()
        config = {
            "encoder": self.posterior.name,
            "encoder_hash": self.posterior.weight_hash,
            "embedding_dim": self.prior.dim,
            "end_percent": self.world.end_percent,
        }
        trained = train_adapter(
            self.model,
            self.world.new_adapter(self.model, **config),
            self.picks,
            self.work / f"adapter-{name}.pt",
            steps=self.world.steps["adapter"],
            personal=personal,
            seed=seed,
            learning_rate=self.world.learning_rate,
            objective=Objective(beta=self.world.beta, contrast=0.0, soft_labels=False),
            name=name,
        )
        self.tuned(trained, personal).save(path, torch.float16)
        self._note(f"adapter {name}", time.monotonic() - start)

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
        shares = {gain: wins for gain, wins, _ in held}
        best = smallest_as_good(shares, len(u))
        scaled = adapter.scaled(best)
        told = {"gain": best, "tuning_wins": round(shares[best], 4)}
        scaled.config = replace(adapter.config, training={**adapter.config.training, **told})
        return scaled

    def _look(self, people: People, labels: np.ndarray, latents: Tensor) -> tuple[Tensor, float]:
        pictures = self.model.decode(latents)
        reward = people.rewards(reward_statistics(self.whitening, self.world.statistics(pictures)))
        return reward, micro_f1(object_counts(objects_found(self.classifier, pictures).numpy(), labels))

    def _render(self) -> None:
        picture_set(self.work / "pictures", self.world.sizes["pictures"], render=self.world.render)

    def _train_autoencoder(self) -> None:
        config, statistics, steps = self.world.vae_config, self.world.statistics, self.world.steps
        vae = train_autoencoder(
            self.data, self.work / "autoencoder.pt", steps["autoencoder"], config=config, statistics=statistics
        )
        refined = refine_decoder(vae, self.data, self.work / "decoder.pt", steps["decoder"], statistics=statistics)
        _save(refined.state_dict(), self._kept("vae"))

    def _encode(self) -> None:
        _save({"z": encode_pictures(self.vae, self.data.pictures)}, self._kept("latents"))

    def _train_base(self) -> None:
        """Written to the weights, so that all that follows is trained on what is shipped."""
        latents, scale = self.latents
        kind, steps = self.world.model, self.world.steps["base"]
        denoiser, text_encoder, vocabulary = self.world.train(latents, self.data, self.work / "base.pt", steps)
        colors = preview_colors(latents[:500], self.data.pictures[:500])
        made = kind(denoiser, text_encoder, self.vae, scale, vocabulary)
        made.save(self._base, self.world.vae_config, *colors)
        del self.vae, self.latents  # the base's own are half as precise

    def _decode(self) -> None:
        latents, scale = self.latents
        parts = [
            (decode_latents(self.model.vae, part / scale) * 255 + 0.5).byte().permute(0, 2, 3, 1).numpy()
            for part in tqdm(latents[: self.world.sizes["decoded"]].split(200), desc="decoding", mininterval=2.0)
        ]
        with replacing(self.work / "decoded.npy") as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(parts))

    def _train_classifier(self) -> None:
        classifier = train_classifier(
            self.data, self.decoded, self.work / "classifier.pt", self.world.steps["classifier"]
        )
        halves = {name: value.half() for name, value in classifier.state_dict().items()}
        _save(halves, self.world.file(self.weights, "classifier"))

    def _train_tower(self) -> None:
        if self.world.tower != self.world.name:
            raise ValueError(f"There is no {self._tower}: train the world {self.world.tower} first, whose tower it is.")
        trained = train_encoder(self.data, self.decoded, self.work / "encoder.pt", self.world.steps["encoder"])
        config = {"embed_dim": EMBED_DIM, "vision_cfg": VISION}
        save_encoder(self._tower, trained.visual, config, name=ENCODER_NAME, mean=MEAN, std=STD)

    def _paint_pool(self) -> None:
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
        tensors = {
            "captions": torch.from_numpy(captions),
            "latents": latents,
            "statistics": torch.cat(statistics),
            "features": torch.cat(features),
        }
        _save(tensors, self._kept("painted"))

    def _fit_units(self) -> None:
        raw = self.painted["statistics"]
        whitening = Whitening.fit(raw)
        covariance = torch.cov(reward_statistics(whitening, raw).T)
        tensors = {"mean": whitening.mean, "matrix": whitening.matrix, "covariance": covariance}
        _save(tensors, self.world.file(self.weights, "world"))

    def _fit_taste_encoder(self) -> None:
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
        looks = make_looks(self.encoder, self.model.vae, prior, self.world)
        TasteEncoder(tower, prior, looks, made).save(self.world.encoder(self.weights))

    def _train_turbo(self) -> None:
        model = FlowModel.load(self._base).to(default_device())
        lora = train_turbo(model, self.work / "turbo.pt", self.world.steps["turbo"])
        lora.save(self.world.file(self.weights, "turbo"))

    def _measure_decoded(self) -> None:
        parts = [to_tensor(self.decoded[i : i + 200]) for i in range(0, len(self.decoded), 200)]
        _save({"raw": torch.cat([self.world.statistics(part) for part in parts])}, self._kept("decoded_statistics"))


class Stage(NamedTuple):
    """`needs`: other stages; `file`: what it leaves."""

    needs: tuple[str, ...]
    file: Callable[[Recipe], Path]
    make: Callable[[Recipe], None]


STAGES = {
    "pictures": Stage((), lambda of: of.work / "pictures" / "done.json", Recipe._render),
    "autoencoder": Stage(
        ("pictures",),
        lambda of: of._base if of._base.exists() else of._kept("vae"),
        Recipe._train_autoencoder,
    ),
    "latents": Stage(("pictures", "autoencoder"), lambda of: of._kept("latents"), Recipe._encode),
    "base": Stage(("latents",), lambda of: of._base, Recipe._train_base),
    "decoded": Stage(("latents", "base"), lambda of: of.work / "decoded.npy", Recipe._decode),
    "classifier": Stage(
        ("pictures", "decoded"), lambda of: of.world.file(of.weights, "classifier"), Recipe._train_classifier
    ),
    "tower": Stage(("pictures", "decoded"), lambda of: of._tower, Recipe._train_tower),
    "pool": Stage(("base", "tower"), lambda of: of._kept("painted"), Recipe._paint_pool),
    "units": Stage(("pool",), lambda of: of.world.file(of.weights, "world"), Recipe._fit_units),
    "taste encoder": Stage(
        ("pool", "units"), lambda of: of.world.encoder(of.weights) / JSON_FILE, Recipe._fit_taste_encoder
    ),
    "turbo": Stage(("base",), lambda of: of.world.file(of.weights, "turbo"), Recipe._train_turbo),
    "statistics": Stage(("decoded", "units"), lambda of: of._kept("decoded_statistics"), Recipe._measure_decoded),
}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors in one step, since a half-written file would pass for a finished stage."""
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)


def smallest_as_good(wins: Mapping[float, float], count: int) -> float:
    """The smallest gain whose share of wins, of `count`, is within one standard error of the most."""
    most = max(wins.values())
    error = (most * (1 - most) / count) ** 0.5
    return min(gain for gain, share in wins.items() if share >= most - error)
