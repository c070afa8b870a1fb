"""The made-up set is one that the reader takes whole, and the benchmark counts all of it."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

from benchmarks.pair_index import measure, write_set
from ppd.pairs import read_pairs


def test_a_made_up_set_is_indexed_whole(tmp_path):
    file = tmp_path / "set.parquet"
    write_set(file, 3000)
    pairs = list(read_pairs(file))  # pictures decode, and no pair is of one
    assert len(pairs) == 3000
    assert len({pair.user for pair in pairs}) > 5 and sum(pair.tie for pair in pairs) == pytest.approx(360, abs=80)
    found = measure(file)
    assert found["split"]["pairs"] == 3000 and found["index_bytes_per_row"] == 40
    assert found["peak_mb_above_start"] < 300 and found["indexed_rows_per_second"] > 100


def test_pictures_may_be_large(tmp_path):
    file = tmp_path / "set.parquet"
    write_set(file, 20, 100_000)
    assert file.stat().st_size > 20 * 2 * 100_000
    pairs = list(read_pairs(file))
    assert len(pairs) == 20 and pairs[0].chosen.open().size == (1, 1)
