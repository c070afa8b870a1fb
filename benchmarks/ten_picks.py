"""`python -m benchmarks.ten_picks [FILE] [--world pocket-flow]`: from nobody to somebody in ten picks, as a picture.

With a name that ends in .webp it moves: each question, which side was picked, and what is painted after it.

What the workflow "learn my taste" does, without ComfyUI: each round two draws from what the picks leave open paint
one prompt and seed, and one of the two is picked by a rule, noiselessly. A row is one rule; a picture of it is what
the user embedding paints after so many picks, always of one prompt and seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ppd.encoders.encoder import PosteriorEncoder
from ppd.pairs import PreferencePair
from ppd.pictures import Picture
from ppd.pocket.statistics import STATISTICS, picture_statistics
from ppd.pocket.studio import Studio, load_encoder
from ppd.pocket.world import WORLDS
from ppd.sheet import contact_sheet

PROMPT, SEED = "a tree and a boat by a lake under the sun", 7
SHOWN = (0, 2, 4, 6, 8, 10)
SPREAD = torch.tensor([0.08, 0.10, 0.08, 0.05, 0.01, 0.01])
"""About a standard deviation of each of STATISTICS."""
CELL, MARGIN = 192, 12
RULES = {
    "who picks the warmer, more saturated picture": {"warmth": 1.0, "saturation": 1.0},
    "who picks the cooler, duller, softer picture": {
        "warmth": -1.0,
        "saturation": -1.0,
        "contrast": -1.0,
        "outline": -1.0,
    },
}


class Round(NamedTuple):
    """What the picks so far paint, the next question, and which side of it is picked."""

    now: Image.Image
    pair: list[Image.Image]
    picked: int


def looks(image: Image.Image) -> Tensor:
    """STATISTICS of a picture [M], in about standard deviations."""
    x = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    return picture_statistics(x[None])[0] / SPREAD


def interview(rule: dict[str, float], studio: Studio, encoder: PosteriorEncoder) -> Iterator[Round]:
    """Round after round of somebody who picks by a rule."""
    weights = torch.tensor([rule.get(name, 0.0) for name in STATISTICS])
    pairs: list[PreferencePair] = []
    for number in range(max(SHOWN) + 1):
        user = encoder.encode(pairs)
        (now,) = studio.paint(PROMPT, SEED, [user])
        pair = studio.paint(PROMPT, number, [user.draw(100 * number), user.draw(100 * number + 1)])
        picked = max((0, 1), key=lambda side: float(looks(pair[side]) @ weights))
        yield Round(now, pair, picked)
        chosen, rejected = Picture.from_image(pair[picked]), Picture.from_image(pair[1 - picked])
        pairs.append(PreferencePair(PROMPT, chosen, rejected, f"round {number}"))


def animate(everybody: list[list[Round]], file: Path) -> None:
    """A frame a pick: a row for each person with the question, its pick framed, and their picture by now."""
    frames = []
    for number in range(max(SHOWN) + 1):
        frame = Image.new("RGB", (3 * CELL + 5 * MARGIN, len(everybody) * (CELL + MARGIN) + MARGIN), "white")
        draw = ImageDraw.Draw(frame)
        for row, rounds in enumerate(everybody):
            now, pair, picked = rounds[number]
            top = MARGIN + row * (CELL + MARGIN)
            for column, picture in enumerate((*pair, now)):
                left = MARGIN + column * (CELL + MARGIN) + (MARGIN if column == 2 else 0)
                frame.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
                if column == picked:
                    draw.rectangle((left - 3, top - 3, left + CELL + 2, top + CELL + 2), outline="#2e9e4f", width=4)
        frames.append(frame)
    lasting = [1400] * (len(frames) - 1) + [3000]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=lasting, loop=0, quality=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("ten picks.jpg"))
    parser.add_argument("--world", choices=tuple(WORLDS), default="pocket")
    arguments = parser.parse_args()
    file: Path = arguments.file
    world = WORLDS[arguments.world]
    studio, encoder = Studio.open(world=world), load_encoder(world=world)
    everybody = [list(interview(rule, studio, encoder)) for rule in RULES.values()]
    if file.suffix == ".webp":
        animate(everybody, file)
    else:
        rows = [[rounds[number].now for number in SHOWN] for rounds in everybody]
        contact_sheet(rows, list(RULES), [f"{n} picks" for n in SHOWN]).save(file, quality=88)
    print(f"Saved {file}")


if __name__ == "__main__":
    main()
