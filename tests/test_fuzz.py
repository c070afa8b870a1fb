"""Every kind of file of ours, damaged in a thousand ways: it is used and gives numbers, or one sentence refuses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fuzz import outcomes
from tests.fuzz_kinds import COSTLY, KINDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def one_thread():
    """What is computed is too small to be shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_used_or_refused_in_a_sentence(tmp_path, name):
    count = COSTLY.get(name, 1000)
    found = outcomes(KINDS[name](tmp_path), count, seed=0)
    assert min(found["used"], found["refused"]) >= count // 20  # neither all harmless nor all refused at the door


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_more_within_a_gigabyte(tmp_path, name):
    """With a limit on the process's memory, beyond which it cannot ask for any."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", name, str(tmp_path), "10000", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr[-2000:]
