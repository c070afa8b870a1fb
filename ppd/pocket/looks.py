"""The pocket's looks: rendered pictures through its autoencoder, whose statistics are known, read by its features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..encoders.towers.open_clip import OpenClipTower
from . import scenes
from .autoencoder import PocketAutoencoder, decode_latents, encode_pictures
from .statistics import STATISTICS
from .world import POCKET, World

STUDIES, OTHERS = 100, 600
"""Pairs of each look's two ends, of one caption and seed; and pairs of any two seeds and styles of two captions."""
FIRST_SEED = 6 * 10**6


@dataclass(frozen=True)
class RenderedPairs:
    """Differences of features [n, f] and of raw statistics [n, M] between high and low side, or between any two
    pictures; which of STATISTICS was turned from end to end, -1 where none."""

    features: Tensor
    statistics: Tensor
    turned: Tensor


def rendered_pairs(
    tower: OpenClipTower, vae: PocketAutoencoder, studies: int, others: int, seed: int, world: World = POCKET
) -> RenderedPairs:
    """Pairs as `tower` sees them after the autoencoder: `studies` of each look, then `others`, from one seed."""
    rng = np.random.default_rng([FIRST_SEED, seed])
    captions = [scene.caption for scene in scenes.SCENES]
    turned = [*(k for k in range(len(STATISTICS)) for _ in range(studies)), *[-1] * others]
    sides: list[list[np.ndarray]] = [[], []]
    for k in turned:
        styles, seeds = [scenes.random_style(rng) for _ in sides], rng.integers(FIRST_SEED, 2 * FIRST_SEED, 2)
        named = rng.choice(captions, 2)
        for end, (side, style) in enumerate(zip(sides, styles, strict=True)):
            if k < 0:
                side.append(world.render(str(named[end]), style, int(seeds[end])))
            else:
                turned_style = {**styles[0], STATISTICS[k]: 1.0 - 2.0 * end}
                side.append(world.render(str(named[0]), turned_style, int(seeds[0])))
    seen, measured = [], []
    for side in sides:
        decoded = decode_latents(vae, encode_pictures(vae, np.stack(side)))
        seen.append(torch.cat([tower.image_tensor_features(part) for part in decoded.split(100)]))
        measured.append(torch.cat([world.statistics(part) for part in decoded.split(100)]))
    return RenderedPairs(seen[0] - seen[1], measured[0] - measured[1], torch.tensor(turned))


def make_looks(tower: OpenClipTower, vae: PocketAutoencoder, prior: PopulationPrior, world: World = POCKET) -> Looks:
    """The looks in `prior`'s coordinates: the statistics of the attributes' names, as far as phi tells them."""
    pairs = rendered_pairs(tower, vae, STUDIES, OTHERS, 0, world)
    differences = pairs.features.double() @ prior.basis.double()
    named = [(name, *world.probed[name]) for name in STATISTICS]
    prompt = list(range(len(differences)))
    return Looks.from_amounts(differences, pairs.statistics, named, prompt=prompt, measured="statistics of pictures")
