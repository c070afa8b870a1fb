"""A real ComfyUI server with the pack mounted as users have it, one for all tests of this folder."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from ppd.pictures import Picture
from ppd.store import TasteStore

from .panels import Windows

ROOT = Path(__file__).resolve().parents[2]
PACK = "personalized-diffusion"
"""The folder the pack is mounted as: a name that no Python module could have."""
NOTES = {"Note", "MarkdownNote"}
"""Nodes that live in the frontend alone."""
MUTED = 2
"""The mode of nodes that are off: they are in the workflow, but do not run."""
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
TEXT = 3
"""Kind of the binary messages that carry a line for a node: the length of the node's id, the id, the line."""
STARTING, RUNNING = 300, 300
"""Seconds to wait for the server to start, and for a graph to run."""

Prompt = dict[str, dict[str, Any]]
"""A graph in the API's format: node id to class_type and inputs."""


@dataclass
class Run:
    """What the websocket said while a graph ran: text messages in order, preview frames and lines with their node."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    previews: list[tuple[str | None, Image.Image]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    interrupted_after: float | None = None
    """Seconds from the request to interrupt to the message that says so."""

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.messages if message["type"] == kind]


@dataclass
class Server:
    """A running ComfyUI, and what a client does with it."""

    url: str
    base: Path
    log: Path
    pid: int

    def get(self, path: str, seconds: float = 60) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=seconds) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} answered {error.code}: {error.read().decode()}") from error
        return json.loads(body) if body else None

    @cached_property
    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def workflow(self, name: str) -> dict[str, Any]:
        """A shipped workflow as its file has it, in the frontend's format."""
        return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))

    def prompt(self, name: str) -> Prompt:
        """A shipped workflow in the API's format."""
        return to_prompt(self.workflow(name), self.object_info)

    def submit(self, prompt: Prompt, client: str = "") -> str:
        return self.post("/prompt", {"prompt": prompt, "client_id": client or uuid4().hex})["prompt_id"]

    def finished(self, prompt_id: str, seconds: float = RUNNING) -> dict[str, Any]:
        """Waits for the end of a run; its entry in the history."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if entry := self.get(f"/history/{prompt_id}", seconds).get(prompt_id):
                return entry
            time.sleep(0.05)
        raise AssertionError(f"the graph did not end within {seconds} s:\n{self.log.read_text()[-3000:]}")

    def run(self, prompt: Prompt, seconds: float = RUNNING) -> dict[str, Any]:
        """Runs a graph to its end; its entry in the history, with the nodes taken from the cache as "cached"."""
        entry = self.finished(self.submit(prompt), seconds)
        messages = {kind: data for kind, data in entry["status"]["messages"]}
        assert entry["status"]["status_str"] == "success", messages.get("execution_error", messages)
        return {**entry, "cached": set(messages["execution_cached"]["nodes"])}

    def pictures(self, entry: dict[str, Any]) -> dict[str, np.ndarray]:
        """The saved pictures of a run [n, H, W, 3] uint8, by the node that saved them."""
        saved: dict[str, list[np.ndarray]] = {}
        for node, output in entry["outputs"].items():
            for image in output.get("images", []):
                if image["type"] == "output":
                    path = self.base / "output" / image["subfolder"] / image["filename"]
                    saved.setdefault(node, []).append(np.asarray(Image.open(path).convert("RGB")))
        return {node: np.stack(images) for node, images in saved.items()}

    def watch(self, prompt: Prompt, interrupt_when: Callable[[Run], bool] | None = None) -> Run:
        """Runs a graph with a websocket open; asks the server to interrupt once `interrupt_when` holds."""
        return asyncio.run(asyncio.wait_for(self._watch(prompt, interrupt_when), RUNNING))

    async def _watch(self, prompt: Prompt, interrupt_when: Callable[[Run], bool] | None) -> Run:
        import aiohttp  # one of ComfyUI's own requirements

        client, found = uuid4().hex, Run()
        node, asked = None, None
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId={client}") as ws:
            prompt_id = await asyncio.to_thread(self.submit, prompt, client)
            async for message in ws:
                if message.type == aiohttp.WSMsgType.BINARY:
                    kind, detail = struct.unpack(">II", message.data[:8])
                    if kind == TEXT:
                        line = message.data[8:].decode()
                        found.lines.append((line[:detail], line[detail:]))
                        continue
                    assert (kind, detail) == (1, 1), "expected a preview frame as JPEG"
                    found.previews.append((node, Image.open(io.BytesIO(message.data[8:]))))
                elif message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    if event["data"].get("prompt_id", prompt_id) != prompt_id:
                        continue
                    found.messages.append(event)
                    if event["type"] == "executing":
                        node = event["data"]["node"]
                    if event["type"] == "execution_interrupted" and asked:
                        found.interrupted_after = time.monotonic() - asked
                    if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                        return found
                if interrupt_when and not asked and interrupt_when(found):
                    asked = time.monotonic()
                    await asyncio.to_thread(self.post, "/interrupt", {})
        raise AssertionError("the server closed the websocket")


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """A graph in the frontend's format as one in the API's.

    Widgets' values are positional in the order of the node's inputs; an input with control_after_generate has a second
    one, which the frontend keeps to itself. A linked input hides its widget's value. Widgets that are younger than the
    workflow have their default.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES or node["mode"] == MUTED:
            continue
        info = object_info[node["type"]]
        values = list(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for part in ("required", "optional"):
            for name in info["input_order"].get(part, []):
                kind, *rest = info["input"][part][name]
                options = rest[0] if rest else {}
                if (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput"):
                    inputs[name] = values.pop(0) if values else options["default"]
                    if options.get("control_after_generate"):
                        values.pop(0)
        assert not values, f"{node['type']} has values left over: {values}"
        for entry in node.get("inputs", []):
            if entry.get("link") is not None:
                inputs[entry["name"]] = sources[entry["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def nodes_of(prompt: Prompt, class_type: str) -> list[str]:
    """Ids of the nodes of a class, in the graph's order."""
    return [node for node, entry in prompt.items() if entry["class_type"] == class_type]


def set_inputs(prompt: Prompt, class_type: str, **inputs: Any) -> Prompt:
    """A copy of a graph, with inputs of all nodes of one class changed."""
    changed = deepcopy(prompt)
    for node in nodes_of(changed, class_type):
        changed[node]["inputs"].update(inputs)
    return changed


@pytest.fixture(scope="session")
def graphs() -> SimpleNamespace:
    """`nodes_of` and `set_inputs`, since test modules cannot import from here."""
    return SimpleNamespace(nodes_of=nodes_of, set_inputs=set_inputs)


@contextmanager
def started(comfyui_path: Path, folder: Path) -> Iterator[Server]:
    """A server with folders of its own below `folder`."""
    base, packs = folder / "base", folder / "packs"
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir(parents=True)
    packs.mkdir()
    (packs / PACK).symlink_to(ROOT, target_is_directory=True)
    shutil.copy(Path(__file__).with_name("small_clip_vision.py"), packs)
    paths = folder / "extra_model_paths.yaml"
    paths.write_text(f"pack:\n  base_path: {json.dumps(str(packs))}\n  custom_nodes: .\n", encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--extra-model-paths-config", str(paths)]
    command += ["--disable-api-nodes", "--preview-method", "latent2rgb", "--database-url", "sqlite:///:memory:"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "1048576"  # freed tensors go back to the system: memory can be measured
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=comfyui_path, env=environment, stdout=output, stderr=output)
    try:
        running = Server(f"http://127.0.0.1:{port}", base, log, process.pid)
        end = time.monotonic() + STARTING
        while True:
            try:
                running.get("/system_stats")
                break
            except (OSError, urllib.error.URLError):
                if process.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"ComfyUI did not start:\n{log.read_text()[-5000:]}") from None
                time.sleep(0.2)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(comfyui_path, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another server, which shares nothing with the first."""
    with started(comfyui_path, tmp_path_factory.mktemp("elsewhere")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> TasteStore:
    """The server's taste store."""
    return TasteStore(server.base / "user" / "__ppd" / "taste")


def coloured(colour: tuple[int, int, int]) -> Picture:
    return Picture.from_image(Image.new("RGB", (64, 64), colour))


@pytest.fixture
def somebody(store: TasteStore, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[int]]]:
    """A new person with three questions, red against blue pictures: the person's id, and the questions'."""
    person = store.add_person(request.node.name[:60]).id
    colours = [((250, 80 * number, 0), (0, 80 * number, 250)) for number in range(3)]
    asked = [
        store.add_candidate(person, f"question {number}", coloured(first), coloured(second))
        for number, (first, second) in enumerate(colours)
    ]
    yield person, asked
    if person in {one.id for one in store.people()}:
        store.delete_person(person)


@pytest.fixture(scope="package")
def playwright_browser() -> Iterator[SimpleNamespace]:
    """The system's chromium, driven by Playwright, one for all tests of this folder: starting it and opening the
    frontend take it seconds. Its event loop is open as long, and said to be running where it is used alone."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no chromium found")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield SimpleNamespace(browser=browser, loop=loop, windows=None)
        asyncio._set_running_loop(loop)
        browser.close()


@pytest.fixture(scope="module")
def chromium(playwright_browser: SimpleNamespace) -> Iterator[Any]:
    """The browser for a module's tests. While they last no other event loop can run in this thread."""
    asyncio._set_running_loop(playwright_browser.loop)
    yield playwright_browser.browser
    asyncio._set_running_loop(None)


@pytest.fixture(scope="module")
def windows(server: Server, chromium: Any, playwright_browser: SimpleNamespace) -> Windows:
    """Windows that the modules before may have opened."""
    playwright_browser.windows = playwright_browser.windows or Windows(server, chromium)
    return playwright_browser.windows


@pytest.fixture(scope="module")
def own_windows(windows: Windows) -> Iterator[None]:
    """No windows of the modules before, and none for those after: the library stays unfolded, and shows what was just
    painted."""
    windows.renew()
    yield
    windows.renew()


@pytest.fixture
def open_panel(windows: Windows) -> Iterator[Callable[..., Any]]:
    """Opens the frontend with the tab Taste and a person chosen; what it complains of fails the test at its end."""
    yield windows.open
    windows.end_test()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with the browser come last in this folder: windows that are kept open go on drawing, also for nobody."""
    own = [number for number, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    with_browser = {items[number].path for number in own if items[number].get_closest_marker("browser")}
    ordered = sorted((items[number] for number in own), key=lambda item: item.path in with_browser)
    for number, item in zip(own, ordered, strict=True):
        items[number] = item


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "no chromium found" in str(r.longrepr)]
    if skipped:
        line = (
            f"{len(skipped)} BROWSER TESTS WERE SKIPPED: no chromium found. Install the system's chromium to run them."
        )
        terminalreporter.write_line(line, yellow=True, bold=True)
