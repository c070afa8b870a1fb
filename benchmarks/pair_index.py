"""How fast a large preference set is indexed and split, and in how much memory.

A set of made-up rows in Pick-a-Pic's columns is written (24 MB for a million), indexed in a process of its own, split,
and read again as far as it trains. `python -m benchmarks.pair_index --rows 1000000 --json FILE`; with
`--rows 10000 --picture-bytes 95000` a file of 1.9 GB, which is deleted at the end as well.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ppd.pair_digest import preference_set_digest
from ppd.pair_index import index_pairs, split, told
from ppd.pairs import read_pairs

GROUP = 10_000
"""Rows that are made, and written, at a time."""
PAIRS_PER_PERSON, PAIRS_PER_PROMPT, PICTURES_PER_PROMPT = 160, 16, 12
"""As in Pick-a-Pic v2: 959,000 rows of 5,800 people and 58,000 prompts."""
BITMAP = bytes.fromhex("424d3a0000000000000036000000280000000100000001000000010018000000000004000000") + bytes(16)


def write_set(file: Path, rows: int, picture_bytes: int = 0, seed: int = 0) -> None:
    """A parquet file of made-up picks: few people answer often, most seldom; pictures are one pixel, each another, and
    as many bytes after it."""
    rng = np.random.default_rng(seed)
    people, prompts = max(1, rows // PAIRS_PER_PERSON), max(1, rows // PAIRS_PER_PROMPT)
    often, more = rng.pareto(1.2, people) + 0.1, rng.bytes(picture_bytes)
    group = min(GROUP, 100_000_000 // (2 * picture_bytes + 100))
    schema = _table(rng, np.zeros(0, int), np.zeros(0, int), more).schema
    with pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for start in range(0, rows, group):
            count = min(group, rows - start)
            whose = rng.choice(people, count, p=often / often.sum())
            writer.write_table(_table(rng, whose, rng.integers(prompts, size=count), more))


def _table(rng: np.random.Generator, whose: Any, prompts: Any, more: bytes) -> pyarrow.Table:
    first, step = rng.integers(PICTURES_PER_PROMPT, size=len(whose)), rng.integers(1, PICTURES_PER_PROMPT, len(whose))
    places = [first, (first + step) % PICTURES_PER_PROMPT]
    label = rng.choice([0.0, 0.5, 1.0], len(whose), p=[0.44, 0.12, 0.44]).astype(np.float32)
    pictures = [[_bitmap(int(one)) + more for one in prompts * PICTURES_PER_PROMPT + place] for place in places]
    columns = {
        "caption": pyarrow.array([f"a picture of thing {one}, in some style" for one in prompts], pyarrow.string()),
        "jpg_0": pyarrow.array(pictures[0], pyarrow.binary()),
        "jpg_1": pyarrow.array(pictures[1], pyarrow.binary()),
        "label_0": pyarrow.array(label),
        "label_1": pyarrow.array(1 - label),
        "user_id": pyarrow.array(whose.astype(np.int64)),
    }
    return pyarrow.table(columns)


def _bitmap(number: int) -> bytes:
    return BITMAP + number.to_bytes(3, "little") + b"\0"


def memory(name: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def measure(file: Path) -> dict[str, Any]:
    """Rates in rows a second and peak memory above the start in MB, in a process that has done nothing else."""
    start = time.perf_counter()
    preference_set_digest(file)
    fingerprint = time.perf_counter() - start
    start = time.perf_counter()
    next(read_pairs(file))
    first = time.perf_counter() - start
    before, start = memory("VmRSS"), time.perf_counter()
    index = index_pairs(file)
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") - before
    start = time.perf_counter()
    parts = split(index)
    split_seconds, split_peak = time.perf_counter() - start, memory("VmHWM") - before
    start = time.perf_counter()
    read = sum(1 for _ in index.read(parts.train))
    read_seconds = time.perf_counter() - start
    assert read == int(parts.train.sum())
    return {
        "fingerprint_seconds": fingerprint,
        "first_pair_seconds": first,
        "indexed_rows_per_second": len(index) / seconds,
        "index_bytes_per_row": sum(one.itemsize for one in (index.rows, index.outcomes)) + 32,
        "peak_mb_above_start": peak,
        "split_seconds": split_seconds,
        "peak_mb_above_start_with_split": split_peak,
        "second_pass_rows_per_second": len(index) / read_seconds,
        "peak_mb_above_start_at_the_end": memory("VmHWM") - before,
        "split": told(index, parts),
    }


def results(rows: int, picture_bytes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """For a tenth of the rows and for all: what does not depend on their number shows."""
    for count in (rows // 10, rows):
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as process:
            file = Path(folder) / "set.parquet"
            start = time.perf_counter()
            write_set(file, count, picture_bytes)
            made = {"rows": count, "megabytes": file.stat().st_size / 1e6, "written_in": time.perf_counter() - start}
            yield count, made | process.apply(measure, (file,))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair_index")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--picture-bytes", type=int, default=0, help="after a picture's one pixel (default: none)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {}
    for count, found in results(arguments.rows, arguments.picture_bytes):
        report[str(count)] = found
        print(json.dumps(found, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
