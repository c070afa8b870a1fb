"""The Taste panel and its routes: a pick by mouse and by key, undo, what is refused, what never reaches the graph."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from PIL import Image

from ppd.pairs import Picture
from ppd.store import TasteStore

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]


@pytest.fixture
def store(server):
    return TasteStore(server.base / "user" / "__ppd" / "taste")


@pytest.fixture
def somebody(store, request):
    """A new person with three questions, red against blue pictures; the newest comes first."""
    person = store.add_person(request.node.name[:60]).id
    colours = [((250, number, 0), (0, number, 250)) for number in range(3)]
    asked = [
        store.add_candidate(
            person, f"question {number}", *(Picture.from_image(Image.new("RGB", (64, 64), c)) for c in pair)
        )
        for number, pair in enumerate(colours)
    ]
    yield person, asked[::-1]
    store.delete_person(person)


def call(server, path, body=None, content_type="application/json"):
    """Status and text of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/ppd/{path}", data, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_questions_are_answered_over_http(server, store, somebody):
    person, asked = somebody
    status, answer = call(server, f"people/{person}/question")
    question = json.loads(answer)["question"]
    assert (status, question["id"], question["prompt"]) == (200, asked[0], "question 2")
    assert call(server, f"pictures/{question['first']}") == (200, store.picture(question["first"]).read_bytes())
    for _ in range(2):  # a request that is sent twice counts once
        body = {"candidate": asked[0], "verdict": "second", "request": "one"}
        status, answer = call(server, f"people/{person}/picks", body)
        assert (status, json.loads(answer)["question"]["id"]) == (200, asked[1])
    assert [(one.id, one.verdict) for one in store.history(person)] == [(asked[0], "second")]
    status, answer = call(server, f"people/{person}/undo", {"request": "two"})
    assert json.loads(answer)["question"]["id"] == asked[0]
    assert store.history(person) == []


def test_bad_requests_are_refused_and_write_nothing(server, store, somebody):
    person, asked = somebody
    other = store.add_person("somebody else").id
    good = {"candidate": asked[0], "verdict": "first", "request": "r"}
    bodies = [
        b"{",
        b"[]",
        b"x" * 5000,
        {},
        {**good, "more": 1},
        {**good, "candidate": "1"},
        {**good, "candidate": True},
        {**good, "candidate": -1},
        {**good, "candidate": 10**30},
        {**good, "request": ""},
        {**good, "request": "r" * 201},
    ]
    assert {call(server, f"people/{person}/picks", body)[0] for body in bodies} == {400}
    assert call(server, f"people/{person}/picks", good, "text/plain")[0] == 400
    refused = [
        call(server, f"people/{person}/picks", {**good, "verdict": "left"}),
        call(server, f"people/{person}/picks", {**good, "candidate": 10**6}),
        call(server, f"people/{other}/picks", good),
        call(server, "people/nobody/question"),
        call(server, "people/nobody/undo", {"request": "r"}),
        call(server, f"pictures/{'0' * 64}"),
        call(server, "pictures/..%2Ftaste.sqlite3"),
    ]
    assert {status for status, _ in refused} == {404}
    assert all(b"Traceback" not in text for _, text in refused)
    assert store.history(person) == store.history(other) == []
    store.delete_person(other)


def test_a_foreign_page_cannot_pick(server, store, somebody):
    """ComfyUI's own protection: a request that a browser marks as from elsewhere."""
    person, asked = somebody
    body = json.dumps({"candidate": asked[0], "verdict": "first", "request": "r"}).encode()
    headers = {"Content-Type": "application/json", "Origin": "http://evil.example", "Host": "127.0.0.1"}
    request = urllib.request.Request(f"{server.url}/ppd/people/{person}/picks", body, headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 403
    assert store.history(person) == []


@pytest.fixture
def page(server, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    page.evaluate("app.extensionManager.setting.set('Comfy.TutorialCompleted', true)")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    page.wait_for_selector(".ppd-taste")
    yield page
    page.close()


def test_the_panel_picks_by_mouse_and_key_and_leaves_the_graph_alone(server, store, somebody, page, tmp_path):
    person, asked = somebody
    graph = "JSON.stringify(app.graph.serialize())"
    page.locator(".ppd-taste select").select_option(person)
    page.get_by_text("question 2").wait_for()
    before = page.evaluate(graph)
    page.get_by_label("Left is better").click()
    page.get_by_text("question 1").wait_for()
    panel = page.locator(".ppd-taste")
    panel.focus()
    for key, shown in (("ArrowRight", "question 0"), ("ArrowUp", "No question waits"), ("u", "question 0")):
        panel.press(key)
        page.get_by_text(shown).wait_for()
    page.screenshot(path=tmp_path / "panel.png")
    standing = [(one.id, one.verdict) for one in store.history(person)]
    assert standing == [(asked[1], "second"), (asked[0], "first")]
    assert page.evaluate(graph) == before
    page.reload(wait_until="domcontentloaded")
    assert [(one.id, one.verdict) for one in store.history(person)] == standing


def test_keys_typed_elsewhere_pick_nothing(server, store, somebody, page):
    person, _ = somebody
    page.locator(".ppd-taste select").select_option(person)
    page.get_by_text("question 2").wait_for()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'elsewhere'}))")
    page.locator("#elsewhere").focus()
    for key in ("ArrowLeft", "ArrowUp", "u", "1"):
        page.keyboard.press(key)
    page.wait_for_timeout(500)
    assert store.history(person) == []
