"""The pack as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import nodes
    from comfy_api.latest import io
ROOT = Path(__file__).resolve().parents[2]
NODE_IDS = {
    "PreferencePairLoader",
    "PPD_PreferenceCollector",
    "PPD_UserEmbeddingSample",
    "UserEmbeddingEncoder",
    "PPD_UserEmbeddingSave",
    "PPD_UserEmbeddingLoad",
    "PPD_UserEmbeddingBlend",
    "PPD_UserEmbeddingBatch",
    "PPD_UserAdapterLoader",
    "PPD_IPAdapterLoader",
    "PPD_MyTaste",
    "PPD_SaveTasteAsLoRA",
    "PPD_TasteCode",
    "PPD_TasteToCode",
    "PPD_TasteToText",
    "PPD_ExplainTaste",
    "PPD_TurnLook",
    "PPD_ApplyTasteToConditioning",
    "PPD_SortByTaste",
    "PPD_ApplyUserEmbedding",
    "PersonalizedDenoiser",
    "PPD_PocketCheckpointLoader",
    "PPD_MakeTasteEncoder",
    "PPD_TrainUserAdapter",
    "PPD_CheckPrompts",
    "PPD_CheckLeakage",
    "PPD_CheckStereotypes",
    "PPD_BrandCheck",
    "PPD_BindToGuide",
    "PPD_PaintStudies",
    "PPD_AddStudies",
    "PPD_TestPrompts",
    "PPD_BlindTest",
    "PPD_JudgePictures",
}
LOADER = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes
before, known = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS)
loaded = asyncio.run(nodes.load_custom_node(sys.argv[2]))
heavy = {"diffusers", "transformers", "open_clip", "accelerate", "datasets", "torchvision"}
new = {name.split(".")[0] for name in set(sys.modules) - before}
ours = sorted(set(nodes.NODE_CLASS_MAPPINGS) - known)
print(json.dumps({"loaded": loaded, "heavy": sorted(new & heavy), "nodes": ours, "path": sys.path,
                  "web": nodes.EXTENSION_WEB_DIRS}))
"""


def test_comfyuis_loader_takes_it_from_a_hyphenated_directory(comfyui_path, tmp_path):
    """And importing it loads none of the heavy libraries that ComfyUI has not loaded before."""
    folder = tmp_path / "personalized-diffusion.main"
    folder.symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-c", LOADER, str(comfyui_path), str(folder)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["loaded"], result.stderr
    assert set(found["nodes"]) == NODE_IDS
    assert found["heavy"] == []
    assert str(ROOT) not in found["path"] and str(folder) not in found["path"]
    assert list(found["web"].values()) == [str(folder / "web")]


TWICE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import folder_paths, nodes
if len(sys.argv) == 3:
    del folder_paths.folder_names_and_paths["datasets"]  # as ComfyUI 0.29 had it
print([asyncio.run(nodes.load_custom_node(path)) for path in sys.argv[2:]])
print(len(nodes.EXTENSION_WEB_DIRS))
"""


@pytest.mark.parametrize("copies", [1, 2])
def test_an_old_comfyui_and_a_second_copy_are_told_in_one_sentence(comfyui_path, tmp_path, copies):
    folders = []
    for number in range(copies):
        folders.append(tmp_path / f"copy {number}")
        folders[-1].mkdir()
        for name in ("__init__.py", "nodes", "ppd", "web", "weights", "pyproject.toml"):
            (folders[-1] / name).symlink_to(ROOT / name)
        (folders[-1] / "__init__.py").unlink()
        (folders[-1] / "__init__.py").write_text((ROOT / "__init__.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-c", TWICE, str(comfyui_path), *map(str, folders)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    told = result.stderr.splitlines()[-1]
    if copies == 1:
        assert result.stdout.splitlines()[-2] == "[False]"
        assert "Personalized diffusion needs ComfyUI 0.30 or newer, this one is" in told and "update ComfyUI." in told
    else:
        assert result.stdout.splitlines()[-2:] == ["[True, False]", "1"]
        assert f"installed twice: {folders[0]} is used, {folders[1]} is not. Delete one" in told


def test_the_root_exports_the_entry_alone(pack):
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert {name for name in vars(pack) if not name.startswith("__")} >= {"comfy_entrypoint", "WEB_DIRECTORY"}
    assert asyncio.iscoroutinefunction(pack.comfy_entrypoint)


def test_all_nodes_are_there_and_explained(node_classes, comfy_folders):
    assert set(node_classes) == NODE_IDS
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        assert schema.description and schema.search_aliases and schema.display_name, node_id
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip, f"{node_id}.{socket.id} has no tooltip"
        json.dumps(node.GET_NODE_INFO_V1())


def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(node_classes, comfy_folders):
    for node_id, node in node_classes.items():
        text = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        schema = node.GET_SCHEMA()
        for name in (*(entry.id for entry in schema.inputs), *(entry.display_name for entry in schema.outputs)):
            assert f"**{name}**" in text, f"the help page of {node_id} does not explain {name}"
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == NODE_IDS


def test_ids_are_literal_and_classes_inherit_directly(node_classes):
    """What ComfyUI-Manager's static scan for missing nodes needs."""
    named = {"PreferencePairLoader", "UserEmbeddingEncoder", "PersonalizedDenoiser"}  # by whom the pack was asked for
    assert {node_id for node_id in node_classes if not node_id.startswith("PPD_")} == named
    for node_id, node in node_classes.items():
        assert [base.__name__ for base in node.__bases__] == ["ComfyNode"]
        assert f'node_id="{node_id}"' in Path(sys.modules[node.__module__].__file__).read_text(encoding="utf-8")


def test_what_has_a_default_may_be_left_out(node_classes, comfy_folders):
    """An API prompt need not know it: optional in the schema, with the same default where the node runs."""
    for node_id, node in node_classes.items():
        schema, arguments = node.GET_SCHEMA(), inspect.signature(node.execute).parameters
        for entry in schema.inputs:
            if isinstance(entry, io.WidgetInput) and entry.default is not None:
                default = arguments[entry.id].default
                ours = default[0] if schema.is_input_list else default
                assert entry.optional and ours == entry.default, f"{node_id}.{entry.id}"
                fingerprint = inspect.signature(node.fingerprint_inputs).parameters.get(entry.id)
                assert fingerprint is None or fingerprint.default is not inspect.Parameter.empty, (
                    f"{node_id}.{entry.id}"
                )


def test_what_is_linked_is_not_checked_before_it_is_known(node_classes, comfy_folders):
    """ComfyUI then gives None to `validate_inputs`."""
    checked = {}
    for node_id, node in node_classes.items():
        names = [name for name in inspect.signature(node.validate_inputs).parameters if name != "kwargs"]
        nothing = [None] if node.GET_SCHEMA().is_input_list else None
        checked[node_id] = node.validate_inputs(**dict.fromkeys(names, nothing)) if names else True
    assert {"PreferencePairLoader", "PPD_TrainUserAdapter", "PPD_MyTaste"} <= set(checked)
    assert [node_id for node_id, found in checked.items() if found is not True] == []


def test_widgets_keep_their_places_in_the_frontend(node_classes, comfy_folders):
    """It shows required ones first, and a saved workflow's values go by place."""
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        widgets = [entry for entry in schema.inputs if isinstance(entry, io.WidgetInput)]
        shown = sorted(widgets, key=lambda entry: bool(entry.optional))
        assert [entry.id for entry in shown] == [entry.id for entry in widgets], node_id
    stock = nodes.KSampler.INPUT_TYPES()["required"]
    names = [entry.id for entry in node_classes["PersonalizedDenoiser"].GET_SCHEMA().inputs]
    assert names[: len(stock)] == list(stock)
