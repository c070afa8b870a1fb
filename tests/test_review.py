"""docs/review.md holds: no socket, no process, no write outside of its folders, no patch of anybody's code."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "review.md").read_text(encoding="utf-8")
SOURCES = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "ppd").rglob("*.py")]
NETWORK = {"socket", "ssl", "urllib.request", "http.client", "requests", "httpx", "ftplib", "smtplib"}
UNSAFE = {"pickle", "marshal", "shelve", "ctypes", "joblib", "dill"}

WATCH = """
import asyncio, json, os, sys
from pathlib import Path
comfyui, pack, base = sys.argv[1:]
sys.path.insert(0, comfyui)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import folder_paths
for name in ("input", "output", "temp", "user"):
    Path(base, name).mkdir()
    getattr(folder_paths, f"set_{name}_directory")(str(Path(base, name)))
import execution, nodes, server, torch

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
CHANGING = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1,
            "os.truncate": 0, "os.chmod": 0, "shutil.rmtree": 0}
phase, events = "", []

def hook(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "ctypes.dlopen",
                         "http.", "urllib.")):
        events.append((phase, event, str(arguments[:2])))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        is_path = isinstance(arguments[0], (str, bytes))  # else a descriptor that was opened before
        events.append((phase, "write", os.path.abspath(os.fsdecode(arguments[0])) if is_path else "descriptor"))
    elif event in CHANGING:
        events.append((phase, "write", os.path.abspath(os.fsdecode(arguments[CHANGING[event]]))))
    elif event == "sqlite3.connect":
        events.append((phase, "write", os.path.abspath(os.fsdecode(arguments[0]))))

WATCHED = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "nodes", "execution", "server", "folder_paths",
           "latent_preview", "torch", "PIL", "aiohttp", "safetensors")

def code():
    # Whatever may be called, by where it is: functions of modules, and all that classes hold
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in WATCHED:
            for key, value in list(vars(module).items()):
                if callable(value):
                    found[name, key] = value
                if isinstance(value, type) and value.__module__ == name:
                    found.update({(name, key, part): member for part, member in list(vars(value).items())
                                  if callable(member) or isinstance(member, (staticmethod, classmethod, property))})
    return found

def changed(before):
    now = code()
    return sorted(".".join(where) for where, what in before.items() if now.get(where) is not what)

def settings():
    return {name: repr(getattr(torch, name)()) for name in ("get_default_dtype", "get_num_threads",
            "are_deterministic_algorithms_enabled", "is_grad_enabled")} | {"path": sys.path[:]} | dict(os.environ)

torch.rand(2).sum()  # its own first times
before, set_before = code(), settings()
loop = asyncio.new_event_loop()  # which has a socket of its own
sys.addaudithook(hook)
phase = "load"
assert loop.run_until_complete(nodes.load_custom_node(pack))
after_load = changed(before)

phase = "run"
run = lambda node, **inputs: nodes.NODE_CLASS_MAPPINGS[node].EXECUTE_NORMALIZED(**inputs).result
with torch.inference_mode():
    model, clip, vae = run("PPD_PocketCheckpointLoader", checkpoint="pocket")
    person = run("UserEmbeddingEncoder", encoder="pocket",
                 pairs=run("PreferencePairLoader", preference_set="example: vivid and bold")[0])[0]
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket")[0]
    words = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a boat by a lake", "")]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    nodes.common_ksampler(model, 1, 2, 4.0, "euler", "normal", *words, latent)  # what ComfyUI leaves by itself
    network = model.model.diffusion_model
    own = {name: (set(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
           for name, part in network.named_modules()}
    options = repr(model.model_options)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    sampled = {}
    for strength in (1.0, 0.0):
        sampled[strength] = run("PersonalizedDenoiser", model=model, seed=1, steps=2, cfg=4.0, sampler_name="euler",
            scheduler="normal", positive=words[0], negative=words[1], latent_image=latent, denoise=1.0,
            user_embedding=person, user_adapter=adapter, strength=strength)[0]["samples"]
phase = "end"
left = [name for name, part in network.named_modules()
        if own[name] != (set(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))]
left += ["options"] if repr(model.model_options) != options else []
left += [name for name, value in network.state_dict().items() if not torch.equal(value, state[name])]
now = settings()
print(json.dumps({"events": events, "after load": after_load, "after run": changed(before), "left": left,
                  "moved": float((sampled[1.0] - sampled[0.0]).abs().max()), "watched": len(before),
                  "settings": [name for name in now if now[name] != set_before.get(name)]}))
"""


@pytest.fixture(scope="module")
def watched(comfyui_path, tmp_path_factory):
    """What a process did that loads the pack and paints a personal picture."""
    base = tmp_path_factory.mktemp("base")
    command = [sys.executable, "-c", WATCH, str(comfyui_path), str(ROOT), str(base)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=base, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return {**json.loads(result.stdout.splitlines()[-1]), "base": base}


@pytest.mark.comfyui
def test_loading_does_nothing_but_read(watched):
    assert [event for event in watched["events"] if event[0] == "load"] == []


@pytest.mark.comfyui
def test_a_personal_picture_opens_no_socket_and_writes_into_its_folders_alone(watched):
    run = [event for event in watched["events"] if event[0] == "run"]
    places = {Path(what).relative_to(watched["base"]).parts[:3] for _, kind, what in run if kind == "write"}
    assert {kind for _, kind, _ in run} == {"write"}
    assert places and all(place[:2] == ("user", "__ppd") or place[0] == "temp" for place in places), places


@pytest.mark.comfyui
def test_nobodys_code_is_patched_and_nothing_is_left(watched):
    """Some ten thousand functions, methods and classes are the same objects as before, so are model and settings."""
    assert watched["watched"] > 10_000 and watched["moved"] > 0.01
    assert watched["after load"] == watched["after run"] == watched["left"] == []
    assert set(watched["settings"]) <= {"TOKENIZERS_PARALLELISM"}  # by open_clip, as soon as it is imported


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def where(names: set[str]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in SOURCES if imports_of(path) & names}


def called(path: Path) -> set[str]:
    """Names and dotted names that a file calls."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {ast.unparse(function) for function in calls if isinstance(function, (ast.Name, ast.Attribute))}


def test_who_imports_what_the_page_says():
    assert where(NETWORK) == where(UNSAFE) == set()
    assert where({"subprocess"}) == {"ppd/training/runs.py"}
    assert where({"huggingface_hub"}) == {"ppd/encoders/towers/__init__.py"}
    assert {"ppd/training/runs.py", "ppd/encoders/towers/__init__.py"} <= set(re.findall(r"`(ppd/[^`]+)`", PAGE))


def test_nothing_that_is_read_is_run():
    for path in SOURCES:
        assert not called(path) & {"eval", "exec", "compile", "os.system", "pickle.load", "__import__"}, path
        text = path.read_text(encoding="utf-8")
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        assert "allow_pickle=True" not in text, path


@pytest.mark.comfyui
def test_routes_are_below_one_name(pack):
    """All of them are on the page, by their first two words."""
    import importlib

    from aiohttp import web

    routes = web.RouteTableDef()
    for path in (ROOT / "nodes").glob("*.py"):
        if "def register(routes" in path.read_text(encoding="utf-8"):
            importlib.import_module(f"ppd_pack.nodes.{path.stem}").register(routes)
    paths = [route.path for route in routes if isinstance(route, web.RouteDef)]
    heads = {"/".join(path.split("/")[:3]) for path in paths}
    assert len(paths) > 30 and all(head.startswith("/ppd/") for head in heads)
    assert {head for head in heads if f"`{head}" not in PAGE} == set()


def test_what_is_installed_is_on_the_page():
    named = re.findall(r"^[\w.-]+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert named and all(f"`{name}`" in PAGE for name in named)
    scripts = [name for name in ("install.py", "prestartup_script.py", "uninstall.py") if (ROOT / name).exists()]
    assert scripts == []
