"""Damaged files, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Files as damage makes them: bytes changed here and there or in a run, pieces cut out, doubled, or cut off."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        values = bytearray(data)
        start, end = sorted(int(place) for place in generator.integers(0, len(data) + 1, 2))
        # Headers are where damage tells most
        near = min(len(data), 512) if generator.random() < 0.5 else len(data)
        match int(generator.integers(6)):
            case 0 | 1:
                for place in generator.integers(0, near, generator.integers(1, 5)):
                    values[place] = generator.integers(256)
            case 2:
                start = int(generator.integers(near))
                values[start : start + 4] = bytes([(0, 255, 127)[generator.integers(3)]] * 4)
            case 3:
                del values[start : start + (end - start) % 64 + 1]
            case 4:
                values[start:start] = values[start : start + (end - start) % 64 + 1]
            case 5:
                del values[start:]
        yield bytes(values)
