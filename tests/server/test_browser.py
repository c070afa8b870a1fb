"""The shipped workflows in ComfyUI's real frontend, in both of its ways to draw nodes."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from ppd.store import TasteStore

from .panels import steady

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
TITLE = 30
"""Height of a node's title, which stands above its position."""
OURS = "personalized-diffusion"
FOLDERS = {
    "CheckpointLoaderSimple": {"ckpt_name": "checkpoints"},
    "CLIPVisionLoader": {"clip_name": "clip_vision"},
    "PPD_IPAdapterLoader": {"ip_adapter": "ipadapter"},
    "UNETLoader": {"unet_name": "diffusion_models"},
    "CLIPLoader": {"clip_name": "text_encoders"},
    "DualCLIPLoader": {"clip_name1": "text_encoders", "clip_name2": "text_encoders"},
    "VAELoader": {"vae_name": "vae"},
}
"""Loaders' inputs that name a file, and their model folders."""

DESCRIBE = """() => app.graph.nodes.map(node => ({
    id: String(node.id), type: node.type, title: node.title, pos: [...node.pos], size: [node.width, node.size[1]],
    collapsed: !!node.flags.collapsed, known: node.type in LiteGraph.registered_node_types,
    wrong: !!node.has_errors || !!node.errors,
    widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
}))"""
FIT = """() => {
    const boxes = [...app.graph.nodes, ...app.graph.groups].map(x => [x.pos[0], x.pos[1] - 40, ...x.size]);
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])));
    const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])));
    const {ds} = app.canvas;
    ds.scale = Math.min(1800 / (right - left), 1300 / (bottom - top));
    ds.offset = [-left + 90 / ds.scale, -top + 60 / ds.scale];
    app.canvas.setDirty(true, true);
}"""


@pytest.fixture(scope="module")
def model_names(server):
    """Empty files under the names that workflows ask for, since the frontend marks what is not in its lists."""
    for entry in (entry for name in WORKFLOWS for entry in server.prompt(name).values()):
        for name, folder in FOLDERS.get(entry["class_type"], {}).items():
            path = server.base / "models" / folder / entry["inputs"][name]
            path.parent.mkdir(exist_ok=True)
            path.touch()


@pytest.fixture(scope="module")
def nobody(server):
    """Workflows name the tab's person, which the frontend replaces by whomever another module has left."""
    store = TasteStore(server.base / "user" / "__ppd" / "taste")
    for person in store.people():
        store.delete_person(person.id)


@pytest.fixture(scope="module", params=[False, True], ids=["classic nodes", "nodes 2.0"])
def frontend(request, server, model_names, nobody, chromium):
    """The open frontend, and the list of what its console complained of."""
    page = chromium.new_page(viewport={"width": 1920, "height": 1440})
    page.set_default_timeout(60_000)
    complaints: list[str] = []

    def on_console(message):
        if message.type in ("error", "warning"):
            complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}\n{error.stack}"))
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PersonalizedDenoiser' in LiteGraph.registered_node_types", timeout=90_000)
    settings = {
        "Comfy.VueNodes.Enabled": request.param,
        "Comfy.TutorialCompleted": True,
        "Comfy.Minimap.Visible": False,
    }
    page.evaluate(
        "async settings => { for (const [key, value] of Object.entries(settings))"
        " await app.extensionManager.setting.set(key, value); }",
        settings,
    )
    yield page, complaints
    page.close()


@pytest.fixture(scope="module")
def opened(server, frontend):
    """Opens a workflow; its nodes as the frontend shows them, which are kept for the other test of it."""
    page, _ = frontend
    kept = {}

    def nodes_of(name):
        if name not in kept:
            workflow = server.workflow(name)
            page.evaluate("workflow => app.loadGraphData(workflow, true, true, null)", workflow)
            page.wait_for_function(f"app.graph.nodes.length === {len(workflow['nodes'])}")
            page.evaluate(FIT)
            kept[name] = steady(page, DESCRIBE)
        return kept[name]

    return nodes_of


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_opens_as_it_was_made(server, frontend, opened, tmp_path, name):
    page, complaints = frontend
    nodes = opened(name)
    workflow = server.workflow(name)
    page.screenshot(path=tmp_path / f"{name}.png")

    assert {node["id"]: node["type"] for node in nodes} == {str(n["id"]): n["type"] for n in workflow["nodes"]}
    assert [node["type"] for node in nodes if not node["known"]] == []
    assert [node["title"] for node in nodes if node["wrong"]] == []
    assert page.locator("text=/missing node|some nodes are missing/i").count() == 0

    theirs, ours = page.evaluate("async () => (await app.graphToPrompt()).output"), server.prompt(name)
    assert theirs.keys() == ours.keys()
    for node, entry in ours.items():
        assert theirs[node]["class_type"] == entry["class_type"]
        assert {key: theirs[node]["inputs"].get(key) for key in entry["inputs"]} == entry["inputs"], entry["class_type"]

    widgets = {node["id"]: node["widgets"] for node in nodes}
    for node, entry in ours.items():
        constants = {key: value for key, value in entry["inputs"].items() if not isinstance(value, list)}
        assert constants.items() <= widgets[node].items(), entry["class_type"]

    names = [OURS, *(name for name, info in server.object_info.items() if info["python_module"].endswith(OURS))]
    assert [text for text in complaints if any(part in text for part in names)] == []
    assert [text for text in complaints if text.startswith("exception")] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_nodes_overlap_and_groups_hold_what_they_frame(server, opened, name):
    workflow = server.workflow(name)
    boxes = {
        f"{node['title']} ({node['id']})": (
            node["pos"][0],
            node["pos"][1] - TITLE,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + (0 if node["collapsed"] else node["size"][1]),
        )
        for node in opened(name)
    }
    for (first, a), (second, b) in combinations(boxes.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{first} overlaps {second}"
    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        for title, box in boxes.items():
            outside = box[2] <= x or x + width <= box[0] or box[3] <= y or y + height <= box[1]
            inside = x <= box[0] and y <= box[1] and box[2] <= x + width and box[3] <= y + height
            assert outside or inside, f"{title} crosses the frame of {json.dumps(group['title'])}"


def test_a_workflow_with_old_ids_opens_by_one_press(frontend):
    """As 0.1.0 had it: the frontend offers to replace two nodes, which keep their links, values and titles."""
    page, _ = frontend
    workflow = json.loads(Path(__file__).with_name("learn my taste 0.1.0.json").read_text(encoding="utf-8"))
    page.evaluate("workflow => app.loadGraphData(workflow, true, true, null)", workflow)
    page.get_by_role("button", name="View details").click()
    page.get_by_role("button", name="Replace All").click()
    page.wait_for_function("app.graph.nodes.every(node => node.type in LiteGraph.registered_node_types)")
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt["12"] == {
        "class_type": "PPD_UserEmbeddingSample",
        "inputs": {"user_embedding": ["10", 0], "seed": 1},
        "_meta": {"title": "One taste that may be yours"},
    }
    assert prompt["22"] == {
        "class_type": "PPD_PreferenceCollector",
        "inputs": {"person": "me", "prompt": ["4", 0], "wait_seconds": 0, "user_embedding": ["12", 0]},
        "_meta": {"title": "Collect Preferences"},
    }
