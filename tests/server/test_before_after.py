"""Before and after, and a pick that paints the next: what the tab has the open workflow paint."""

from __future__ import annotations

import io
import urllib.request

import numpy as np
import pytest
from PIL import Image

from ppd.pictures import Picture

from .panels import graph_of, loaded, settle, until

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
PICTURES = ".ppd-taste .picture img"
RUNS = ".ppd-taste .runs figure"


@pytest.fixture
def somebody(somebody):
    return somebody[0]


def answer(store, person, count):
    """Prefers the warm and vivid picture so many times."""
    for number in range(count):
        colours = ((250, 120 + 5 * number, 40), (90, 100, 110 + 5 * number))
        pictures = [Picture.from_image(Image.new("RGB", (128, 128), colour)) for colour in colours]
        store.pick(store.add_candidate(person, f"answered {count}", *pictures), "first", f"{person} {count} {number}")


def open_workflow(page, server, name, steps=4):
    page.evaluate("workflow => app.loadGraphData(workflow)", server.workflow(name))
    page.evaluate(
        """steps => {
            for (const { widgets = [] } of app.graph.nodes) {
                for (const widget of widgets) if (widget.name === 'steps') widget.value = steps;
            }
        }""",
        steps,
    )


def history(server):
    return set(server.get("/history"))


def is_done(server):
    return server.get("/prompt")["exec_info"]["queue_remaining"] == 0


def interrupt(server, page):
    """Until it is heard: a run that only begins forgets it."""
    until(page, lambda: server.post("/interrupt", {}) or is_done(server))


def pixels(url):
    with urllib.request.urlopen(url, timeout=60) as found:
        return np.asarray(Image.open(io.BytesIO(found.read())).convert("RGB"))


@pytest.mark.parametrize(
    ("workflow", "answers", "captions"),
    [
        ("my taste", 12, ["0 answers", "5 answers", "all answers (12)"]),
        ("learn my taste", 7, ["0 answers", "3 answers", "all answers (7)"]),
    ],
)
def test_before_and_after_are_painted_from_one_prompt(
    server, graphs, store, somebody, open_panel, workflow, answers, captions
):
    answer(store, somebody, answers)
    page = open_panel(somebody)
    press = page.get_by_role("button", name="Before and after")
    assert press.count() == 0  # the frontend's own workflow reads nobody
    open_workflow(page, server, workflow)
    before, saved = graph_of(page), set((server.base / "output").rglob("*"))
    asked, ran = store.person(somebody).open, history(server)
    press.click()
    page.wait_for_function(f"document.querySelectorAll('{RUNS} img').length === 3", timeout=60_000)
    assert page.locator(f"{RUNS} figcaption").all_inner_texts() == captions
    nobody, some, all_ = (
        pixels(image.get_property("src").json_value()) for image in page.locator(f"{RUNS} img").element_handles()
    )
    assert len(history(server) - ran) == 3
    assert graph_of(page) == before
    assert store.person(somebody).open == asked and set((server.base / "output").rglob("*")) == saved
    stranger = store.add_person(f"{somebody} nobody").id
    prompt = graphs.set_inputs(server.prompt(workflow), "PPD_MyTaste", person=stranger)
    prompt = graphs.set_inputs(prompt, "PreferencePairLoader", preference_set=f"person: {stranger}")
    for class_type in ("KSampler", "PersonalizedDenoiser"):
        prompt = graphs.set_inputs(prompt, class_type, steps=4)
    for node in graphs.nodes_of(prompt, "PPD_PreferenceCollector"):
        del prompt[node]
    (average,) = server.pictures(server.run(prompt)).values()
    store.delete_person(stranger)
    assert np.array_equal(nobody, average[0])
    assert all(np.abs(one.astype(int) - nobody).mean() > 1 for one in (some, all_))
    assert np.abs(some.astype(int) - all_).mean() > 0.1


def test_nothing_is_painted_where_there_is_nothing_to_compare(server, store, somebody, open_panel):
    page = open_panel(somebody)
    notice = page.locator(".ppd-taste .notice")
    open_workflow(page, server, "my taste")
    press, ran = page.get_by_role("button", name="Before and after"), history(server)
    press.click()
    notice.get_by_text("has not answered anything yet").wait_for()
    answer(store, somebody, 3)
    page.evaluate("app.graph.findNodesByType('SaveImage')[0].mode = 2")
    press.click()
    notice.get_by_text("saves or shows no picture for").wait_for()
    page.evaluate("app.graph.findNodesByType('SaveImage')[0].mode = 0")
    open_workflow(page, server, "my taste", steps=400)
    page.evaluate("app.queuePrompt(0)")
    press.click()
    notice.get_by_text("Something else is being painted").wait_for()
    interrupt(server, page)
    assert page.locator(RUNS).count() == 0 and len(history(server) - ran) == 1


def test_a_pick_paints_the_next_once_and_the_focus_stays(server, store, somebody, open_panel):
    page = open_panel(somebody)
    open_workflow(page, server, "learn my taste")
    page.get_by_role("button", name="A pick paints the next").click()
    panel, ran = page.locator(".ppd-taste"), history(server)
    panel.focus()
    focused = "document.activeElement.className"
    assert page.evaluate(focused) == "ppd-taste"
    loaded(page, PICTURES)
    page.keyboard.press("ArrowLeft")
    panel.locator(".progress", has_text="Picks: 1. Questions waiting: 3.").wait_for()  # of 3 one more
    until(page, lambda: is_done(server))
    assert len(history(server) - ran) == 1 and page.evaluate(focused) == "ppd-taste"
    loaded(page, PICTURES)
    page.keyboard.press("ArrowDown")  # nothing is learned from a skip
    panel.locator(".progress", has_text="Picks: 1. Questions waiting: 2.").wait_for()
    open_workflow(page, server, "learn my taste", steps=400)
    page.evaluate("app.queuePrompt(0)")  # while it runs
    panel.focus()
    loaded(page, PICTURES)
    page.keyboard.press("ArrowLeft")
    panel.locator(".progress", has_text="Picks: 2.").wait_for()
    settle(page)
    interrupt(server, page)
    assert len(history(server) - ran) == 2


def test_a_pick_paints_only_what_asks_the_person(server, store, somebody, open_panel):
    page = open_panel(somebody)
    open_workflow(page, server, "learn my taste")
    collector = "app.graph.findNodesByType('PPD_PreferenceCollector')[0]"
    page.get_by_role("button", name="A pick paints the next").click()
    panel, ran = page.locator(".ppd-taste"), history(server)
    panel.focus()
    other = store.add_person(f"{somebody} other").id
    for number, spoil in enumerate((f"widgets[0].value = '{other}'", "mode = 2")):
        open_workflow(page, server, "learn my taste")
        page.evaluate(f"{collector}.{spoil}")
        loaded(page, PICTURES)
        page.keyboard.press("ArrowLeft")
        panel.locator(".progress", has_text=f"Picks: {number + 1}.").wait_for()
        settle(page)
    store.delete_person(other)
    assert history(server) == ran
