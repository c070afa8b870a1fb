"""The tab Taste in the real frontend: picks by mouse and by key, what is kept, and what never reaches the graph."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from ppd.pictures import Picture

from .panels import choose, graph_of, loaded, pick, settle, show, shown, wait_for_picks

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
PICTURES = ".ppd-taste .picture img"


@pytest.fixture
def somebody(somebody):
    """The person alone: the panel finds the questions."""
    return somebody[0]


def test_picks_by_mouse_and_by_key_leave_the_graph_alone(server, store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    before, asked = graph_of(page), []
    asked.append(shown(page))
    page.get_by_label("Left is better").click()
    wait_for_picks(page, 1, 2)
    panel = page.locator(".ppd-taste")
    assert page.evaluate("document.activeElement === document.querySelector('.ppd-taste')")
    for key, picks, waiting in (("ArrowRight", 2, 1), ("ArrowUp", 3, 0), ("u", 2, 1), ("ArrowDown", 2, 0)):
        if waiting == 1 and key != "u" or key == "ArrowUp":
            asked.append(shown(page))
        if key != "u":
            loaded(page, PICTURES)
        panel.press(key)
        wait_for_picks(page, picks, waiting)
        assert graph_of(page) == before
    assert page.locator(".ppd-taste .question .empty").inner_text().startswith("No question waits.")
    standing = [(one.prompt, one.verdict) for one in store.history(somebody)]
    assert standing == list(zip(asked[::-1], ("skip", "second", "first"), strict=True))
    show(server, page)  # nothing is lost by a reload
    choose(page, somebody)
    wait_for_picks(page, 2, 0)
    assert page.locator(".ppd-taste .entry").count() == 3


def test_the_duel_workflow_fills_the_panel_while_it_is_open(server, store, somebody, open_panel):
    """Runs it twice, picks once by mouse and once by key; the graph runs on without an answer."""
    name, workflow = store.person(somebody).name, server.workflow("learn my taste")
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.evaluate(
        """([name]) => {
            for (const node of app.graph.nodes) {
                const set = (widget, value) => (node.widgets.find(one => one.name === widget).value = value);
                if (node.type === 'PreferencePairLoader') set('preference_set', `person: ${name}`);
                if (node.type === 'PPD_PreferenceCollector') set('person', name);
                if (node.type === 'PersonalizedDenoiser') set('steps', 4);
            }
        }""",
        [name],
    )
    page.evaluate("app.queuePrompt(0, 2)")
    wait_for_picks(page, 0, 5)
    before = graph_of(page)
    page.get_by_label("Right is better").first.click()
    wait_for_picks(page, 1, 4)
    pick(page, "ArrowLeft")
    wait_for_picks(page, 2, 3)
    assert graph_of(page) == before
    painted = [one for one in store.history(somebody) + store.inbox(somebody) if one.prompt.startswith("a tree and")]
    assert len(painted) == 2
    assert all(one.origin["first"]["u"] != one.origin["second"]["u"] for one in painted)


def test_keys_typed_elsewhere_and_the_frontends_own_pick_nothing(store, somebody, open_panel):
    store.pick(store.inbox(somebody)[0].id, "first", f"{somebody} to be undone")
    page = open_panel(somebody)
    wait_for_picks(page, 1, 2)
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'elsewhere'}))")
    page.locator("#elsewhere").focus()
    for key in ("ArrowLeft", "ArrowUp", "u", "1", "2"):
        page.keyboard.press(key)
    page.locator(".ppd-taste select").first.focus()
    page.keyboard.press("u")
    page.locator(".ppd-taste").focus()
    for key in ("Control+z", "1", "a", "Control+ArrowLeft"):
        page.keyboard.press(key)
    settle(page)
    assert len(store.history(somebody)) == 1
    page.evaluate("document.querySelector('#elsewhere').remove()")


def test_a_held_key_answers_once_and_another_tab_hears_none(store, somebody, open_panel):
    page = open_panel(somebody, is_new=True)  # no other test's, since it gets another tab
    wait_for_picks(page, 0, 3)
    loaded(page, PICTURES)
    page.locator(".ppd-taste").focus()
    for _ in range(5):  # without a keyup between: the later ones are repetitions
        page.keyboard.down("ArrowLeft")
    wait_for_picks(page, 1, 2)
    settle(page)
    assert len(store.history(somebody)) == 1
    page.keyboard.up("ArrowLeft")
    page.evaluate(
        """() => {
            const box = Object.assign(document.createElement('textarea'), {id: 'foreign'});
            const tab = {id: 'foreign', icon: 'pi pi-star', title: 'x', type: 'custom'};
            app.extensionManager.registerSidebarTab({...tab, render: root => root.replaceChildren(box)});
            app.extensionManager.sidebarTab.toggleSidebarTab('foreign');
        }"""
    )
    page.locator("#foreign").focus()
    for key in ("ArrowLeft", "u"):
        page.keyboard.press(key)
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    wait_for_picks(page, 1, 2)
    pick(page, "ArrowRight")
    wait_for_picks(page, 2, 1)
    assert [one.verdict for one in store.history(somebody)] == ["second", "first"]


def test_an_old_pick_is_revised_from_the_history(store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    first = shown(page)
    pick(page, "ArrowLeft")
    wait_for_picks(page, 1, 2)
    page.get_by_label(f"You picked the left. {first}").click()
    page.get_by_text("Answered before.").wait_for()
    assert shown(page) == first
    page.get_by_role("button", name="Back").click()
    page.get_by_text("Answered before.").wait_for(state="detached")
    page.get_by_label(f"You picked the left. {first}").click()
    page.get_by_text("Answered before.").wait_for()
    page.get_by_label("Right is better").click()
    page.get_by_label(f"You picked the right. {first}").wait_for()
    assert [(one.prompt, one.verdict) for one in store.history(somebody)] == [(first, "second")]


def test_the_history_stays_unfolded_and_says_what_was_no_pick(store, somebody, open_panel):
    for number in range(30):
        pictures = (Picture.from_image(Image.new("RGB", (8, 8), (8 * number, side, 0))) for side in (0, 200))
        verdict = {28: "tie", 29: "skip"}.get(number, "first")
        store.pick(store.add_candidate(somebody, f"old {number}", *pictures), verdict, f"{somebody}-{number}")
    page = open_panel(somebody)
    wait_for_picks(page, 29, 3)
    entries = page.locator(".ppd-taste .entry")
    assert [entries.nth(n).inner_text() for n in range(3)] == ["skipped", "neither", ""]
    assert entries.count() == 24
    page.get_by_role("button", name="Show more").click()
    entries.nth(29).wait_for()
    page.locator(".ppd-taste .pair").wait_for()  # so many pictures are read in the background first
    pick(page, "ArrowLeft")
    wait_for_picks(page, 30, 2)
    assert entries.count() == 31
    assert shown(page) not in entries.first.get_attribute("title")


def test_keys_work_while_the_mouse_is_over_the_tab_without_a_click(store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(900, 500)
    hint = page.get_by_text("The keys work while the mouse is over this tab")
    assert hint.is_visible()
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert store.history(somebody) == []
    page.locator(".ppd-taste .progress").hover()
    assert not hint.is_visible()
    page.keyboard.press("ArrowLeft")
    wait_for_picks(page, 1, 2)
    page.get_by_label("Person", exact=True).focus()
    page.keyboard.press("ArrowDown")  # there arrows choose a person
    settle(page)
    assert len(store.history(somebody)) == 1


def test_keys_scroll_where_the_question_is_out_of_sight(store, somebody, open_panel):
    """Scrolled down to the answers, no key answers what is above."""
    for number in range(60):
        pictures = (Picture.from_image(Image.new("RGB", (8, 8), (4 * number, side, 0))) for side in (0, 200))
        store.pick(store.add_candidate(somebody, f"old {number}", *pictures), "first", f"{somebody}-{number}")
    page = open_panel(somebody)
    page.set_viewport_size({"width": 700, "height": 480})
    page.locator(".ppd-taste .picture").first.wait_for()
    page.get_by_role("button", name="Show more").click()
    page.locator(".ppd-taste .entry").nth(40).wait_for()
    panel = page.locator(".ppd-taste")
    page.locator(".ppd-taste .entry").last.evaluate("entry => entry.scrollIntoView({ block: 'end' })")
    page.locator(".ppd-taste .entry").last.hover()
    top = "document.querySelector('.ppd-taste .pair').getBoundingClientRect().top"
    before = page.evaluate(top)
    assert before < -200
    panel.evaluate("panel => panel.focus({ preventScroll: true })")
    page.keyboard.press("ArrowUp")
    page.wait_for_function(f"{top} > {before}")
    settle(page)
    assert len(store.history(somebody)) == 60
    page.locator(".ppd-taste .entry").nth(20).click()
    page.get_by_text("Answered before.").wait_for()
    page.wait_for_function(f"{top} >= 0")
    loaded(page, PICTURES)
    page.keyboard.press("ArrowRight")
    page.get_by_text("Answered before.").wait_for(state="detached")
    assert store.history(somebody)[0].verdict == "second"


def test_fading_takes_whole_numbers_from_one(store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    page.get_by_text("More", exact=True).click()
    field = page.locator(".ppd-taste").get_by_role("spinbutton")
    for typed, half_life in (("7", 7), ("0", 7), ("", None)):
        field.fill(typed)
        field.blur()
        settle(page)
        assert store.person(somebody).half_life == half_life
        assert page.locator(".ppd-taste .notice").inner_text() == ""


def test_a_brand_guide_is_chosen_and_the_tab_says_what_it_changes(server, store, somebody, open_panel):
    """It can be gone, too: that is one sentence, and the questions go on."""
    file = server.base / "input" / "ours.brand.json"
    rules = [{"level": "never", "look": word} for word in ("dark", "bright")]
    file.write_text(json.dumps({"format": "ppd-brand-guide", "version": "1", "name": "Ours", "rules": rules}))
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Brand guide").select_option("input: ours.brand.json")
    told = page.locator(".ppd-taste .guide")
    told.get_by_text(
        "Bound to the brand guide Ours: what is painted for you leaves out a part of your taste."
    ).wait_for()
    assert re.search(
        "It no longer leans to: (dark, bright|dark|bright), which the guide never wants.$", told.inner_text()
    )
    assert store.person(somebody).guide == "input: ours.brand.json"
    file.write_text(file.read_text().replace("Ours", "Theirs"))
    page.get_by_label("Left is better").click()
    wait_for_picks(page, 1, 2)
    told.get_by_text("The guide's file was changed since you chose it; what it says now holds.").wait_for()
    told.get_by_role("button", name="I have seen it").click()
    told.get_by_role("button").wait_for(state="detached")
    assert told.inner_text().startswith("Bound to the brand guide Theirs")
    file.unlink()
    page.get_by_label("Left is better").click()
    wait_for_picks(page, 2, 1)
    told.get_by_text("There is no brand guide 'input: ours.brand.json'").wait_for()
    page.get_by_label("Brand guide").select_option(label="none")
    told.wait_for(state="detached")
    assert store.person(somebody).guide is None and store.person(somebody).picks == 2


def test_repetitions_are_skipped_with_one_press(store, somebody, open_panel):
    for one in store.inbox(somebody):
        store.pick(one.id, "first", f"{somebody}-{one.id}")
    store.add_candidate(somebody, "again", *(Picture(store.picture(digest)) for digest in (one.second, one.first)))
    page = open_panel(somebody)
    wait_for_picks(page, 3, 1)
    page.get_by_text("The questions that are left repeat your answers").wait_for()
    page.get_by_role("button", name="Skip them").click()
    wait_for_picks(page, 3, 0)
    page.get_by_text("No question waits").wait_for()


def test_two_windows_show_the_same(store, somebody, open_panel):
    one, other = open_panel(somebody), open_panel(somebody)
    for page in (one, other):
        wait_for_picks(page, 0, 3)
    pick(one, "ArrowLeft")
    wait_for_picks(one, 1, 2)
    wait_for_picks(other, 1, 2)  # without a touch
    pick(other, "ArrowRight")
    wait_for_picks(one, 2, 1)
    assert len(store.history(somebody)) == 2
    looked_at = shown(one)
    pictures = (Picture.from_image(Image.new("RGB", (64, 64), colour)) for colour in ((0, 90, 0), (90, 0, 90)))
    store.add_candidate(somebody, "filed meanwhile", *pictures)
    other.locator(".ppd-taste .entry").first.click()
    other.get_by_text("Answered before.").wait_for()
    other.get_by_role("button", name="Neither").click()
    wait_for_picks(one, 2, 2)
    assert shown(one) == looked_at  # what is looked at stays where it is


def test_of_two_people_who_change_at_once_both_are_looked_at(store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    store.pick(store.inbox(somebody)[0].id, "first", somebody)  # nobody is told of these
    other = store.add_person("somebody new").id
    page.evaluate(
        "people => { for (const person of people) app.api.dispatchCustomEvent('ppd.taste', { person }); }",
        [other, somebody, somebody],
    )
    wait_for_picks(page, 1, 2)
    page.get_by_label("Person", exact=True).locator(f"option[value='{other}']").wait_for(state="attached")
    store.delete_person(other)


def test_a_press_before_the_next_question_is_seen_does_not_answer_it(store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    held = []
    page.route("**/picks", lambda route: route.continue_() if held else held.append(route))
    loaded(page, PICTURES)
    with page.expect_request("**/picks"):
        page.locator(".ppd-taste").press("ArrowLeft")
    page.locator(".ppd-taste").press("ArrowLeft")
    held[0].continue_()
    wait_for_picks(page, 1, 2)
    settle(page)
    assert len(store.history(somebody)) == 1


def test_people_are_switched_made_and_deleted(server, store, somebody, open_panel):
    page = open_panel(somebody)
    wait_for_picks(page, 0, 3)
    page.get_by_text("Manage").click()
    page.get_by_role("button", name="New person").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("Mio")
    page.get_by_role("dialog").get_by_role("textbox").press("Enter")
    wait_for_picks(page, 0, 0)
    (mio,) = [one for one in store.people() if one.name == "Mio"]
    page.get_by_label("Person", exact=True).select_option(somebody)
    wait_for_picks(page, 0, 3)
    page.get_by_label("Person", exact=True).select_option(mio.id)
    wait_for_picks(page, 0, 0)
    page.get_by_role("button", name="Delete").click()  # Manage has stayed open
    page.get_by_role("dialog").get_by_text("Delete Mio for good").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_label("Person", exact=True).get_by_text("Mio").wait_for(state="detached")
    assert "Mio" not in [one.name for one in store.people()]
    assert store.person(somebody).open == 3


def test_the_tabs_icon_counts_what_waits(store, somebody, open_panel):
    page = open_panel(somebody)
    badge = "app.extensionManager.sidebarTab.sidebarTabs.find(tab => tab.id === 'ppd-taste').iconBadge"
    waiting = store.person(somebody).open  # whoever else has questions
    page.wait_for_function(f"{badge} === '{waiting}'")
    pick(page, "ArrowLeft")
    page.wait_for_function(f"({badge} ?? '0') === '{waiting - 1}'")


def test_japanese(store, somebody, open_panel):
    page = open_panel(somebody, language="ja", is_new=True)
    page.get_by_text("選択 0 件、未回答の質問 3 件").wait_for()
    page.get_by_label("右が良い").click()
    page.get_by_text("選択 1 件、未回答の質問 2 件").wait_for()
    assert page.locator(".ppd-taste .history h3").inner_text() == "これまでの回答"
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
