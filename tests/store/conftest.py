"""A taste store, and somebody in it."""

from __future__ import annotations

import pytest

from ppd.store import TasteStore


@pytest.fixture
def store(tmp_path):
    return TasteStore(tmp_path / "store")


@pytest.fixture
def aki(store):
    return store.add_person("Aki").id
