"""ComfyUI's folders in a temporary place, and the pack's weights replaced by random ones in the same files."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def comfy_folders(pack, weights, tmp_path, monkeypatch):
    """The pack's `folders` module on temporary folders: .input, .datasets, .models, .user, .weights."""
    import folder_paths

    folders = importlib.import_module("ppd_pack.nodes.folders")
    places = {name: tmp_path / name for name in ("input", "datasets", "models", "user", "output")}
    for place in places.values():
        place.mkdir()
    monkeypatch.setattr(folders, "WEIGHTS", weights)
    for module in ("ppd.store.people", "nodes.whose", "nodes.encoders", "nodes.adapter"):
        # The only taste encoder of these weights
        monkeypatch.setattr(importlib.import_module(f"ppd_pack.{module}"), "DEFAULT_ENCODER", "pocket")
    monkeypatch.setattr(folder_paths, "input_directory", str(places["input"]))
    monkeypatch.setattr(folder_paths, "user_directory", str(places["user"]))
    known = dict(folder_paths.folder_names_and_paths)
    known["datasets"] = ([str(places["datasets"])], set())
    for name in ("user_adapters", "user_embeddings"):
        known[name] = ([str(places["models"] / name)], {".safetensors"})
    known["taste_encoders"] = ([str(places["models"] / "taste_encoders")], set())
    known["clip_vision"] = ([str(places["models"] / "clip_vision")], {".safetensors"})
    known["ipadapter"] = ([str(places["models"] / "ipadapter")], set())
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    importlib.import_module("ppd_pack.nodes.interviews")._interviews.clear()  # they hold on to another test's store
    return SimpleNamespace(**places, weights=weights, module=folders)


@pytest.fixture
def run(node_classes, comfy_folders):
    """Executes a node by id, as ComfyUI does: in inference mode, with widgets' defaults where nothing is given."""

    def execute(node_id: str, **inputs):
        node = node_classes[node_id]
        for entry in node.GET_SCHEMA().inputs:
            if not entry.optional and entry.id not in inputs and getattr(entry, "default", None) is not None:
                inputs[entry.id] = entry.default
        with torch.inference_mode():
            return node.EXECUTE_NORMALIZED(**inputs)

    return execute


@pytest.fixture
def example(comfy_folders):
    """Copies an example set to one of the folders, and returns where it is."""

    def copy(where: str, name: str = "mine", person: str = "warm") -> Path:
        return Path(shutil.copytree(comfy_folders.weights / "examples" / person, getattr(comfy_folders, where) / name))

    return copy
