"""The shipped preference sets: clear picks of two people of the tuning set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..pairs import PreferencePair, write_pairs
from ..pictures import Picture
from . import scenes
from .painter import Painter
from .people import People
from .statistics import STATISTICS
from .studio import to_images
from .taste import SUPPORT_COUNTS, Pool, draw_support


def write_examples(
    examples: Path, wanted: dict[str, dict[str, float]], people: People, pool: Pool, latents: Tensor, model: Painter
) -> None:
    """The four clearest of 32 picks of some of `people` as preference sets, with their tastes in taste.json.

    `wanted`: for each set the direction to which its person's taste is nearest. `latents` [n, 4, 16, 16] are those of
    the pool's pictures, which `model` painted.
    """
    for i, (name, direction) in enumerate(wanted.items()):
        folder = examples / name
        if (folder / "taste.json").exists():
            continue
        near = torch.tensor([direction.get(statistic, 0.0) for statistic in STATISTICS])
        nearest = torch.nn.functional.cosine_similarity(people.weights, near[None]).argmax()
        person = People(people.weights[nearest][None], people.types[nearest][None])
        support = draw_support(pool, person, max(SUPPORT_COUNTS), np.random.default_rng([91, i]))
        gap = (pool.statistics[support.chosen[0]] - pool.statistics[support.rejected[0]]) @ person.weights[0]
        clearest = gap.argsort(descending=True)[:4].numpy()
        columns = [
            [
                Picture.from_image(image)
                for image in to_images(model.decode(latents[torch.from_numpy(index[0, clearest])]))
            ]
            for index in (support.chosen, support.rejected)
        ]
        prompts = [scenes.SCENES[c].caption for c in pool.captions[support.chosen[0, clearest]]]
        pairs = [
            PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, id=f"{name} {j + 1}")
            for j, (prompt, chosen, rejected) in enumerate(zip(prompts, *columns, strict=True))
        ]
        write_pairs(folder, pairs)
        taste = dict(zip(STATISTICS, (round(float(w), 4) for w in person.weights[0]), strict=True))
        (folder / "taste.json").write_text(json.dumps({"weights": taste}, indent=1) + "\n")
