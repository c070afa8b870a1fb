"""The tab's report of a fault: copied by one press, and shown."""

from __future__ import annotations

import pytest

import ppd

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]


def test_a_press_copies_the_report(somebody, open_panel):
    person, _ = somebody
    page = open_panel(person)
    page.locator(".ppd-taste summary", has_text="More").click()
    page.get_by_role("button", name="Copy a report of a fault").click()
    shown = page.locator(".ppd-taste textarea.report")
    shown.wait_for()
    said = shown.input_value()
    assert said.startswith(f"Personalized diffusion {ppd.__version__}, ComfyUI 0.")
    assert "open_clip_torch" in said and "Models in memory: " in said and person not in said
