"""Rendered training pictures on disk: pictures, captions and styles in memory-mapped arrays, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import scenes

Render = Callable[[str, dict[str, float], int], np.ndarray]
"""Caption, style and seed to a picture [128, 128, 3] uint8."""


@dataclass(frozen=True)
class PictureSet:
    """`pictures` [n, 128, 128, 3] uint8, `captions` [n] index into scenes.SCENES, `styles` [n, 7] in -1..1."""

    pictures: np.ndarray
    captions: np.ndarray
    styles: np.ndarray

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, np.ndarray]:
        """`size` random pictures as [size, 3, 128, 128] in 0..1, and their indices."""
        index = rng.integers(len(self.pictures), size=size)
        return to_tensor(self.pictures[np.sort(index)]), np.sort(index)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """[n, H, W, 3] uint8 to [n, 3, H, W] float in 0..1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(255)


def _render_chunk(render: Render, seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pictures, captions, styles = [], [], []
    for seed in seeds:
        rng = np.random.default_rng([17, seed])
        caption = int(rng.integers(len(scenes.SCENES)))
        style = scenes.random_style(rng)
        pictures.append(render(scenes.SCENES[caption].caption, style, seed))
        captions.append(caption)
        styles.append(list(style.values()))
    return np.stack(pictures), np.array(captions), np.array(styles, dtype=np.float32)


def picture_set(
    directory: Path, count: int, first_seed: int = 0, workers: int = 2, render: Render = scenes.render
) -> PictureSet:
    """Pictures of seeds first_seed .. first_seed + count, drawn on first use and memory-mapped afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    done = directory / "done.json"
    wanted = {"count": count, "first_seed": first_seed}
    if not done.exists() or json.loads(done.read_text()) != wanted:
        done.unlink(missing_ok=True)  # a kill while rendering must not leave it beside half a set
        shape = (count, scenes.SIZE, scenes.SIZE, 3)
        pictures = np.lib.format.open_memmap(directory / "pictures.npy", "w+", np.uint8, shape)
        captions = np.empty(count, np.int64)
        styles = np.empty((count, len(scenes.STYLES)), np.float32)
        starts = range(0, count, 250)
        chunks = [range(first_seed + start, first_seed + min(start + 250, count)) for start in starts]
        with ProcessPoolExecutor(workers) as pool:
            results = tqdm(
                pool.map(partial(_render_chunk, render), chunks), desc="rendering", total=len(chunks), mininterval=2.0
            )
            for start, (drawn, named, styled) in zip(starts, results, strict=True):
                part = slice(start, start + len(drawn))
                pictures[part], captions[part], styles[part] = drawn, named, styled
        pictures.flush()
        np.save(directory / "captions.npy", captions)
        np.save(directory / "styles.npy", styles)
        done.write_text(json.dumps(wanted))
    return PictureSet(
        np.load(directory / "pictures.npy", mmap_mode="r"),
        np.load(directory / "captions.npy"),
        np.load(directory / "styles.npy"),
    )
