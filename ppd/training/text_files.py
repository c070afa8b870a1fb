"""What prompts say to a base, on disk: read once, by every process of a machine its share, and never all in memory.

Files `<rank>-<number>.pt` hold the states of up to SHARD prompts each, by the prompts' SHA-256; they are read through a
memory map. They lie in a folder that is named after what PROBE says, so that another text encoder finds none of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..files import replacing
from ..hosts.denoiser import ReadTexts
from .control import stop_if_asked
from .distributed import own_share, processes, shared

SHARD = 128
"""Prompts: more are faster where text encoder and denoiser do not fit onto the GPU together, and wait in memory."""
PROBE = "a picture"


class TextFiles:
    """Keeps prompts' states in `folder` (denoiser.KeepTexts); every process asks for the same prompts. A file STOP in
    the folder of the `run` stops the reading."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self._name = ""

    def __call__(self, prompts: Sequence[str], read: ReadTexts) -> list[Any]:
        """States of the prompts, which `read` makes of those that the folder does not hold yet."""
        if not self._name:
            self._name = shared(_name(read([PROBE])))
        folder, mine, is_own = self.folder / self._name, processes(), own_share()
        folder.mkdir(parents=True, exist_ok=True)
        digests = [sha256(prompt.encode()).hexdigest() for prompt in prompts]
        held = _states(folder)
        missing = [
            (digest, prompt)
            for digest, prompt in zip(digests, prompts, strict=True)
            if is_own(digest) and digest not in held
        ]
        mine.wait_for_everyone()  # all have seen the same files
        number = sum(1 for _ in folder.glob(f"{mine.process_index}-*.pt"))
        parts = range(0, len(missing), SHARD)
        for start in tqdm(parts, desc="reading prompts", mininterval=2.0, disable=not missing):
            stop_if_asked(self.run, "reading prompts")
            some = missing[start : start + SHARD]
            states = read([prompt for _, prompt in some])
            with replacing(folder / f"{mine.process_index}-{number}.pt") as partial:
                torch.save(dict(zip((digest for digest, _ in some), states, strict=True)), partial)
            number += 1
        mine.wait_for_everyone()
        held = _states(folder)
        return [held[digest] for digest in digests]


def _states(folder: Path) -> dict[str, Any]:
    """By digest, all that the folder holds; their numbers stay on disk until they are asked for."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*-*.pt")):
        found |= torch.load(path, mmap=True, weights_only=True)
    return found


def _name(states: Sequence[Any]) -> str:
    """Tells text encoders apart by what they say."""
    buffer = io.BytesIO()
    torch.save(list(states), buffer)
    return sha256(buffer.getvalue()).hexdigest()[:12]
