"""Train User Adapter in the real server and its frontend: a real training, started, watched, stopped, gone on with."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import psutil
import pytest

from .panels import watched
from .test_checkpoints import node
from .test_routes import call, told

if find_spec("comfy"):
    from ..training.tiny_base import write_models, write_studies

pytestmark = pytest.mark.comfyui
NAME = "tiny one"
WIDGET = ".ppd-training"
BESIDE = {"2": node("EmptyLatentImage", width=64, height=64, batch_size=1), "3": node("PreviewAny", source=["2", 0])}
"""Nodes that run with the training's."""


@pytest.fixture(scope="module")
def inputs(server):
    """The node's inputs for a checkpoint of seconds a step; all that a training leaves is gone after the tests."""
    models, file = server.base / "models", "tiny.safetensors"
    parts = [models / kind / file for kind in ("diffusion_models", "text_encoders", "vae")]
    studies, encoder = server.base / "datasets" / "tiny studies", models / "taste_encoders" / "tiny"
    write_models(*parts)
    write_studies(studies, encoder)
    yield {
        "checkpoint": f"diffusion model: {file}",
        "text_encoder": file,
        "vae": file,
        "studies": studies.name,
        "taste_encoder": encoder.name,
        "name": NAME,
        "distillation_steps": 300,
        "batch": 4,
        "rank": 2,
    }
    root = server.base / "user" / "__ppd" / "trainings"
    for told_of in root.glob("*/run.json"):
        kill(json.loads(told_of.read_text())["pid"])
    for folder in (studies, encoder, root):
        shutil.rmtree(folder)
    for path in parts:
        path.unlink()


def kill(pid):
    try:
        process = psutil.Process(pid)
        process.kill()
        process.wait(30)
    except psutil.NoSuchProcess:
        pass


@pytest.fixture(scope="module", params=[False, True], ids=["classic nodes", "nodes 2.0"])
def page(request, server, inputs, chromium):
    server.post("/settings", {"Comfy.VueNodes.Enabled": request.param, "Comfy.TutorialCompleted": True})
    page = watched(chromium.new_page(viewport={"width": 1400, "height": 1150}))
    page.set_default_timeout(240_000)
    page.complaints, page.is_classic = [], not request.param
    page.runs = server.base / "user" / "__ppd" / "trainings"
    page.goto(server.url, wait_until="domcontentloaded")
    ready(page)
    page.evaluate(
        "prompt => app.loadApiJson(prompt, crypto.randomUUID())",
        {"1": node("PPD_TrainUserAdapter", **inputs), **BESIDE},
    )
    page.locator(WIDGET).get_by_role("status").wait_for()
    page.evaluate(
        "() => { const [node, ...others] = app.graph.nodes; node.pos = [500, 60]; app.canvas.ds.scale = 1;"
        " for (const other of others) other.pos = [-2000, 60];"
        " app.canvas.ds.offset = [0, 60]; app.canvas.setDirty(true, true); }"
    )
    yield page
    page.close()
    assert page.complaints == []


CALLED = """name => {
    const { widgets } = app.graph.nodes.find((node) => node.comfyClass === "PPD_TrainUserAdapter");
    const widget = widgets.find((one) => one.name === "name");
    widget.value = name;
    widget.callback(name);
}"""
"""Gives the node another name."""


def ready(page):
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph")
    page.wait_for_function("'PPD_TrainUserAdapter' in LiteGraph.registered_node_types")


@pytest.mark.browser
def test_a_training_is_started_seen_after_a_reload_stopped_and_gone_on_with(server, page, tmp_path):
    widget = page.locator(WIDGET)
    if not page.is_classic:
        return go_on_and_kill(page, widget)
    widget.get_by_text("Press Run to start.").wait_for()
    page.evaluate("() => void app.queuePrompt(0)")
    widget.get_by_text("Has begun").wait_for()
    page.screenshot(path=tmp_path / "begun.png")
    page.reload(wait_until="domcontentloaded")
    ready(page)
    bar = widget.get_by_role("progressbar")
    bar.wait_for()
    page.wait_for_function(f"document.querySelector('{WIDGET} [role=progressbar]').ariaValueNow > 0")
    page.screenshot(path=tmp_path / "trains.png")
    for name, count in (("another", 1), (NAME, 0)):
        page.evaluate(CALLED, name)
        widget.get_by_text("Press Run to start." if count else "of 700").wait_for()
        assert widget.get_by_text(f"The training “{NAME}” is running. Only one runs at a time").count() == count
    widget.get_by_role("button", name="Stop").click()
    widget.get_by_text("Stopped. Nothing is lost").wait_for()
    page.screenshot(path=tmp_path / "stopped.png")
    state = told(server, f"trainings/{NAME.replace(' ', '%20')}")
    assert state["state"] == "stopped" and 0 < state["step"] < state["of"] == 700
    assert [one["state"] for one in told(server, "trainings")] == ["stopped"]
    for name, words in (("a/b", "Press Run to start."), (NAME, "Stopped. Nothing is lost")):
        page.evaluate(CALLED, name)
        widget.get_by_text(words).wait_for()
        assert widget.get_by_role("alert").count() == (name != NAME)
    assert not cached(server, BESIDE) and cached(server, BESIDE) == set(BESIDE)  # what it kept of the run holds models


def cached(server, prompt):
    """Which nodes of a prompt ComfyUI did not run again."""
    (found,) = (message for kind, message in server.run(prompt)["status"]["messages"] if kind == "execution_cached")
    return set(found["nodes"])


def go_on_and_kill(page, widget):
    """What the test before stopped, in the other frontend."""
    widget.get_by_role("button", name="Continue").click()
    widget.get_by_text("Has begun").wait_for()
    widget.get_by_role("button", name="Stop").click()
    widget.get_by_text("Stopping. Everything is saved.").wait_for()
    kill(json.loads((page.runs / NAME / "run.json").read_text())["pid"])
    widget.get_by_text("It ended without a word").wait_for()
    widget.get_by_role("button", name="Continue").wait_for()
    learned = list((page.runs / NAME).glob("*.pt"))
    widget.get_by_role("button", name="Begin anew").click()
    page.get_by_role("button", name="Confirm").click()
    widget.get_by_text("Press Run to start.").wait_for()
    assert learned and not list((page.runs / NAME).glob("*.pt"))


def test_nothing_outside_of_trainings_is_served(server, inputs):
    for name in ("..", "..%2F..%2F..", "%2Fetc", "a%2Fb"):
        for end in ("", "/sheet.png", "/report.html"):
            assert call(server, f"trainings/{name}{end}")[0] in (400, 404), name
    status, text = call(server, "trainings/nobody/sheet.png")
    assert status == 404 and "has not come so far yet" in json.loads(text)["error"]
    assert told(server, "trainings/nobody")["state"] == "new"
    status, text = call(server, "trainings/nobody/go-on", {"request": "r"})
    assert status == 400 and "There is no training 'nobody': start it" in json.loads(text)["error"]
    assert call(server, "trainings/nobody/stop", b"", content_type="text/plain")[0] == 400
