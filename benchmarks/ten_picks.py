"""`python -m benchmarks.ten_picks [FILE]`: from nobody to somebody in ten picks, as a picture.

What the workflow "learn my taste" does, without ComfyUI: each round two draws from what the picks leave open paint
one prompt and seed, and one of the two is picked by a rule, noiselessly. A row is one rule; a picture of it is what
the user embedding paints after so many picks, always of one prompt and seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppd.pairs import PreferencePair
from ppd.pictures import Picture
from ppd.pocket.statistics import STATISTICS, picture_statistics
from ppd.pocket.studio import Studio, load_encoder
from ppd.sheet import contact_sheet

PROMPT, SEED = "a tree and a boat by a lake under the sun", 7
SHOWN = (0, 2, 4, 6, 8, 10)
SPREAD = torch.tensor([0.08, 0.10, 0.08, 0.05, 0.01, 0.01])
"""About a standard deviation of each of STATISTICS."""
RULES = {
    "who picks the warmer, more saturated picture": {"warmth": 1.0, "saturation": 1.0},
    "who picks the cooler, duller, softer picture": {
        "warmth": -1.0,
        "saturation": -1.0,
        "contrast": -1.0,
        "outline": -1.0,
    },
}


def looks(image: Image.Image) -> Tensor:
    """STATISTICS of a picture [M], in about standard deviations."""
    x = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    return picture_statistics(x[None])[0] / SPREAD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("ten picks.jpg"))
    file: Path = parser.parse_args().file
    studio, encoder, rows = Studio.open(), load_encoder(), []
    for rule in RULES.values():
        weights = torch.tensor([rule.get(name, 0.0) for name in STATISTICS])
        pairs: list[PreferencePair] = []
        row = []
        for number in range(max(SHOWN) + 1):
            user = encoder.encode(pairs)
            if number in SHOWN:
                row += studio.paint(PROMPT, SEED, [user])
            pair = studio.paint(PROMPT, number, [user.draw(100 * number), user.draw(100 * number + 1)])
            chosen, rejected = sorted(pair, key=lambda image: float(looks(image) @ weights), reverse=True)
            pairs.append(
                PreferencePair(PROMPT, Picture.from_image(chosen), Picture.from_image(rejected), f"round {number}")
            )
        rows.append(row)
    contact_sheet(rows, list(RULES), [f"{n} picks" for n in SHOWN]).save(file, quality=88)
    print(f"Saved {file}")


if __name__ == "__main__":
    main()
