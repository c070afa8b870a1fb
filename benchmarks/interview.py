"""People of the pocket world who are asked: pools of candidate pairs, interviews, and duels in closed loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.encoders.posterior import fit_posteriors
from ppd.encoders.statements import asked_of, would_ask
from ppd.evaluation import Array, wins
from ppd.files import file_digest
from ppd.hosts.diffusers import DiffusersHost
from ppd.pocket import scenes
from ppd.pocket.evaluate import GUIDANCE, Evaluation
from ppd.pocket.painter import generate
from ppd.pocket.people import People, pick
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import CLIP, picture_statistics
from ppd.pocket.taste import Pool

SEED = 101
SIZE, FRESH = 500, 400
"""Candidate pairs in a pool, and the pairs that are kept out of it."""
DUEL_SEED = 5 * 10**6
Ask = Callable[[int, Tensor, Tensor, Tensor, Tensor, Tensor | None], int | None]
"""A way to ask: the arguments and the answer of `ppd.questions.next_question`."""


@dataclass(frozen=True)
class Questions:
    """Everybody's candidates: differences phi(first) - phi(second) [P, N, d], whether the first would be picked and how
    far apart the true rewards are [P, N]; and of fresh pairs the differences [P, F, d] and whether the first is truly
    preferred [P, F]."""

    differences: Tensor
    first: Tensor
    reward_gap: Tensor
    fresh: Tensor
    fresh_first: Tensor

    def of(self, size: int) -> Questions:
        """Those with a pool of the first `size` candidates."""
        differences, first, gap = (part[:, :size] for part in (self.differences, self.first, self.reward_gap))
        return Questions(differences, first, gap, self.fresh, self.fresh_first)

    def accuracy(self, u: Tensor) -> Array:
        """The share of fresh pairs of which u [P, d] prefers what the person does: [P]."""
        prefers = torch.einsum("pfd,pd->pf", self.fresh, u.double()) > 0
        return (prefers == self.fresh_first).double().mean(1).numpy()


def disjoint_pairs(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """Picture indices [n, 2] of all the pairs of one caption that can be made with every picture in at most one."""
    order = rng.permutation(len(pool.captions))
    order = order[np.argsort(pool.captions[order], kind="stable")]
    captions = pool.captions[order]
    place = np.arange(len(order)) - np.searchsorted(captions, captions)
    first = np.flatnonzero((place[:-1] % 2 == 0) & (captions[:-1] == captions[1:]))
    return np.stack([order[first], order[first + 1]], axis=1)


def draw_questions(pool: Pool, people: People, prior: PopulationPrior, draw: int) -> Questions:
    """Draw number `draw` of everybody's SIZE candidates, FRESH pairs and answers; no picture is in two of the pairs."""
    rng = np.random.default_rng([SEED, draw])
    pairs = disjoint_pairs(pool, rng)
    rows = np.stack([rng.permutation(len(pairs))[: SIZE + FRESH] for _ in people.weights])
    a, b = pairs[rows, 0], pairs[rows, 1]
    reward_a, reward_b = (people.rewards(pool.statistics[index]) for index in (a, b))
    picked = pick(reward_a[:, :SIZE], reward_b[:, :SIZE], rng)
    x = prior.differences(pool.features[a], pool.features[b]).double()
    gap = reward_a - reward_b
    return Questions(x[:, :SIZE], picked, gap[:, :SIZE].abs(), x[:, SIZE:], gap[:, SIZE:] > 0)


def interview(
    questions: Questions, prior: PopulationPrior, ask: Ask, picks: int, looks: Looks | None = None
) -> tuple[Tensor, Tensor]:
    """Posterior means [picks + 1, P, d] after 0, 1 ... answers, and which candidates were asked [P, picks].

    With `looks` the way to ask is told which candidates would ask of one that was not asked yet, as in the panel.
    """
    people, size, d = questions.differences.shape
    everybody = torch.arange(people)
    signs = torch.where(questions.first, 1.0, -1.0).double()[..., None]
    means = prior.mean.double().expand(people, d)
    covariances = prior.covariance.double().expand(people, d, d)
    asked = torch.empty(people, 0, dtype=torch.long)
    found = [means]
    for number in range(picks):
        is_open = torch.ones(people, size, dtype=torch.bool).scatter_(1, asked, False)
        choice = torch.empty(people, dtype=torch.long)
        for person, x in enumerate(questions.differences):
            rows = is_open[person].nonzero().flatten()
            opening = None
            if looks is not None:
                told = asked_of(looks, x[asked[person]] * prior.noise)
                opening = would_ask(looks, told, x[rows] * prior.noise)
            best = ask(number, x[rows], x[asked[person]], means[person], covariances[person], opening)
            choice[person] = rows[best or 0]  # the first where all that are left are like those asked
        asked = torch.cat([asked, choice[:, None]], 1)
        x = (questions.differences * signs)[everybody[:, None], asked]
        ones = torch.ones(asked.shape, dtype=torch.float64)
        means, covariances = fit_posteriors(x, ones, ones, prior.mean.double(), prior.covariance.double())
        found.append(means)
    return torch.stack(found), asked


@dataclass(frozen=True)
class Painter:
    """Paints with the shipped adapter; what was painted before is read from `folder`."""

    recipe: Recipe
    folder: Path
    steps: int

    def paint(self, captions: np.ndarray, seeds: np.ndarray, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Captions and seeds of any shape [...], u [..., d] or None for the base: whitened statistics, not clipped,
        [..., M] and encoder features [..., f]."""
        adapter = self.recipe.weights / "adapters" / "pocket.safetensors"
        what = [captions.tolist(), seeds.tolist(), self.steps, GUIDANCE, file_digest(adapter)]
        key = sha256(json.dumps(what).encode() + (b"" if u is None else u.float().numpy().tobytes())).hexdigest()
        path = self.folder / f"{key[:24]}.npz"
        if not path.exists():
            host = None if u is None else DiffusersHost(self.recipe.model.denoiser, self.recipe.adapter("pocket"))
            latents = generate(
                self.recipe.model,
                captions.flatten().tolist(),
                seeds.flatten().tolist(),
                host=host,
                u=None if u is None else u.float().reshape(-1, 1, u.shape[-1]),
                guidance=GUIDANCE,
                steps=self.steps,
            )
            statistics, features = [], []
            for part in latents.split(100):
                pictures = self.recipe.model.decode(part)
                statistics.append(picture_statistics(pictures))
                features.append(self.recipe.encoder.image_tensor_features(pictures))
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".partial{time.monotonic_ns()}.npz")
            np.savez(partial, statistics=torch.cat(statistics).numpy(), features=torch.cat(features).numpy())
            partial.replace(path)
        kept = np.load(path)
        scores, seen = (torch.from_numpy(kept[name]) for name in ("statistics", "features"))
        return self.recipe.whitening.scores(scores).unflatten(0, captions.shape), seen.unflatten(0, captions.shape)


@dataclass(frozen=True)
class Gallery:
    """Held-out captions and seeds of people, [P, K], whom the painter paints for and who judge."""

    painter: Painter
    people: People
    captions: np.ndarray
    seeds: np.ndarray

    @classmethod
    def open(cls, painter: Painter, people: int) -> Gallery:
        """Those of the reporting people in the evaluation."""
        evaluation = Evaluation(painter.recipe, people)
        evaluation.progress.close()
        return cls(painter, evaluation.people, evaluation.captions, evaluation.seeds)

    def part(self, people: int, pictures: int) -> Gallery:
        """The first pictures of its first people."""
        chosen = People(self.people.weights[:people], self.people.types[:people])
        return Gallery(self.painter, chosen, self.captions[:people, :pictures], self.seeds[:people, :pictures])

    def wins(self, u: Tensor) -> Array:
        """Whether the owner prefers each picture painted for u [P, K, d] to the base's: [P, K]."""
        ours, base = self._rewards(u), self._rewards(None)
        return wins(ours.numpy(), base.numpy())

    def _rewards(self, u: Tensor | None) -> Tensor:
        columns = []
        for k in range(self.captions.shape[1]):  # one by one, so that a run with more pictures finds those of fewer
            row = None if u is None else u[:, k]
            columns.append(self.painter.paint(self.captions[:, k], self.seeds[:, k], row)[0])
        return self.people.rewards(torch.stack(columns, 1).clamp(-CLIP, CLIP))


def duel(gallery: Gallery, *, two_seeds: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Round after round, with one seed for both pictures or with two: posterior means [P, d] after the pick, the picks'
    differences phi(chosen) - phi(rejected) so far [P, n, d], and how far apart the pair's true rewards are [P]."""
    recipe, people = gallery.painter.recipe, len(gallery.people.weights)
    encoder = PosteriorEncoder(PictureFeatures(recipe.encoder), recipe.prior)
    rng = np.random.default_rng([SEED, 7, two_seeds])
    embeddings = [encoder.encode([])] * people
    differences = torch.empty(people, 0, recipe.prior.dim)
    for number in count():
        captions = rng.choice(scenes.TRAINING_CAPTIONS, (people, 1)).repeat(2, 1)
        seeds = DUEL_SEED + 2 * (people * number + np.arange(people)[:, None]) + np.array([0, int(two_seeds)])
        u = torch.stack(
            [torch.cat([one.draw(int(seed)).u for seed in rng.integers(2**31, size=2)]) for one in embeddings]
        )
        scores, features = gallery.painter.paint(captions, seeds, u)
        rewards = gallery.people.rewards(scores.clamp(-CLIP, CLIP))
        sign = torch.where(pick(rewards[:, 0], rewards[:, 1], rng), 1.0, -1.0)[:, None]
        seen = recipe.prior.differences(features[:, 0], features[:, 1]) * sign
        differences = torch.cat([differences, seen[:, None]], 1)
        embeddings = [encoder.encode_differences(row) for row in differences]
        yield torch.cat([one.u for one in embeddings]), differences, (rewards[:, 0] - rewards[:, 1]).abs()
