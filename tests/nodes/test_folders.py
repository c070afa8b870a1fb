"""Where nodes look for files, and where they refuse to."""

from __future__ import annotations

import json
import os
import shutil

import pytest

pytestmark = pytest.mark.comfyui


def test_preference_sets_of_all_folders_examples_first(comfy_folders, example):
    example("input")
    example("datasets", "a/b")
    example("datasets", "a/b/c/too-deep")
    example("input", ".hidden")
    (comfy_folders.input / "picks.jsonl").write_text("")
    (comfy_folders.datasets / "shards").mkdir()
    (comfy_folders.datasets / "shards" / "0.parquet").write_bytes(b"")
    (comfy_folders.input / "photo.png").write_bytes(b"")
    assert comfy_folders.module.preference_sets() == [
        "example: calm",
        "example: warm",
        "input: mine",
        "input: picks.jsonl",
        "datasets: a/b",
        "datasets: shards",
    ]
    for name in comfy_folders.module.preference_sets():
        assert comfy_folders.module.preference_set(name).exists()


@pytest.mark.parametrize(
    "name",
    ["input: ../secret", "input: /etc", "input: ", "other: mine", "mine", "input: link", "input: a\0b"],
)
def test_nothing_outside_of_those_folders(comfy_folders, example, name):
    example("user", "secret")
    shutil.move(comfy_folders.user / "secret", comfy_folders.input.parent / "secret")
    (comfy_folders.input / "link").symlink_to(comfy_folders.input.parent / "secret")
    with pytest.raises(ValueError, match="There is no preference set"):
        comfy_folders.module.preference_set(name)


def test_a_missing_shipped_file_is_named(comfy_folders, monkeypatch, tmp_path):
    monkeypatch.setattr(comfy_folders.module, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="The pack has no pocket_base.safetensors .* install the pack again"):
        comfy_folders.module.shipped_file("pocket_base.safetensors")


def test_model_folders_are_registered_with_their_extension(pack, comfyui_path):
    import folder_paths

    for name in ("user_adapters", "user_embeddings", "open_clip"):
        paths, extensions = folder_paths.folder_names_and_paths[name]
        assert extensions == {".safetensors"}
        assert paths[-1].endswith(name)
    assert [path.rpartition(os.sep)[2] for path in folder_paths.get_folder_paths("vlm")] == ["vlm", "LLM"]
    json.dumps(folder_paths.get_folder_paths("user_adapters"))
