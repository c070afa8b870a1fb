"""People in workflows, in the real server and its frontend: ids in what is saved, names in what is shown."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from PIL import Image

from ppd.pictures import Picture

from .panels import GRAPH, graph_of, settle, until, watched
from .test_checkpoints import node
from .test_collect_widget import call, graph, person_called
from .test_collect_widget import name as name  # a fixture

pytestmark = pytest.mark.comfyui


def loader(choice):
    return node("PreferencePairLoader", preference_set=choice, user="", limit=1000, skip_bad=False)


def learning(person, choice):
    """Collects for a person, and reads the same person's pairs."""
    return {
        **graph(person),
        "4": loader(choice),
        "5": node("UserEmbeddingEncoder", pairs=["4", 0], encoder="pocket", skip_bad=False),
        "6": node("PreviewAny", source=["5", 1]),
    }


def refusal(server, prompt):
    """Why the server does not run a prompt."""
    body = json.dumps({"prompt": prompt, "client_id": "x"}).encode()
    request = urllib.request.Request(f"{server.url}/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    return error.value.read().decode()


def test_a_new_name_is_made_and_read_by_one_workflow(server, store, name):
    entry = server.run(learning(name, f"person: {name}"))
    assert entry["outputs"]["6"]["text"][0].startswith("No picks: this is the average person.")
    person = person_called(store, name)
    store.pick(store.inbox(person)[0].id, "first", name)
    store.rename(person, f"{name} 2")
    for choice in (name, f"{name} 2", person):
        entry = server.run({"4": loader(f"person: {choice}"), "7": node("PreviewAny", source=["4", 2])})
        assert entry["outputs"]["7"]["text"][0].startswith(f"person: {name} 2: 1 pair on 1 prompt"), choice
    entry = server.run(graph(name))  # no empty namesake
    assert entry["outputs"]["3"]["text"] == [f"{name} 2: questions open 1, answered 1."]
    assert name not in json.dumps(server.get("/object_info"))


def test_who_is_not_there_is_told_in_one_sentence(server, store, name):
    person = store.add_person(name).id
    store.delete_person(person)
    prompt = {"4": loader(f"person: {person}"), "7": node("PreviewAny", source=["4", 2])}
    assert f"There is no person '{person}' in the taste store: choose another" in refusal(server, prompt)
    prompt["4"] = loader(f"person: {name}")
    entry = server.finished(server.submit(prompt))
    (failure,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert failure["exception_message"].startswith(f"There is nobody called {name!r} in the taste store: choose")


@pytest.fixture(scope="module", params=[False, True], ids=["classic nodes", "nodes 2.0"])
def page(request, server, chromium):
    server.post("/settings", {"Comfy.VueNodes.Enabled": request.param, "Comfy.TutorialCompleted": True})
    page = watched(chromium.new_page(viewport={"width": 1400, "height": 1000}))
    page.complaints = []
    page.set_default_timeout(60_000)
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PPD_PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    yield page
    page.close()


VALUES = """() => app.graph.nodes.filter(node => node.type.includes('Preference')).map(node => {
    const widget = node.widgets[0];
    return [widget.name, widget.type, widget.value, widget.options.getOptionLabel?.(widget.value),
            widget.options.values];
})"""


SHOWN = """text => [...document.querySelectorAll('.lg-node')].some(node =>
    node.innerText.includes(text) || [...node.querySelectorAll('input')].some(input => input.value.includes(text)))"""


@pytest.mark.browser
def test_lists_show_names_and_workflows_keep_ids(server, page, store, name):
    person = store.add_person(name).id
    server.run(graph(name))  # the collector tells all browsers whom it asked
    settle(page)
    prompt = learning("x", "y")
    prompt["3"]["inputs"]["person"], prompt["4"] = name, loader(f"person: {name}")  # as an older workflow has it
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", prompt)
    assert name in graph_of(page)
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    page.wait_for_function(f"{GRAPH}.includes('{person}')")
    told = {one[0]: one for one in page.evaluate(VALUES)}
    assert told["person"][1:4] == ["combo", person, f"{name} · 0 picks"]
    assert told["preference_set"][2:4] == [f"person: {person}", f"person: {name} · 0 picks"]
    assert {"tab", "me", person} <= set(told["person"][4]) and "example: vivid and bold" in told["preference_set"][4]
    prompt_of = "async () => JSON.stringify((await app.graphToPrompt()).output)"
    for saved in map(page.evaluate, (GRAPH, prompt_of)):
        assert name not in saved and f'"{person}"' in saved and f'"person: {person}"' in saved
    if page.locator(".lg-node").count():  # nodes 2.0 are elements, classic ones are painted
        page.wait_for_function(SHOWN, arg=f"person: {name}")
    call(server, f"people/{person}/rename", {"name": f"{name} 2", "request": "r"})
    page.wait_for_function(
        "name => { const { options, value } = app.graph.findNodesByType('PPD_PreferenceCollector')[0].widgets[0];"
        " return options.getOptionLabel(value) === name; }",
        arg=f"{name} 2 · 0 picks",
    )
    assert name not in graph_of(page)
    prompt["3"]["inputs"]["person"] = f"{name} 2"
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", prompt)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(f"{GRAPH}.includes('{person}')")
    page.evaluate("app.graph.clear()")


TABS_PERSON = """name => app.graph.nodes.filter(node => node.type.includes('Preference')).every(node => {
    const widget = node.widgets[0];
    return widget.options.getOptionLabel(widget.value) === `the tab's person (${name})`;
})"""
ASKED_IN_PROMPT = """async () => Object.values((await app.graphToPrompt()).output)
    .filter(node => node.class_type.includes('Preference'))
    .map(node => node.inputs.person ?? node.inputs.preference_set)"""


def everywhere(person):
    """A graph with every node that a person is chosen in and that runs by itself, whose picture is saved."""
    batch = node("EmptyImage", width=32, height=32, batch_size=2, color=0x204060)
    return {
        "1": batch,
        "2": node("PPD_SortByTaste", images=["1", 0], person=person, keep=0, save_scores=False),
        "3": node("PPD_TasteToText", person=person, prompt="a boat", most=3, least_sure=0.5),
        "4": loader(f"person: {person}"),
        "5": node("PreviewAny", source=["2", 2]),
        "6": node("PreviewAny", source=["3", 3]),
        "7": node("PreviewAny", source=["4", 2]),
        "8": node("SaveImage", images=["2", 0], filename_prefix="told"),
    }


def reports(server):
    """What the nodes of the newest run said, from the server's history."""
    entries = server.get("/history?max_items=1")
    return json.dumps([entry["outputs"] for entry in entries.values()])


@pytest.mark.browser
def test_no_saved_workflow_and_no_picture_holds_a_name_or_a_word_that_was_learned_from(server, page, store, name):
    """The reports do name the person, and the frontend shows them: twice, so that a run may save what the last one
    told. Searched are the workflow as it is saved, the picture's file, and ComfyUI's log."""
    person, secret = store.add_person(name).id, "a xylophone of onyx"
    pictures = (Picture.from_image(Image.new("RGB", (64, 64), colour)) for colour in ((200, 60, 0), (0, 60, 200)))
    store.pick(store.add_candidate(person, secret, *pictures), "first", name)
    settle(page)
    call(server, f"people/{person}/half_life", {"picks": 8, "request": "r"})  # tells the browser of them
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", everywhere(person))
    page.wait_for_function(f"{GRAPH}.includes('{person}')")
    before = set((server.base / "output").glob("told*.png"))
    for run in range(2):
        page.evaluate("app.queuePrompt(0)")
        until(page, lambda: len(set((server.base / "output").glob("told*.png")) - before) == 2 * run + 2)  # noqa: B023
        until(page, lambda: not server.get("/queue")["queue_running"])
        page.evaluate("app.graph.nodes[0].widgets[3].value += 1")  # another picture, so that nothing is cached
    assert name in reports(server)
    saved = set((server.base / "output").glob("told*.png")) - before
    searched = [path.read_bytes() for path in saved] + [graph_of(page).encode(), server.log.read_bytes()]
    assert len(searched) == 6 and all(person.encode() in data for data in searched[:-1])
    assert not [word for word in (name, secret, "xylophone") for data in searched if word.encode() in data]
    page.evaluate("app.graph.clear()")


@pytest.mark.browser
def test_choosing_in_the_tab_is_choosing_in_the_workflow(server, page, store, name):
    """Two people, one graph: a second person is one choice in the tab, then a run. Saved are neither names nor ids."""
    people = {one: store.add_person(one).id for one in (f"{name} A", f"{name} B")}
    server.run(graph(people[f"{name} A"]))  # tells the browser of both
    page.evaluate("prompt => app.loadApiJson(prompt, crypto.randomUUID())", learning("tab", "person: tab"))
    if not page.locator(".ppd-taste").count():
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    badge = "app.extensionManager.sidebarTab.sidebarTabs.find(tab => tab.id === 'ppd-taste').iconBadge"
    for called, person in people.items():
        page.locator(".ppd-taste select").first.select_option(person)
        page.wait_for_function(TABS_PERSON, arg=called)
        assert sorted(page.evaluate(ASKED_IN_PROMPT)) == sorted([person, f"person: {person}"])
        assert name not in graph_of(page) and person not in graph_of(page)
        before = store.person(person).open
        page.evaluate("app.queuePrompt(0)")
        waiting = f"/ppd/people/{person}/waiting"
        until(page, lambda: server.get(waiting)["waiting"] == before + 1)  # noqa: B023
        page.wait_for_function(f"{badge} === '{before + 1}'")  # this person's, not everybody's
    for person in people.values():
        for origin in (one.origin["prompt"] for one in store.inbox(person)):
            assert name not in json.dumps(origin)
    page.evaluate("app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(n => n.type.includes('Preference'))))")
    inner = [one for one in page.evaluate(ASKED_IN_PROMPT)]
    assert sorted(inner) == sorted([person, f"person: {person}"])
    store.delete_person(person)  # the last one chosen: the tab shows the first then, and so do the lists
    call(server, f"people/{people[f'{name} A']}/rename", {"name": f"{name} C", "request": "r"})
    first = server.get("/ppd/people")["people"][0]
    until(page, lambda: first["id"] in page.evaluate(ASKED_IN_PROMPT))
    page.evaluate("app.graph.clear()")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
