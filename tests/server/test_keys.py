"""Keys in the real frontend: each press has one owner, and acts on nothing but what is seen whole."""

from __future__ import annotations

import pytest

from .panels import loaded, settle, wait_for_picks
from .test_collect_widget import graph

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
PLACE = """() => app.graph.findNodesByType('PPD_PreferenceCollector').forEach((node, at) => {
    node.pos = [900 + 450 * at, 60];
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [-200, 20];
    app.canvas.setDirty(true, true);
})"""
COVER = """style => {
    const box = document.querySelector('.ppd-collect .picture').getBoundingClientRect();
    const cover = Object.assign(document.createElement('div'), { id: 'cover' });
    Object.assign(cover.style, { position: 'fixed', zIndex: 5000, left: `${box.left}px`, top: `${box.top}px`,
        width: `${0.4 * box.width}px`, height: `${0.4 * box.height}px` });
    document.body.append(cover);
}"""
UNUSED = """() => {
    window.unused = [];
    window.addEventListener('keydown', ({ key, defaultPrevented }) => defaultPrevented || window.unused.push(key));
}"""


@pytest.fixture
def others(store, request):
    """Two more people, whom two nodes ask."""
    found = [store.add_person(f"{request.node.name[:50]} {number}").id for number in range(2)]
    yield found
    for person in found:
        store.delete_person(person)


def ask(page, *people):
    """Opens and runs a graph of a collector for each; the widgets, asking."""
    prompt = graph(people[0])
    for number, person in enumerate(people[1:]):
        prompt[str(10 + number)] = {**prompt["3"], "inputs": prompt["3"]["inputs"] | {"person": person}}
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", prompt)
    page.wait_for_function(f"app.graph.findNodesByType('PPD_PreferenceCollector').length === {len(people)}")
    page.evaluate(PLACE)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(
        "count => { const all = [...document.querySelectorAll('.ppd-collect .picture img')];"
        " return all.length === count && all.every(image => image.naturalWidth); }",
        arg=2 * len(people),
    )
    return [page.locator(".ppd-collect", has_text=f"Asked of {name}") for name in map(people_called(page), people)]


def people_called(page):
    names = page.evaluate("fetch('/ppd/people').then(answer => answer.json())")["people"]
    return {one["id"]: one["name"] for one in names}.get


def test_one_press_answers_one_question(store, somebody, others, open_panel):
    """The page is first, then what has the focus, then what is under the mouse."""
    person = somebody[0]
    page = open_panel(person, width=1600)
    wait_for_picks(page, 0, 3)
    first, second = ask(page, *others)
    everybody = [person, *others]

    def answered():
        settle(page)
        return [len(store.history(one)) for one in everybody]

    page.locator(".ppd-taste").focus()
    first.hover()
    loaded(page, ".ppd-taste .picture img")
    page.keyboard.press("ArrowLeft")
    assert answered() == [1, 0, 0]
    first.focus()
    second.hover()
    page.keyboard.press("ArrowLeft")
    assert answered() == [1, 1, 0]
    page.evaluate("document.activeElement.blur()")
    second.hover()
    page.keyboard.press("ArrowLeft")
    assert answered() == [1, 1, 1]
    second.focus()
    page.locator(".ppd-taste .progress").hover()
    page.keyboard.press("u")
    assert answered() == [1, 1, 0]
    second.focus()
    page.keyboard.press("Alt+t")
    page.locator(".ppd-taste.page .picture img").first.wait_for()
    second.evaluate("one => one.focus()")
    loaded(page, ".ppd-taste.page .picture img")
    page.keyboard.press("ArrowLeft")
    assert answered() == [2, 1, 0]
    page.keyboard.press("Escape")
    page.evaluate("app.graph.clear()")


def test_the_node_answers_only_what_is_loaded_and_seen_whole(store, somebody, others, open_panel):
    page = open_panel(somebody[0], width=1600)
    held = []
    page.route("**/ppd/pictures/**", lambda route: held.append(route) if len(held) < 1 else route.continue_())
    (asked,) = others[:1]
    prompt = graph(asked)
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    held.clear()
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", prompt)
    page.evaluate(PLACE)
    page.evaluate("app.queuePrompt(0)")
    node = page.locator(".ppd-collect")
    node.get_by_text("Neither (").wait_for()
    node.focus()
    page.keyboard.press("ArrowLeft")
    settle(page, asking=1)
    assert store.history(asked) == []  # one picture is not there yet
    held[0].continue_()
    page.wait_for_function(
        "[...document.querySelectorAll('.ppd-collect .picture img')].every(image => image.naturalWidth)"
    )
    page.evaluate(COVER)  # a corner, not the middle
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert store.history(asked) == []
    page.evaluate("document.querySelector('#cover').remove()")
    page.keyboard.press("ArrowLeft")
    node.get_by_text("You picked the left.").wait_for()
    page.evaluate("app.graph.clear()")


def test_undo_acts_where_there_is_something_to_undo_and_the_panel_is_seen(store, somebody, open_panel):
    person, asked = somebody
    page = open_panel(person)
    wait_for_picks(page, 0, 3)
    page.evaluate(UNUSED)
    panel = page.locator(".ppd-taste")
    panel.focus()
    sent = []
    page.on("request", lambda request: request.url.endswith("/undo") and sent.append(request.url))
    page.keyboard.press("u")
    settle(page)
    assert not sent and page.evaluate("window.unused") == ["u"]
    for number in asked:
        store.pick(number, "first", f"{person}-{number}")
    page.evaluate("person => app.api.dispatchCustomEvent('ppd.taste', { person })", person)
    wait_for_picks(page, 3, 0)
    page.evaluate("document.querySelector('.ppd-taste .answers').style.marginTop = '2000px'")
    panel.evaluate("panel => panel.focus({ preventScroll: true })")
    page.keyboard.press("u")
    settle(page)
    assert not sent and len(store.history(person)) == 3
    page.evaluate("document.querySelector('.ppd-taste .answers').style.marginTop = ''")
    page.keyboard.press("u")
    wait_for_picks(page, 2, 1)
