"""A taste store, and somebody in it."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ppd.store import TasteStore

MEMORY = Path("/dev/shm")
"""A drive in memory, where the system has one."""


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where that can be: a store waits for its drive at every write, and kill -9 spares both drives alike."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def store(tmp_path):
    return TasteStore(tmp_path / "store")


@pytest.fixture
def aki(store):
    return store.add_person("Aki").id
