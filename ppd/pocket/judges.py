"""Simulated people as judges of a pocket's pictures: what they see of them are pixels, never an encoder's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..evaluation.judges import Asked, Judged
from ..limits import number, parsed
from ..pictures import Picture
from .data import to_tensor
from .people import population
from .scenes import SIZE
from .statistics import STATISTICS, Whitening, reward_statistics
from .world import World

TASTE_FILE = "taste.json"
HEAVIEST = 100.0


@dataclass(frozen=True, eq=False)
class PocketEyes:
    """How a world's people see pictures: whitened, clipped statistics [M], of each picture once."""

    world: World
    whitening: Whitening
    seen: dict[str, Tensor] = field(default_factory=dict)

    def see(self, pictures: Sequence[Picture]) -> Tensor:
        """[n, M]; pictures of another size than the world paints raise ValueError."""
        for picture in pictures:
            if picture.digest not in self.seen:
                image = picture.open()
                if image.size != (SIZE, SIZE):
                    raise ValueError(
                        f"The people of {self.world.title} see pictures of {SIZE} x {SIZE}, got {image.width} x "
                        f"{image.height}: save them as they were painted, not larger."
                    )
                statistics = self.world.statistics(to_tensor(np.asarray(image.convert("RGB"))[None]))
                self.seen[picture.digest] = reward_statistics(self.whitening, statistics)[0]
        return torch.stack([self.seen[picture.digest] for picture in pictures])


@dataclass(frozen=True, eq=False)
class PocketPerson:
    """Somebody of hidden weights [M] over what they see, who says without error what rewards them more, as in the
    figures of the model cards."""

    eyes: PocketEyes
    weights: Tensor

    def judge(self, questions: Sequence[Asked]) -> list[Judged]:
        """By the sign of the difference of rewards."""
        first, second = [one.first for one in questions], [one.second for one in questions]
        ahead = (self.eyes.see(first) - self.eyes.see(second)) @ self.weights
        return [Judged("first" if one > 0 else "second" if one < 0 else "tie") for one in ahead.tolist()]


def people_of(world: World, weights: Path, tastes: Sequence[Path]) -> dict[str, PocketPerson]:
    """The people whose tastes lie in `tastes`, folders with a taste.json, by the folders' names; without any the
    world's 200 reporting people, whom nothing was trained on."""
    units = load_file(world.file(weights, "world"))
    eyes = PocketEyes(world, Whitening(units["mean"], units["matrix"]))
    if tastes:
        names = [folder.resolve().name for folder in tastes]
        if len({*names}) < len(names):
            raise ValueError(f"Expected tastes in folders of different names, got {', '.join(names)}: rename one.")
        return {
            name: PocketPerson(eyes, _weights(folder / TASTE_FILE)) for name, folder in zip(names, tastes, strict=True)
        }
    everybody = population(units["covariance"])["reporting"].weights
    return {f"person {place}": PocketPerson(eyes, one) for place, one in enumerate(everybody, 1)}


def _weights(path: Path) -> Tensor:
    found = parsed(path.name, path.read_bytes())
    weights = found.get("weights") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or set(weights) != set(STATISTICS):
        raise ValueError(f"{path} tells no taste: expected weights for {', '.join(STATISTICS)}, as the examples have.")
    return torch.tensor([number(name, weights[name], -HEAVIEST, HEAVIEST) for name in STATISTICS], dtype=torch.float32)
