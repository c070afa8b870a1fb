"""Rate what I have, in the real frontend: by mouse and by key, just painted ones at once, and never a key unseen."""

from __future__ import annotations

import os
import time

import pytest
from PIL import Image, PngImagePlugin

from .panels import graph_of, loaded, settle

pytestmark = [pytest.mark.comfyui, pytest.mark.browser, pytest.mark.usefixtures("own_windows")]
HUES = 9
FOCUSED = ".ppd-library .tile:focus img"


@pytest.fixture
def person(somebody):
    return somebody[0]


@pytest.fixture
def folder(server, request):
    """A folder of output with nine pictures of two prompts, the newest called 0.png; its name in the list."""
    name = f"seen {request.node.name[:40]}"
    (server.base / "output" / name).mkdir()
    for number in range(HUES):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", f"{'a fox' if number < 6 else 'a hare'}\nSteps: 4")
        path = server.base / "output" / name / f"{number}.png"
        Image.new("RGB", (48, 48), (25 * number, 60, 200)).save(path, pnginfo=info)
        at = time.time_ns() - number * 10**9
        os.utime(path, ns=(at, at))
    return f"output: {name}"


@pytest.fixture
def page(open_panel, person):
    """A window with the library unfolded for the test's person."""
    page = open_panel(person, width=1366, height=768)
    page.get_by_text("Rate what I have").click()
    gave(page, "Keep what you love")
    return page


def look_into(page, folder):
    settle(page)
    page.get_by_label("Folder").select_option(folder)
    name = folder.partition(": ")[2]
    page.wait_for_function(
        "name => [...document.querySelectorAll('.ppd-library .tile')].filter(one => one.picture.name.startsWith(name))"
        f".length === {HUES}",
        arg=name,
    )
    settle(page)


def reach(page, number):
    """Gives the focus to a tile whose picture is loaded and in sight: no key rates another."""
    tile(page, number).focus()
    tile(page, number).scroll_into_view_if_needed()
    loaded(page, FOCUSED)


def gave(page, text):
    page.locator(".ppd-library .gave").get_by_text(text).wait_for(timeout=10_000)


def ratings(store, person):
    """Names of the rated pictures, with what was said of them."""
    return {one.origin["picture"].rpartition("/")[2]: one.rating for one in store.rated(person)}


def tile(page, number):
    return page.locator(".ppd-library .tile").nth(number)


def test_by_mouse_and_by_key_and_taken_back(store, person, folder, page):
    look_into(page, folder)
    before = graph_of(page)
    tile(page, 0).get_by_label("Keep").click()
    gave(page, "1 kept, 0 not for me: 0 choices, 1 on the moodboard.")
    reach(page, 0)
    for key in ("ArrowRight", "x", "ArrowDown", "K", "ArrowLeft", "ArrowUp", "k"):
        page.keyboard.press(key)
        loaded(page, FOCUSED)
    tile(page, 0).locator("button.keep[aria-pressed=false]").wait_for()  # pressed again: taken back
    gave(page, "1 kept, 1 not for me: 1 choices, 0 on the moodboard.")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.ppd-library .tiles:not(:empty)')).gridTemplateColumns"
    )
    below = 1 + len(columns.split())
    assert ratings(store, person) == {"1.png": "not", f"{below}.png": "keep"}
    assert tile(page, 1).get_by_label("Not for me (X)").get_attribute("aria-pressed") == "true"
    assert graph_of(page) == before
    page.get_by_text("not rated yet").click()
    page.wait_for_function(f"document.querySelectorAll('.ppd-library .tile').length === {HUES - 2}")
    page.get_by_text("not rated yet").click()
    assert store.history(person) == []  # no arrow has answered a question


def test_the_large_view_rates_goes_on_and_closes(store, person, folder, page):
    look_into(page, folder)
    tile(page, 2).locator("img").click()
    large = page.locator(".ppd-large img")
    large.wait_for()
    assert "2.png" in large.get_attribute("src")
    loaded(page, ".ppd-large img")
    page.keyboard.press("k")
    page.locator(".ppd-large button.keep[aria-pressed=true]").wait_for()
    page.keyboard.press("ArrowRight")
    loaded(page, ".ppd-large img[src*='3.png']")
    page.keyboard.press("x")
    page.locator(".ppd-large button.not[aria-pressed=true]").wait_for()
    page.keyboard.press("Escape")
    page.locator(".ppd-large").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.picture.name").endswith("3.png")
    assert ratings(store, person) == {"2.png": "keep", "3.png": "not"}


def test_the_rest_of_a_prompt_after_a_question(store, person, folder, page):
    look_into(page, folder)
    reach(page, 0)
    page.keyboard.press("k")
    gave(page, "1 kept")
    settle(page)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="The rest of this prompt").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("5 more pictures of this prompt").wait_for()
    dialog.get_by_role("button", name="Confirm").click()
    gave(page, "1 kept, 5 not for me: 1 choices, 0 on the moodboard.")
    assert len(store.pairs(person)) == 5
    assert page.locator(".ppd-library .tile.refused").count() == 5


def test_no_key_acts_on_what_is_not_seen(store, person, folder, page):
    page.set_viewport_size({"width": 1366, "height": 500})
    look_into(page, folder)
    reach(page, 0)
    page.evaluate("document.activeElement.closest('.ppd-taste').scrollTop = 0")
    # Out of sight; the focus stays
    page.evaluate("document.querySelector('.ppd-library').style.marginTop = '2000px'")
    page.keyboard.press("k")
    settle(page)
    assert ratings(store, person) == {}
    loaded(page, FOCUSED)
    page.keyboard.press("k")  # the first press has brought it in sight
    gave(page, "1 kept")
    settle(page)
    page.keyboard.down("x")
    page.keyboard.down("x")  # held: once
    gave(page, "0 kept, 1 not for me")
    page.keyboard.up("x")
    page.evaluate("document.querySelector('.ppd-library').style.marginTop = ''")
    page.evaluate("document.activeElement.closest('details').open = false")  # folded: nothing of it has the focus
    page.keyboard.press("k")
    settle(page)
    assert ratings(store, person) == {"0.png": "not"}
    page.get_by_text("Rate what I have").click()


def test_a_phone_and_a_picture_that_cannot_be_shown(server, folder, page):
    name = folder.partition(": ")[2]
    (server.base / "output" / name / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    page.set_viewport_size({"width": 390, "height": 800})
    look_into(page, folder)
    page.get_by_text("This picture cannot be shown.").wait_for()
    box, tab = tile(page, 1).bounding_box(), page.locator(".ppd-taste").bounding_box()
    assert box["width"] > 100 and tab["width"] <= 390
    assert page.evaluate(
        "document.querySelector('.ppd-taste').scrollWidth <= document.querySelector('.ppd-taste').clientWidth"
    )


def test_what_a_run_painted_stands_at_the_top_at_once(server, store, person, page):
    """Also what was only previewed, which lies in ComfyUI's temp."""
    workflow = server.workflow("first personal picture")
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.evaluate(
        """() => {
            for (const node of app.graph.nodes) {
                const set = (widget, value) => (node.widgets.find(one => one.name === widget).value = value);
                if (['PersonalizedDenoiser', 'KSampler'].includes(node.type)) set('steps', 2);
            }
        }"""
    )
    page.evaluate("app.queuePrompt(0, 1)")
    page.get_by_role("heading", name="Just painted").wait_for(timeout=60_000)
    shown = "[...document.querySelector('.ppd-library .tiles').children].map(one => one.picture)"
    page.wait_for_function(f"{shown}.filter(one => one.folder === 'output').length === 2", timeout=60_000)
    pictures = page.evaluate(shown)
    saved = [one for one in pictures if one["folder"] == "output"]
    assert {one["name"].rpartition("_0")[0] for one in saved} == {"personal/base", "personal/for one person"}
    assert {one["prompt"] for one in saved} == {"a lighthouse by a lake with a mountain behind"}
    assert {one["folder"] for one in pictures} == {"output", "temp"}
    page.locator(".ppd-library .tiles").first.locator(".tile").first.get_by_label("Keep").click()
    gave(page, "1 kept")
    (kept,) = store.rated(person)
    assert kept.prompt == pictures[0]["prompt"]
