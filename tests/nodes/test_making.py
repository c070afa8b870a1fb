"""Make Taste Encoder: what it can be made of, where it goes, what is refused, and that a cancel loses nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ppd.adapters import UserAdapter
from ppd.encoders.encoder import TasteEncoder
from ppd.pocket.studio import WEIGHTS

pytestmark = pytest.mark.comfyui
ID = "PPD_MakeTasteEncoder"
ADAPTER = WEIGHTS / "adapters" / "pocket.safetensors"
NOTHING = {"studies": "none", "pictures": "none", "preference_set": "none"}


@pytest.fixture
def output(comfy_folders, monkeypatch):
    """ComfyUI's output folder with 20 pictures, in a folder of it."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(comfy_folders.output))
    folder = comfy_folders.output / "painted"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return comfy_folders.output


def make(run, **inputs):
    return run(ID, **{**NOTHING, "tower": "tower of: pocket", **inputs}).result


def test_a_folder_of_pictures_makes_one_that_lists_show(run, output, comfy_folders, node_classes):
    name, report = make(run, name=" my model ", pictures="output")
    assert name == "my model" and report.startswith("my model: 20 pictures seen by pocket-clip; ")
    folder = comfy_folders.models / "taste_encoders" / "my model"
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
        "tower.safetensors",
    ]
    made = json.loads((folder / "encoder.json").read_text())
    assert made["made"]["people_are"] == "simulated" and str(comfy_folders.models) not in json.dumps(made)
    schema = node_classes[ID].INPUT_TYPES()["optional"]
    assert "tower of: my model" in schema["tower"][1]["options"]
    assert "output" in schema["pictures"][1]["options"]
    for again in ("my model", "My Model"):  # one folder on Windows and macOS
        with pytest.raises(ValueError, match="There is a taste encoder 'my model' already"):
            make(run, name=again, pictures="output")
        assert make(run, name=again, pictures="output", overwrite=True)[0] == "my model"
    if not folder.with_name("My Model").exists():  # where folders are told apart by case, somebody may have both
        shutil.copytree(folder, folder.with_name("My Model"))
        assert make(run, name="My Model", pictures="output", overwrite=True)[0] == "My Model"


def test_one_that_an_adapter_or_a_training_needs_is_not_overwritten_by_another(run, output, comfy_folders):
    make(run, name="mine", pictures="output")
    held = TasteEncoder.load(comfy_folders.models / "taste_encoders" / "mine").weight_hash
    training = comfy_folders.user / "__ppd" / "trainings" / "tide"
    training.mkdir(parents=True)
    (training / "inputs.json").write_text(json.dumps({"taste encoder": held}))
    Image.effect_noise((64, 64), 40).convert("RGB").save(output / "painted" / "more.png")
    make(run, name="other", pictures="output")  # another name
    (training / "preferences.pt").touch()
    refused = "The training 'tide' was made with the taste encoder 'mine' as it is, and fits no other: choose another"
    with pytest.raises(ValueError, match=refused):
        make(run, name="mine", pictures="output", overwrite=True)
    (training / "preferences.pt").unlink()
    adapter = UserAdapter.load(ADAPTER)
    adapter.config = replace(adapter.config, encoder_hash=held)
    (comfy_folders.models / "user_adapters").mkdir(exist_ok=True)
    adapter.save(comfy_folders.models / "user_adapters" / "tide.safetensors")
    with pytest.raises(ValueError, match="The user adapter 'tide.safetensors' was made with"):
        make(run, name="mine", pictures="output", overwrite=True)
    (output / "painted" / "more.png").unlink()
    assert make(run, name="mine", pictures="output", overwrite=True)[0] == "mine"  # the same again
    (comfy_folders.models / "user_adapters" / "tide.safetensors").unlink()
    Image.effect_noise((64, 64), 40).convert("RGB").save(output / "painted" / "more.png")
    make(run, name="mine", pictures="output", overwrite=True)
    assert TasteEncoder.load(comfy_folders.models / "taste_encoders" / "mine").weight_hash != held


def test_studies_are_listed_and_read(run, output, comfy_folders, node_classes):
    import torch

    low, high = torch.full((6, 32, 32, 3), 0.2), torch.full((6, 32, 32, 3), 0.8)
    noise = torch.rand(6, 32, 32, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    run("PPD_AddStudies", low=low + noise, high=high + noise, studies="mine", look="own names",
        low_name="dim", high_name="lit")  # fmt: skip
    assert "mine" in node_classes[ID].INPUT_TYPES()["optional"]["studies"][1]["options"]
    _, report = make(run, name="of studies", studies="mine", pictures="output")
    assert "dim / lit 1.00" in report and "32 pictures" in report


@pytest.mark.parametrize("name", ["", "..", "../mine", "a/b", ".hidden", "x" * 65, "con:", "dot."])
def test_names_that_are_no_folder_are_refused(run, output, name):
    with pytest.raises(ValueError, match="Expected a name of letters, digits"):
        make(run, name=name, pictures="output")


def test_what_is_not_there_is_refused(run, output, comfy_folders):
    with pytest.raises(ValueError, match="nothing to make a taste encoder of"):
        make(run, name="mine")
    for choice in ("output: ../input", "temp", "datasets: gone"):
        with pytest.raises(ValueError, match="no folder of pictures"):
            make(run, name="mine", pictures=choice)
    with pytest.raises(ValueError, match="There is no tower 'CLIP vision: gone'"):
        make(run, name="mine", pictures="output", tower="CLIP vision: gone")
    with pytest.raises(ValueError, match="a taste encoder 'pocket' already"):
        make(run, name="pocket", pictures="output", overwrite=True)
    assert not (comfy_folders.models / "taste_encoders").exists()


def test_cancel_works_and_leaves_no_half_encoder(run, output, comfy_folders):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        make(run, name="mine", pictures="output")
    assert not (comfy_folders.models / "taste_encoders").exists()
    features = list((comfy_folders.user / "__ppd" / "features").rglob("*.npy"))
    assert len(features) == 20  # a batch that was looked at is kept
    assert make(run, name="mine", pictures="output")[0] == "mine"
