"""What is missing, locked or read-only takes no node away but those that need it, and they say what to do."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from .test_pack import NODE_IDS

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = {"open_clip", "accelerate", "diffusers", "pyarrow", "timm"}
"""What is no requirement of ComfyUI's, and what open_clip brings."""
WITHOUT = """
import asyncio, json, sys
from pathlib import Path
missing = set(sys.argv[3].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import folder_paths, nodes
folder_paths.set_user_directory(sys.argv[4])
folder_paths.set_temp_directory(sys.argv[4])
known = set(nodes.NODE_CLASS_MAPPINGS)
loaded = asyncio.run(nodes.load_custom_node(sys.argv[2]))
told = {}

def run(node, **inputs):
    try:
        return nodes.NODE_CLASS_MAPPINGS[node].EXECUTE_NORMALIZED(**inputs).result
    except ValueError as error:
        told[node] = str(error)

pairs = run("PreferencePairLoader", preference_set="example: vivid and bold")[0]
model = run("PPD_PocketCheckpointLoader", checkpoint="pocket")[0]
run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket")
train = sys.modules[nodes.NODE_CLASS_MAPPINGS["PPD_TrainUserAdapter"].__module__]
try:
    train.Training(Path(sys.argv[4]) / "training").start([], comfyui=Path(sys.argv[1]))
except ValueError as error:
    told["training"] = str(error)
print(json.dumps({"loaded": loaded, "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - known), "pairs": len(pairs),
                  "model": type(model.model.diffusion_model).__name__, "told": told}))
"""


def test_without_any_package_that_comfyui_lacks_all_nodes_load(comfyui_path, tmp_path):
    """Those that need one say which, and the command that installs it; all others work."""
    command = [sys.executable, "-c", WITHOUT, str(comfyui_path), str(ROOT), ",".join(OPTIONAL), str(tmp_path)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["loaded"] and set(found["nodes"]) == NODE_IDS
    assert found["pairs"] == 4 and found["model"] == "UNetModel"
    install = f'run "{sys.executable}" -m pip install'
    assert found["told"] == {
        "UserEmbeddingEncoder": "This taste encoder needs the package open_clip_torch, which does not load here (No "
        f"module named 'open_clip'): {install} open_clip_torch, then start ComfyUI again.",
        "training": "Training needs the package accelerate, which does not load here (No module named 'accelerate'): "
        f"{install} accelerate, then start ComfyUI again.",
    }
    assert not (tmp_path / "training").exists()


@pytest.fixture
def read_only(tmp_path):
    """A folder in which nothing can be made; root may write everywhere but in the kernel's own."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    if os.geteuid() == 0:
        folder = Path("/sys")
    else:
        folder = tmp_path / "read-only"
        folder.mkdir()
        folder.chmod(0o500)
    with pytest.raises(OSError):
        (folder / "anything").mkdir()
    return folder


def test_a_read_only_user_folder(node_classes, run, comfy_folders, read_only, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "user_directory", str(read_only))
    for node in node_classes.values():
        json.dumps(node.GET_NODE_INFO_V1())
    pairs = run("PreferencePairLoader", preference_set="example: warm")[0]
    assert run("UserEmbeddingEncoder", encoder="pocket", pairs=pairs)[0].pairs == 4
    message = node_classes["PreferencePairLoader"].validate_inputs("person: me")
    assert "may not be written: give yourself the right to write to its folder" in message


def test_a_read_only_models_folder(run, comfy_folders, read_only, monkeypatch):
    import folder_paths

    pairs = run("PreferencePairLoader", preference_set="example: warm")[0]
    person = run("UserEmbeddingEncoder", encoder="pocket", pairs=pairs)[0]
    folder_paths.folder_names_and_paths["user_embeddings"] = ([str(read_only)], {".safetensors"})
    sentence = r"person.*safetensors cannot be written into .+ \(.+\): give yourself the right to write there"
    with pytest.raises(ValueError, match=sentence):
        run("PPD_UserEmbeddingSave", user_embedding=person)


def test_a_locked_store(node_classes, run, comfy_folders):
    store = comfy_folders.module.taste_store()
    store.add_person("Aki")
    store.database.close()
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE people SET half_life = 1")
        for name in ("PreferencePairLoader", "PPD_MyTaste"):
            json.dumps(node_classes[name].GET_NODE_INFO_V1())
        pairs = run("PreferencePairLoader", preference_set="example: warm")[0]
        assert run("UserEmbeddingEncoder", encoder="pocket", pairs=pairs)[0].pairs == 4
        with store.database.hurried(0.1):
            message = node_classes["PreferencePairLoader"].validate_inputs("person: me")
        assert "is in use by another program: close that program, or wait, and try again." in message
        other.execute("ROLLBACK")


def test_a_foreign_database(node_classes, run, comfy_folders):
    """Somebody else's SQLite file by our name is left as it is."""
    path = comfy_folders.user / "__ppd" / "taste" / "taste.sqlite3"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as foreign, foreign:
        foreign.execute("CREATE TABLE recipes (title TEXT)")
    before = path.read_bytes()
    assert run("PreferencePairLoader", preference_set="example: warm")[0]
    message = node_classes["PreferencePairLoader"].validate_inputs("person: me")
    assert "is damaged, or no taste store: to begin anew, move the folder" in message
    assert path.read_bytes() == before
