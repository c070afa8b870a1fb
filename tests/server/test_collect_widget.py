"""The node Collect Preferences in the real server: its widget in both renderers, and its wait."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from uuid import uuid4

import pytest

from .panels import graph_of, loaded, settle, steady, until, watched
from .test_checkpoints import node

pytestmark = pytest.mark.comfyui
PICTURES = ".ppd-collect img"
OURS = ("ppd", "personalized-diffusion")
"""What a message of the console names if it is about this pack."""
COLLECTOR = "app.graph.findNodesByType('PPD_PreferenceCollector')[0]"
FRESH = iter(range(1, 1000))
"""A colour that no picture had yet, so that nothing comes from a cache and every question is a new one."""


@pytest.fixture
def name(request, store):
    """Somebody's name, who is gone after the test."""
    name = f"{request.node.name[:40]} {uuid4().hex[:8]}"
    yield name
    for person in store.people():
        if name in person.name:
            store.delete_person(person.id)


def graph(person, pairs=1, **collector):
    """Plain pictures, reddish against bluish, for the collector; node ids are numbers, as the frontend wants them."""
    number = next(FRESH)
    size = {"width": 96, "height": 64, "batch_size": pairs}
    inputs = {"images": ["1", 0], "other_images": ["2", 0], "person": person, "prompt": f"question {number}"}
    return {
        "1": node("EmptyImage", **size, color=0xC00000 + number),
        "2": node("EmptyImage", **size, color=0x0000C0 + (number << 8)),
        "3": node("PPD_PreferenceCollector", **(inputs | {"wait_seconds": 0} | collector)),
    }


def person_called(store, name):
    for _ in range(100):
        if person := store.person_called(name):
            return person.id
        time.sleep(0.1)
    raise AssertionError(f"nobody was made for {name}")


def open_question(store, name):
    """Waits for a question of somebody who may not be there yet."""
    person = person_called(store, name)
    for _ in range(100):
        if found := store.inbox(person):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"nothing was asked of {name}")


def call(server, path, body=None):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/ppd/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_waiting_run_goes_on_with_the_last_answer(server, store, name):
    prompt_id = server.submit(graph(name, pairs=2, images=["1", 0], wait_seconds=300))
    first = open_question(store, name)
    assert not server.get(f"/history/{prompt_id}")
    answer = {"candidate": first.id, "verdict": "first", "request": f"{name} 1"}
    assert call(server, f"people/{first.person}/picks", answer)[0] == 200
    started = time.monotonic()
    entry = server.finished(prompt_id)
    assert time.monotonic() - started < 5
    (report,) = entry["outputs"]["3"]["text"]
    assert report == f"{name}: questions open 0, answered 1. Of this run's 1, answered 1."
    assert [one["id"] for one in entry["outputs"]["3"]["ppd_question"]] == [first.id]


def test_interrupting_ends_the_wait_and_the_server_goes_on(server, store, name):
    waiting = server.submit(graph(name, wait_seconds=300))
    question = open_question(store, name)
    asked = time.monotonic()
    server.post("/interrupt", {})
    entry = server.finished(waiting)
    assert time.monotonic() - asked < 2
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    assert server.run(graph(name))["outputs"]["3"]["text"] == [f"{name}: questions open 2, answered 0."]
    assert store.candidate(question.id).verdict is None


@pytest.fixture(scope="module", params=[False, True], ids=["classic nodes", "nodes 2.0"])
def frontend(request, server, chromium):
    """The open frontend, and the list of what its console complained of."""
    # Before the page opens, lest the tutorial of a first start comes over it
    server.post("/settings", {"Comfy.VueNodes.Enabled": request.param, "Comfy.TutorialCompleted": True})
    page = watched(chromium.new_page(viewport={"width": 1400, "height": 1000}))
    page.set_default_timeout(60_000)
    page.complaints = complaints = []

    def on_console(message):
        if message.type in ("error", "warning"):
            complaints.append(f"{message.text} ({message.location.get('url')})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}\n{error.stack}"))
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PPD_PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    yield page, complaints
    page.close()


@pytest.fixture
def opened(server, frontend, name):
    """Opens a graph, its collector in the middle of the page; the widget. Closed before its person is erased."""
    page, complaints = frontend
    complaints.clear()

    def open_graph(prompt):
        page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", prompt)
        page.wait_for_function(COLLECTOR)
        page.evaluate(
            f"() => {{ const node = {COLLECTOR}; node.pos = [700, 100]; app.canvas.ds.scale = 1;"
            " app.canvas.ds.offset = [-300, 50]; app.canvas.setDirty(true, true); }"
        )
        widget = page.locator(".ppd-collect")
        widget.get_by_text("Run the workflow").wait_for()
        return widget

    yield open_graph
    page.evaluate("app.graph.clear()")
    page.evaluate("() => fetch('/ppd/people')")  # the widget's own last request has its answer by then
    server.post("/interrupt", {})  # what a failed test left waiting
    assert [text for text in complaints if text.startswith("exception") or any(part in text for part in OURS)] == []


@pytest.mark.browser
def test_the_node_asks_and_leaves_the_graph_alone(frontend, opened, store, name):
    page, _ = frontend
    widget = opened(graph(name, pairs=2))
    before = graph_of(page)
    assert json.loads(before)["nodes"][-1]["widgets_values"][0] == name
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_label("Right is better").wait_for()
    loaded(page, PICTURES)
    assert page.evaluate(f"[...document.querySelectorAll('{PICTURES}')].map(image => image.naturalWidth)") == [96, 96]
    question = open_question(store, name)

    widget.get_by_label("Right is better").click()
    widget.get_by_text("You picked the right.").wait_for()
    assert store.candidate(question.id).verdict == "second"
    widget.get_by_text("Undo").click()
    widget.get_by_text("Neither (").wait_for()
    assert store.candidate(question.id).verdict is None

    widget.focus()
    loaded(page, PICTURES)
    for key in ("Delete", "Backspace", "Enter", "ArrowLeft"):
        page.keyboard.press(key)
    widget.get_by_text("You picked the left.").wait_for()
    assert store.candidate(question.id).verdict == "first"
    # But for the name, in whose place stands an id as soon as there is one
    assert graph_of(page) == before.replace(name, question.person)


@pytest.mark.browser
def test_keys_go_to_the_widget_under_the_mouse_or_with_the_focus_and_answer_what_is_seen(frontend, opened, store, name):
    page, _ = frontend
    widget = opened(graph(name))
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_text("Neither (").wait_for()

    def press_all():
        for key in ("ArrowLeft", "ArrowUp", "u"):
            page.keyboard.press(key)
        settle(page)
        assert store.history(person_called(store, name)) == []

    page.evaluate("document.activeElement.blur()")
    page.mouse.move(20, 500)
    press_all()  # neither
    widget.hover()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'typed'}))")
    page.evaluate("document.querySelector('#typed').focus()")
    press_all()  # the mouse is there, but somebody types elsewhere
    page.evaluate("document.querySelector('#typed').remove()")
    widget.focus()
    page.evaluate("() => { app.canvas.ds.offset = [-3000, 50]; app.canvas.setDirty(true, true); }")
    page.wait_for_function("!document.elementFromPoint(700, 500)?.closest('.ppd-collect')")
    press_all()  # the focus is there, but out of sight
    page.evaluate("() => { app.canvas.ds.offset = [-300, 50]; app.canvas.setDirty(true, true); }")
    page.evaluate("document.activeElement.blur()")
    widget.hover()
    loaded(page, PICTURES)
    page.keyboard.press("ArrowLeft")
    widget.get_by_text("You picked the left.").wait_for()


@pytest.mark.browser
def test_the_pictures_stay_when_zoomed_out_and_their_bars_pick_nothing(frontend, opened, store, name):
    page, _ = frontend
    widget = opened(graph(name))
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_text("Neither (").wait_for()
    widget.get_by_text(f"Asked of {name} · question").wait_for()
    left = widget.get_by_label("Left is better")
    page.wait_for_function(
        "document.querySelector('.ppd-collect .picture').style.getPropertyValue('--ratio') === '1.5'"
    )
    picture, side = left.bounding_box(), widget.locator(".side").first.bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(1.5, abs=0.02)
    bar = picture["y"] - side["y"]
    assert bar > 10  # a wide picture in a high column
    page.mouse.click(picture["x"] + picture["width"] / 2, side["y"] + bar / 2)
    settle(page)
    assert store.history(person_called(store, name)) == []
    page.evaluate("() => { app.canvas.ds.scale = 0.35; app.canvas.setDirty(true, true); }")
    width = "document.querySelector('.ppd-collect .picture').getBoundingClientRect().width"
    page.wait_for_function(f"{width} < {0.6 * picture['width']}")
    assert widget.is_visible() and steady(page, width) > 20
    left.click()
    widget.get_by_text("You picked the left.").wait_for()
    opacity = "side => getComputedStyle(document.querySelector(`.ppd-collect .side:nth-child(${side}) button`)).opacity"
    assert page.evaluate(opacity, 1) == page.evaluate(opacity, 2) == "1"


@pytest.mark.browser
def test_the_wheel_zooms_the_graph_over_the_widget_too(frontend, opened, name):
    page, _ = frontend
    widget = opened(graph(name))
    widget.hover()
    page.mouse.wheel(0, 200)
    page.wait_for_function("app.canvas.ds.scale < 1")


@pytest.mark.browser
def test_a_waiting_run_is_answered_in_the_node(server, frontend, opened, store, name):
    """Both questions of a run, the newest first."""
    page, _ = frontend
    prompt = graph(name, pairs=2, wait_seconds=300)
    prompt["4"] = node("EmptyImage", width=96, height=64, batch_size=1, color=0x00FF00)
    prompt["5"] = node("ImageBatch", image1=["1", 0], image2=["4", 0])
    prompt["6"] = node("EmptyImage", width=96, height=64, batch_size=3, color=0x808080)
    prompt["3"]["inputs"] |= {"images": ["5", 0], "other_images": ["6", 0]}
    widget = opened(prompt)
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_text("Neither (").wait_for()
    assert server.get("/queue")["queue_running"]
    widget.focus()
    loaded(page, PICTURES)
    page.keyboard.press("ArrowUp")
    widget.get_by_text("Next (1 more)").wait_for()
    loaded(page, PICTURES)
    page.keyboard.press("Enter")  # the button has the focus by now
    widget.get_by_text("Neither (").wait_for()
    loaded(page, PICTURES)
    page.keyboard.press("ArrowRight")
    widget.get_by_text("You picked the right.").wait_for()
    until(page, lambda: not server.get("/queue")["queue_running"])
    assert [one.verdict for one in store.history(person_called(store, name))] == ["second", "tie"]


@pytest.mark.browser
def test_an_answer_from_elsewhere_is_shown(server, frontend, opened, store, name):
    page, _ = frontend
    widget = opened(graph(name))
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_text("Neither (").wait_for()
    question = open_question(store, name)
    store.pick(question.id, "skip", name)
    server.run(graph(name))  # the collector tells all browsers that something is new with this person
    widget.get_by_text("You skipped this.").wait_for()


@pytest.mark.browser
def test_before_a_run_the_node_tells_what_waits(server, frontend, opened, store, name):
    """For the tab's person, as the tab's icon does."""
    page, _ = frontend
    person = store.add_person(name).id
    page.evaluate("person => localStorage.setItem('ppd.person', person)", person)
    widget = opened(graph("tab"))
    for waiting in (1, 2):
        server.run(graph(f"not {name}"))
        server.run(graph(name))
        widget.get_by_text(f"Earlier questions for {name} wait in the tab Taste (the heart): {waiting}.").wait_for()


@pytest.mark.browser
def test_a_workflow_that_comes_back_asks_again(frontend, opened, name):
    """From another tab, or from the history; one that is opened anew asks nothing."""
    page, _ = frontend
    widget = opened(graph(name))
    page.evaluate("app.queuePrompt(0)")
    widget.get_by_text("Neither (").wait_for()
    outputs = page.evaluate("app.nodeOutputs")
    assert [*outputs] == ["3"]
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    widget.get_by_text("Run the workflow").wait_for()
    page.evaluate("outputs => { app.nodeOutputs = outputs; }", outputs)
    widget.get_by_text("Neither (").wait_for()


@pytest.mark.browser
def test_it_asks_within_a_subgraph(frontend, opened, name):
    page, _ = frontend
    opened(graph(name))
    page.evaluate(f"() => {{ app.graph.convertToSubgraph(new Set([{COLLECTOR}])); }}")
    page.evaluate("app.queuePrompt(0)")
    inner = "app.graph.nodes.find(node => node.subgraph).subgraph.nodes[0].widgets.at(-1).element"
    page.wait_for_function(f"{inner}.querySelectorAll('img').length === 2")
