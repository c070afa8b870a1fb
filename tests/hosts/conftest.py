"""Tests with ComfyUI: it collects garbage with each model that it loads, which takes longer than small models do."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays():
    """Spare the collector all that was there before the module's tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
