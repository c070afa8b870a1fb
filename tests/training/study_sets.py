"""Small sets of studies with latents: pictures of blobs in two looks, and a taste encoder made of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.workshop import Materials, make_encoder
from ppd.lexicon import Look, LookSide
from ppd.pictures import Picture
from ppd.studies import Cell, continue_studies, noise_of, open_studies

MODEL = {"class": "Tiny", "denoiser": "Tiny", "config": "0" * 16, "weights": "1" * 16}
SAMPLING = {"width": 64, "height": 64, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
SHAPE = (1, 4, 8, 8)
LOOKS = [
    Look(f"{low}-{high}", "light", LookSide(low, "", low), LookSide(high, "", high))
    for low, high in (("dark", "bright"), ("cool", "warm"))
]


def scene(seed, light=0.0, warmth=0.0):
    """A picture of blobs, brighter by `light` and warmer by `warmth`, both in 0..1's units."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    moved = np.asarray(blobs, dtype=np.float32) / 255 + light + np.array([warmth, 0, -warmth])
    return Picture.from_image(Image.fromarray((moved.clip(0, 1) * 255).astype(np.uint8)))


def latent_of(picture):
    """Colours of a picture in 8 x 8 fields, and their mean as a fourth channel."""
    small = np.asarray(picture.open().resize((8, 8), Image.Resampling.BOX), dtype=np.float32) / 127.5 - 1
    colours = torch.from_numpy(small).permute(2, 0, 1)[None]
    return torch.cat([colours, colours.mean(1, keepdim=True)], 1)


def paint_studies(folder, prompts=24, own_noise=False):
    """Both sides of both looks for every prompt."""
    writer = continue_studies(folder, LOOKS, MODEL, SAMPLING)
    for number in range(prompts):
        for index, look in enumerate(LOOKS):
            cell = Cell(look, f"prompt {number}", 10 * number + index)
            for side, sign in (("low", -1), ("high", 1)):
                light, warmth = 0.25 * sign * (index == 0), 0.25 * sign * (index == 1)
                picture = scene(cell.seed, light, warmth)
                noise = noise_of(cell.seed + own_noise, SHAPE)
                writer.add(cell, side, picture, latent_of(picture), noise)
    return open_studies(folder)


def encoder_of(studies, tower) -> PosteriorEncoder:
    """The taste encoder that is made of them."""
    features = PictureFeatures(tower)
    made = make_encoder(features, {"kind": "folder"}, Materials(studies))
    return PosteriorEncoder(features, made.prior, made.looks)
