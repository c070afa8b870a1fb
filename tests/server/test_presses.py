"""Presses whose answers are lost, and the server's news: nothing counts twice, and no window stays behind."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from .panels import loaded, pick, settle, until, wait_for_picks
from .test_collect_widget import graph

pytestmark = [pytest.mark.comfyui, pytest.mark.browser, pytest.mark.usefixtures("own_windows")]
PICTURES = ".ppd-taste .picture img"
BUSY = json.dumps({"error": "busy: try again."})


@pytest.fixture
def open_panel(open_panel):
    def open_one(*given, **options):
        page = open_panel(*given, **options)
        page.complaints = Quiet()
        return page

    return open_one


class Quiet(list):
    """Complaints without the browser's own of an answer 503, and of none."""

    def __bool__(self):
        return any("503" not in line and "net::ERR_FAILED" not in line for line in self)


@pytest.fixture
def picked(store, somebody):
    """Somebody who has picked three times."""
    person, asked = somebody
    for number in asked:
        store.pick(number, "first", f"{person}-{number}")
    return person


def lose(page, pattern, is_done=True):
    """From now on what is asked at `pattern` is done, and answered 503 all the same; how often, and what ends it."""
    lost = []

    def answer(route):
        if is_done:
            route.fetch()
        lost.append(route.request.url)
        route.fulfill(status=503, content_type="application/json", body=BUSY)

    page.route(pattern, answer)
    return lost


def asked_of_server(page):
    """What is asked from now on, by its last words."""
    sent = []
    page.on(
        "request",
        lambda one: (
            "/ppd/" in one.url
            and not any(part in one.url for part in ("/pictures/", "/thumbnail"))
            and sent.append(one.url.rpartition("/")[2].partition("?")[0])
        ),
    )
    return sent


def test_an_undo_without_an_answer_pressed_again_takes_one_pick_back(store, picked, open_panel):
    page = open_panel(picked)
    wait_for_picks(page, 3, 0)
    lost = lose(page, "**/undo")
    lose(page, "**/question?*", is_done=False)  # nor does the window learn how the person stands
    page.locator(".ppd-taste").focus()
    for times in (1, 2):
        page.keyboard.press("u")
        until(page, lambda times=times: len(lost) == times)
        page.locator(".ppd-taste .notice", has_text="busy").wait_for()
        settle(page)  # with the look that the server's news led to
    page.unroute("**/undo")
    page.unroute("**/question?*")
    page.keyboard.press("u")
    wait_for_picks(page, 2, 1)
    assert len(store.history(picked)) == 2 and page.locator(".ppd-taste .entry").count() == 2
    loaded(page, PICTURES)
    page.keyboard.press("u")  # which is another press
    wait_for_picks(page, 1, 2)
    assert len(store.history(picked)) == 1


def test_a_window_hears_the_news_of_its_own_press_where_the_answer_is_lost(store, picked, open_panel):
    page = open_panel(picked)
    wait_for_picks(page, 3, 0)
    lose(page, "**/undo")
    page.locator(".ppd-taste").focus()
    page.keyboard.press("u")
    wait_for_picks(page, 2, 1)
    page.unroute("**/undo")
    loaded(page, PICTURES)
    page.keyboard.press("u")  # what is seen now is another pick
    wait_for_picks(page, 1, 2)
    assert len(store.history(picked)) == 1


def test_a_server_that_is_gone_is_told_in_words(store, picked, open_panel):
    page = open_panel(picked)
    wait_for_picks(page, 3, 0)
    page.route("**/undo", lambda route: route.abort())
    page.locator(".ppd-taste").focus()
    page.keyboard.press("u")
    page.locator(".ppd-taste .notice", has_text="ComfyUI does not answer").wait_for()
    assert len(store.history(picked)) == 3
    page.unroute("**/undo")


def test_the_nodes_undo_without_an_answer_counts_once_too(store, somebody, open_panel):
    person, asked = somebody
    store.pick(asked[0], "first", f"{person} before")
    page = open_panel(person)
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", graph(person))
    page.evaluate("app.queuePrompt(0)")
    node = page.locator(".ppd-collect")
    node.get_by_role("button", name="Neither").click()
    node.get_by_role("button", name="Undo").wait_for()
    lost = lose(page, "**/undo")
    for times in (1, 2):
        node.get_by_role("button", name="Undo").click()
        until(page, lambda times=times: len(lost) == times)
        node.get_by_role("alert").get_by_text("busy").wait_for()
    assert len(store.history(person)) == 1
    page.evaluate("app.graph.clear()")


def test_an_answer_that_comes_after_newer_news_tells_nothing(store, somebody, open_panel):
    page = open_panel(somebody[0])
    wait_for_picks(page, 0, 3)
    page.evaluate("() => { window.told = []; app.api.addEventListener('ppd.answered', () => window.told.push(1)); }")
    news = (
        """person => app.api.dispatchCustomEvent('ppd.taste', { person, revision: 1e9, request: 'another window' })"""
    )
    pick(page, "ArrowLeft")
    wait_for_picks(page, 1, 2)
    page.wait_for_function("window.told.length === 1")
    loaded(page, PICTURES)

    def late(route):
        answer = route.fetch()
        page.evaluate(news, somebody[0])
        route.fulfill(response=answer)

    page.route("**/picks", late)
    pick(page, "ArrowLeft")
    wait_for_picks(page, 2, 1)
    settle(page)
    assert page.evaluate("window.told.length") == 1


def test_what_another_window_changed_is_read_once(server, store, somebody, open_panel):
    person, asked = somebody
    page = open_panel(person)
    wait_for_picks(page, 0, 3)
    settle(page)
    sent = asked_of_server(page)
    body = {"candidate": asked[0], "verdict": "first", "request": "another window"}
    server.post(f"/ppd/people/{person}/picks", body)
    wait_for_picks(page, 1, 2)
    settle(page)
    assert sorted(set(sent)) == ["history", "people", "question", "tests", "waiting"]
    assert sent.count("people") == 1


def output(server, folder, count):
    """A folder of ComfyUI's output with so many pictures of one size in colours of their own."""
    (server.base / "output" / folder).mkdir()
    for number in range(count):
        colour = (5 * number, 60, 200)
        Image.new("RGB", (48, 48), colour).save(server.base / "output" / folder / f"{number}.png")


def open_library(page, folder):
    """Unfolds the library and looks into a folder of the output; its tiles."""
    page.get_by_text("Rate what I have").click()
    page.get_by_label("Folder").select_option(f"output: {folder}")
    tiles = page.locator(".ppd-library .tile")
    page.wait_for_function(
        "name => { const tiles = [...document.querySelectorAll('.ppd-library .tile')];"
        " return tiles.length && tiles.every(one => one.picture.name.startsWith(name)); }",
        arg=f"{folder}/",
    )
    settle(page)
    return tiles


@pytest.mark.parametrize("first", ["the answer", "the news"])
def test_a_rating_of_this_window_is_no_news_to_it(server, store, somebody, open_panel, first):
    """Whichever of the two comes first."""
    person, _ = somebody
    output(server, f"rated, {first}", 3)
    page = open_panel(person)
    tiles = open_library(page, f"rated, {first}")

    def after_the_news(route):
        answer = route.fetch()
        settle(page, asking=1)
        route.fulfill(response=answer)

    if first == "the news":
        page.route("**/library/ratings", after_the_news)
    sent = asked_of_server(page)
    tiles.first.get_by_label("Keep").click()
    page.locator(".ppd-library .gave", has_text="1 kept").wait_for()
    settle(page)
    assert sorted(sent) == ["history", "question", "ratings"]
    assert store.person(person).ratings == 1


def test_many_pictures_beside_a_rated_one_are_read_in_the_background_and_the_window_hears_of_it(
    server, store, somebody, open_panel
):
    """They are the background that a moodboard counts against."""
    person, _ = somebody
    output(server, "many", 40)
    page = open_panel(person)
    tiles = open_library(page, "many")
    page.evaluate(
        "() => { window.news = []; app.api.addEventListener('ppd.news', one => window.news.push(one.detail)); }"
    )
    tiles.first.get_by_label("Keep").click()
    page.locator(".ppd-library .gave", has_text="1 kept").wait_for()
    page.wait_for_function("window.news.length")
    settle(page)
    assert {(one["person"], one["request"]) for one in page.evaluate("window.news")} == {(person, None)}
    assert server.get(f"/ppd/people/{person}/question")["reading"] is None
