"""The shipped templates as a new user opens them: by the template dialog, on a laptop's screen, also in Japanese."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
WORKFLOWS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
LEAST_SCALE = 0.6
"""Below .57 the classic canvas draws no text."""
CARD = "[data-testid^='template-workflow-']"


@pytest.fixture(scope="module")
def page(server, chromium):
    settings = {"Comfy.VueNodes.Enabled": False, "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
    server.post("/settings", settings)
    page = chromium.new_page(viewport={"width": 1366, "height": 768})
    page.set_default_timeout(60_000)
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PPD_PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    yield page
    page.close()
    server.post("/settings", {"Comfy.Locale": "en"})


def test_the_dialog_lists_them_in_the_order_of_learning_and_opens_the_first(server, page):
    page.evaluate("() => void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    pack = page.get_by_role("dialog").get_by_role("button", name="personalized-diffusion")
    pack.evaluate("button => button.click()")
    page.locator(CARD).nth(len(WORKFLOWS) - 1).wait_for()
    names = page.locator(CARD).evaluate_all("cards => cards.map(card => card.dataset.testid.slice(18))")
    assert sorted(names) == WORKFLOWS
    assert names[:2] == ["learn my taste", "first personal picture"]
    loaded = "cards => cards.every(card => [...card.querySelectorAll('img')].some(image => image.naturalWidth >= 400))"
    page.wait_for_function(f'({loaded})([...document.querySelectorAll("{CARD}")].slice(0, 3))')  # others load when seen
    page.locator(CARD).first.evaluate("card => card.click()")
    page.wait_for_function("app.graph.nodes.some(node => node.type === 'PPD_PreferenceCollector')")
    page.get_by_role("dialog").wait_for(state="detached")
    check_that_it_can_be_read(page)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_opens_at_a_zoom_where_it_can_be_read(server, page, name):
    page.evaluate(
        "graph => app.loadGraphData(graph, true, true, null, { openSource: 'template' })", server.workflow(name)
    )
    check_that_it_can_be_read(page)


HIDDEN = """() => {
    const note = app.graph.nodes.find(({ type }) => type === 'MarkdownNote');
    const [left] = app.canvas.ds.convertOffsetToCanvas(note.pos);
    return document.querySelector('.side-bar-panel').getBoundingClientRect().right - left;
}"""
SEED = "app.graph.nodes.find(({ type }) => type === 'PrimitiveInt').widgets[0]"


def test_beside_an_open_tab_the_note_is_seen_and_no_seed_is_below_0(server, page):
    toggle = "app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')"
    page.evaluate(toggle)
    page.locator(".ppd-taste .progress").wait_for()
    for name in ("learn my taste", "my taste"):
        template = [server.workflow(name), True, True, None, {"openSource": "template"}]
        page.evaluate("given => app.loadGraphData(...given)", template)
        assert -50 < page.evaluate(HIDDEN) < 0, name
        page.evaluate("given => app.loadGraphData(...given)", template[:3])  # as it was left: it moves no further
        assert -50 < page.evaluate(HIDDEN) < 0, name
        if name == "learn my taste":
            assert page.evaluate(f"{SEED}.options.min") == 0
    page.evaluate(toggle)


DENOISERS = """async () => {
    const prompt = (await app.graphToPrompt()).output;
    return app.graph.nodes.filter(node => node.type === "PersonalizedDenoiser")
        .map(node => [node.id, prompt[node.id].inputs]);
}"""
WIDGETS = ["seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise", "strength", "layers"]
WIDGETS += ["start_percent", "end_percent"]


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if "personal picture" in name])
def test_saved_values_come_to_the_widgets_that_they_were_saved_of(server, page, name):
    """They go by place, KSampler's first and ours after them."""
    workflow = server.workflow(name)
    page.evaluate("graph => app.loadGraphData(graph)", workflow)
    found = dict(page.evaluate(DENOISERS))
    saved = {
        str(node["id"]): node["widgets_values"] for node in workflow["nodes"] if node["type"] == "PersonalizedDenoiser"
    }
    assert found.keys() == saved.keys() and found
    for node, values in saved.items():
        for widget, value in zip(WIDGETS, values, strict=False):
            if widget and not isinstance(found[node][widget], list):  # a linked one's value is its source's
                assert found[node][widget] == value, widget
        assert values[-1] == found[node]["end_percent"]


def check_that_it_can_be_read(page):
    """As the frontend fits a template into the window: large enough, and all of it."""
    page.wait_for_function(f"app.canvas.ds.scale >= {LEAST_SCALE}")
    inside = """() => app.graph.nodes.every(node => {
        const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0], node.pos[1] - 30]);
        const [width, height] = node.flags.collapsed ? [0, 0] : node.size;
        const [right, bottom] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + width, node.pos[1] + height]);
        return x >= 60 && y >= 40 && right <= 1366 && bottom <= 768;
    })"""
    page.wait_for_function(inside)


TODAY = ["my taste with Flux.1", "my taste with Krea 2", "my taste with Qwen-Image", "my taste with Z-Image"]


@pytest.fixture(scope="module")
def files_of(server):
    """Puts empty files where a template's loaders look for those that it offers to download; their loaders."""

    def put(name):
        loaders = [node for node in server.workflow(name)["nodes"] if "models" in node["properties"]]
        for file in (file for node in loaders for file in node["properties"]["models"]):
            path = server.base / "models" / file["directory"] / file["name"]
            path.parent.mkdir(exist_ok=True)
            path.touch()
        return loaders

    return put


@pytest.mark.parametrize("name", TODAY)
def test_the_server_takes_those_for_todays_models_up_to_the_files_themselves(server, files_of, name):
    """No public weights are at hand: all is as ComfyUI checks it before a run, and only reading a model fails."""
    prompt, loaders = server.prompt(name), files_of(name)
    names = {value for node in loaders for value in node["widgets_values"] if value.endswith(".safetensors")}
    assert names == {file["name"] for node in loaders for file in node["properties"]["models"]}
    entry = server.finished(server.submit(prompt))
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["node_type"] in {node["type"] for node in loaders}, error["exception_message"]


@pytest.mark.parametrize("name", TODAY)
def test_those_for_todays_models_link_to_what_they_name(server, name):
    note, *nodes = server.workflow(name)["nodes"]
    for file in (file for node in nodes for file in node["properties"].get("models", [])):
        assert file["url"].endswith("/" + file["name"])
        assert f"models/{file['directory']}: [{file['name']}]({file['url']})" in note["widgets_values"][0]


TITLES = "app.graph.nodes.map(node => node.title).concat(app.graph.groups.map(group => group.title))"


def test_in_japanese_titles_and_notes_are_too_but_not_what_somebody_wrote(server, page):
    page.evaluate("() => { app.graph.nodes[0].isOld = true; app.extensionManager.setting.set('Comfy.Locale', 'ja'); }")
    page.wait_for_function(
        "app.graph.nodes[0]?.isOld === undefined && app.graph.nodes.length"
    )  # the frontend loads the graph anew in another language
    workflow = server.workflow("learn my taste")
    workflow["groups"][0]["title"] = "My own title"
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    titles = page.evaluate(TITLES)
    assert {"はじめに", "2 · 良いほうを選ぶ", "今のあなたの絵", "My own title"} <= set(titles)
    note = page.evaluate("app.graph.nodes.find(node => node.type === 'MarkdownNote').widgets[0].value")
    assert note.startswith("## モデルに好みを教える")
    del workflow["extra"]["ppd"]  # a graph of somebody else's
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    assert "Read me first" in page.evaluate(TITLES)
    text = page.evaluate(
        "fetch('/extensions/personalized-diffusion/docs/PPD_PreferenceCollector/ja.md').then(answer => answer.text())"
    )
    assert text.startswith("# 好みを集める")
