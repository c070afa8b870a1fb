"""The rating page over the whole window: keys that act only on what is seen, one zoom on all pictures, grids, studies,
and one request for a press."""

from __future__ import annotations

import shutil
import statistics
import time

import pytest
from PIL import Image

from ppd.lexicon import Look, LookSide
from ppd.pictures import Picture
from ppd.studies import continue_studies

from .panels import graph_of, loaded, settle, wait_for_picks
from .test_collect_widget import graph

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
PICTURES = ".ppd-taste.page .picture img"


@pytest.fixture
def somebody(somebody):
    return somebody[0]


def plain(*colour, size=(64, 64)):
    return Picture.from_image(Image.new("RGB", size, colour))


def fill(store, person, count, prompt="a lake", size=(64, 64)):
    for number in range(count):
        pair = plain(250 - 6 * number, 5 * number, 20, size=size), plain(20, 6 * number, 250 - 5 * number, size=size)
        store.add_candidate(person, prompt, *pair)


def open_page(open_panel, person, **options):
    page = open_panel(person, has_tab=False, **options)
    page.keyboard.press("Alt+t")
    root = page.locator(".ppd-taste.page")
    root.wait_for()
    return page, root


def wait_until_read(server, person):
    """Until the server has read all pictures of a person."""
    end = time.monotonic() + 60
    while server.get(f"/ppd/people/{person}/question")["reading"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def all_loaded(page):
    loaded(page, PICTURES)


def test_keys_are_live_at_once_and_none_reaches_the_graph(store, somebody, open_panel):
    page, root = open_page(open_panel, somebody)
    all_loaded(page)
    before = graph_of(page)
    page.evaluate("app.canvas.selectItems([app.graph.nodes[0]])")
    for key in ("Delete", "Backspace", "r", "m", "Control+a"):  # the graph's own
        page.keyboard.press(key)
    for key, picks in (("ArrowLeft", 1), ("ArrowUp", 2), ("u", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        root.locator(".progress", has_text=f"Picks: {picks}.").wait_for(state="attached")
    assert graph_of(page) == before
    assert len(store.history(somebody)) == 2
    page.keyboard.press("Escape")
    root.wait_for(state="detached")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert len(store.history(somebody)) == 2


def test_a_press_is_one_request_and_thirty_answers_take_little_time(server, store, somebody, open_panel):
    fill(store, somebody, 35)
    store.set_half_life(somebody, 2)  # else fewer answers tell enough, and nothing more is asked
    page, root = open_page(open_panel, somebody)
    all_loaded(page)
    wait_until_read(server, somebody)
    settle(page)
    sent, seconds = [], []
    page.on("request", lambda request: "/ppd/" in request.url and sent.append(request.url))
    for number in range(30):
        start = time.perf_counter()
        page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
        root.locator(".progress", has_text=f"Picks: {number + 1}.").wait_for(state="attached")
        all_loaded(page)
        seconds.append(time.perf_counter() - start)
    assert len(store.history(somebody)) == 30
    settle(page)
    presses = [url for url in sent if "/pictures/" not in url and "/thumbnails/" not in url]
    assert len(presses) == 30 and all(url.endswith(f"/people/{somebody}/picks") for url in presses)
    assert sum(seconds) < 60
    assert statistics.median(seconds) < 1.5


def test_a_press_is_one_request_also_with_the_node_open(server, store, somebody, open_panel):
    """Which shows how its own question stands, and whether it can be undone there, as the server has it."""
    page = open_panel(somebody)
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", graph(somebody))
    page.evaluate("app.queuePrompt(0)")
    node, panel = page.locator(".ppd-collect"), page.locator(".ppd-taste")
    node.locator(".picture img").first.wait_for()
    asked = max(store.inbox(somebody), key=lambda one: one.id)
    wait_for_picks(page, 0, 4)
    wait_until_read(server, somebody)
    settle(page)
    sent, pictures = [], ("/pictures/", "/thumbnails/")
    page.on("request", lambda request: "/ppd/" in request.url and sent.append(request.url))
    panel.focus()
    loaded(page, ".ppd-taste .picture img")
    for key, picks in [*(("ArrowLeft", picks) for picks in (1, 2, 3, 4)), *(("u", picks) for picks in (3, 2, 1, 0))]:
        page.keyboard.press(key)
        panel.locator(".progress", has_text=f"Picks: {picks}.").wait_for()
        settle(page)  # with the server's news of it
        stands = server.get(f"/ppd/people/{somebody}/questions/{asked.id}")
        said = "You picked the left." if stands["verdict"] else "Neither ("
        assert node.get_by_text(said).count() == 1 and node.get_by_text("Undo").count() == int(stands["latest"])
    presses = [url for url in sent if not any(one in url for one in pictures)]
    assert len(presses) == 8 and {url.rpartition("/")[2] for url in presses} == {"picks", "undo"}
    page.evaluate("app.graph.clear()")


def test_bars_and_drags_pick_nothing_and_both_pictures_have_one_zoom(store, somebody, open_panel):
    for one in store.inbox(somebody):
        store.pick(one.id, "skip", f"{somebody}-{one.id}")
    store.add_candidate(somebody, "wide", plain(200, 0, 0, size=(96, 48)), plain(0, 0, 200, size=(96, 48)))
    page, root = open_page(open_panel, somebody)
    all_loaded(page)
    frame = root.locator(".picture").first.bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.click(middle[0], frame["y"] + 10)  # beside the picture
    settle(page)
    page.mouse.move(middle[0] + 50, middle[1])
    page.mouse.wheel(0, -800)
    transforms = f"[...document.querySelectorAll('{PICTURES}')].map(image => image.style.transform)"
    first, second = page.evaluate(transforms)
    assert first == second and "scale(3.3" in first
    page.mouse.down()
    page.mouse.move(middle[0], middle[1] + 20, steps=4)
    page.mouse.up()
    moved = page.evaluate(transforms)
    assert moved[0] == moved[1] != first
    page.keyboard.press("0")
    assert page.evaluate(transforms) == ["", ""]
    page.keyboard.press("f")
    scale = page.locator(PICTURES).first.evaluate("image => image.getBoundingClientRect().width / image.offsetWidth")
    assert scale == pytest.approx(2, rel=0.05)  # it is smaller than its frame
    page.keyboard.press("f")
    assert len(store.history(somebody)) == 3
    page.mouse.click(*middle)
    wait_for(store, somebody, "first")


def wait_for(store, person, verdict):
    end = time.monotonic() + 10
    while store.history(person)[0].verdict != verdict:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_pictures_lie_on_each_other_with_a_line_between(store, somebody, open_panel):
    page, root = open_page(open_panel, somebody)
    all_loaded(page)
    page.keyboard.press("s")
    boxes = [root.locator(".picture").nth(number).bounding_box() for number in range(2)]
    assert boxes[0] == boxes[1]
    page.mouse.move(boxes[0]["x"] + boxes[0]["width"] / 4, 400)
    clip = root.locator(".picture").nth(1).evaluate("frame => getComputedStyle(frame).clipPath")
    assert clip == "inset(0px 0px 0px 25%)"
    page.mouse.click(boxes[0]["x"] + boxes[0]["width"] / 2, 400)  # of which of the two?
    settle(page)
    assert store.history(somebody) == []
    page.keyboard.press("Escape")
    assert root.locator(".picture").nth(0).bounding_box() != root.locator(".picture").nth(1).bounding_box()
    assert root.is_visible()
    page.keyboard.press("ArrowRight")
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")
    assert store.history(somebody)[0].verdict == "second"


def test_what_covers_a_picture_stops_its_keys(store, somebody, open_panel):
    page, root = open_page(open_panel, somebody)
    all_loaded(page)
    page.evaluate(
        """() => {
            const cover = Object.assign(document.createElement('div'), { id: 'cover' });
            cover.style.cssText = 'position: fixed; inset: 0 0 0 50%; z-index: 5000';
            document.body.append(cover);
        }"""
    )
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert store.history(somebody) == []
    page.evaluate("document.getElementById('cover').remove()")
    page.keyboard.press("ArrowLeft")
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")


def test_the_best_of_four_is_one_choice(store, somebody, open_panel):
    for one in store.inbox(somebody):
        store.pick(one.id, "skip", f"{somebody}-{one.id}")
    colours = [(230, 30, 30), (30, 220, 30), (30, 30, 230), (10, 10, 10), (240, 240, 240), (230, 220, 30)]
    for first, second in zip(colours[::2], colours[1::2], strict=True):
        store.add_candidate(somebody, "a lake", plain(*first), plain(*second))
    page, root = open_page(open_panel, somebody)
    root.get_by_role("button", name="4", exact=True).click()
    root.locator(".grid.of-4").wait_for()
    assert root.locator(".picture").count() == 4
    assert root.locator(".keys").first.inner_text().startswith("1 to 4 the best one")
    all_loaded(page)
    chosen = root.locator(".picture").nth(2).get_attribute("data-digest")
    page.keyboard.press("3")
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")
    choices = store.choices(somebody)
    assert len(choices) == 3 and len(set(choices.values())) == 1
    assert {pair.chosen.digest for pair in store.pairs(somebody)} == {chosen}
    assert root.locator(".entry").count() == 6
    page.keyboard.press("u")
    root.locator(".progress", has_text="Picks: 0.").wait_for(state="attached")
    assert store.pairs(somebody) == [] and root.locator(".entry").count() == 3
    digests = "[...document.querySelectorAll('.page .picture')].map(one => one.dataset.digest).sort().join()"
    shown = page.evaluate(digests)
    all_loaded(page)
    page.keyboard.press("0")
    page.wait_for_function(f"{digests} !== '{shown}'")
    assert store.pairs(somebody) == []


def test_a_picture_that_cannot_be_shown_says_so_and_the_question_can_be_skipped(store, somebody, open_panel):
    kept = store.inbox(somebody)[0]
    for one in store.inbox(somebody)[1:]:
        store.pick(one.id, "skip", f"{somebody}-{one.id}")
    page, root = open_page(open_panel, somebody, is_new=True)  # no other test's, which would keep what is broken
    root.locator(".picture").first.wait_for()
    page.keyboard.press("Escape")
    path = store.picture(kept.first)
    data = path.read_bytes()
    path.write_bytes(b"damaged")
    page.reload()
    page.wait_for_function("window.app?.extensionManager?.sidebarTab?.sidebarTabs.some(tab => tab.id === 'ppd-taste')")
    page.keyboard.press("Alt+t")
    root.get_by_text("This picture can't be shown").wait_for()
    page.keyboard.press("ArrowRight")
    root.get_by_text("One of the pictures can't be shown").wait_for()
    assert store.candidate(kept.id).verdict is None
    page.keyboard.press("ArrowDown")
    root.get_by_text("No question waits").wait_for()
    assert store.candidate(kept.id).verdict == "skip"
    path.write_bytes(data)
    page.complaints.clear()  # the browser's own, of the picture


def test_a_picture_that_is_gone_is_told_where_no_other_question_is_left(store, somebody, open_panel):
    for one in store.inbox(somebody):
        store.pick(one.id, "skip", f"{somebody}-{one.id}")
    lost = store.candidate(store.add_candidate(somebody, "lost", plain(10, 200, 30), plain(200, 10, 30)))
    store.picture(lost.first).unlink()
    _, root = open_page(open_panel, somebody)
    root.get_by_text("Questions that cannot be shown: 1. The file of one of their pictures").wait_for()


def test_an_old_answer_is_shown_and_answered_anew(store, somebody, open_panel):
    page, root = open_page(open_panel, somebody, width=900, height=700)
    all_loaded(page)
    page.keyboard.press("ArrowLeft")
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")
    root.get_by_role("button", name="Your taste").click()
    root.locator(".entry").first.click()
    root.get_by_text("Answered before.").wait_for()
    assert not root.locator(".history").is_visible()
    all_loaded(page)
    page.keyboard.press("ArrowRight")
    root.get_by_text("Answered before.").wait_for(state="detached")
    assert [one.verdict for one in store.history(somebody)] == ["second"]


@pytest.fixture
def studies(server):
    """Twelve pairs of two looks."""
    folder = server.base / "datasets" / "of the page"
    sides = ("cold", "warm"), ("dark", "light")
    looks = [Look(low, "colour", LookSide(low, low, low), LookSide(high, high, high)) for low, high in sides]
    writer = continue_studies(folder, looks)
    for number in range(12):
        low, high = plain(10 * number, 20, 200), plain(200, 20, 10 * number)
        writer.add_finished(looks[number % 2], f"prompt {number % 3}", None, low, high)
    yield folder
    shutil.rmtree(folder)


def test_a_new_person_is_asked_from_studies_at_once(store, studies, open_panel):
    person = store.add_person("new here").id
    page, root = open_page(open_panel, person)
    all_loaded(page)
    page.keyboard.press("ArrowLeft")
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")
    end = time.monotonic() + 20
    while store.person(person).open < 11:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert store.history(person)[0].origin["studies"] == "of the page"
    store.delete_person(person)


@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
def test_two_pictures_fill_a_laptop_and_a_phone(store, somebody, open_panel, size):
    page, root = open_page(open_panel, somebody, width=size[0], height=size[1])
    all_loaded(page)
    areas = 0
    for box in (root.locator(".picture").nth(number).bounding_box() for number in range(2)):
        assert 0 <= box["x"] and box["x"] + box["width"] <= size[0]
        assert 0 <= box["y"] and box["y"] + box["height"] <= size[1]
        areas += min(box["width"], box["height"]) ** 2
    assert areas > 0.6 * size[0] * size[1] or areas > 1.5 * size[0] ** 2
    assert page.evaluate("document.scrollingElement.scrollWidth") <= size[0]
    root.get_by_role("button", name="Neither").click()
    root.locator(".progress", has_text="Picks: 1.").wait_for(state="attached")
