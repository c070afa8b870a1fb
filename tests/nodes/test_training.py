"""Train User Adapter: what it starts, what it refuses, and how it shows a training, whoever started it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from ppd.training.costs import Costs
from ppd.training.runs import Training

from .test_my_taste import pick

pytestmark = pytest.mark.comfyui
ID = "PPD_TrainUserAdapter"
COSTS = vars(Costs(9, 90, 0, 1.0, 0.0, 7200.0, peak_memory=3 * 2**30, disk=0, batch=4))


@pytest.fixture
def trained(run, comfy_folders, monkeypatch):
    """The node with a checkpoint (of no weights, so that its training ends at once), studies and their encoder."""
    import folder_paths

    known = dict(folder_paths.folder_names_and_paths)
    known["checkpoints"] = ([str(comfy_folders.models / "checkpoints")], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    checkpoint = comfy_folders.models / "checkpoints" / "mine.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"no weights")
    noise = 0.2 * torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    sides = {"low": 0.2 + noise, "high": 0.8 + noise, "low_name": "dim", "high_name": "lit"}
    run("PPD_AddStudies", studies="mine", look="own names", **sides)
    run("PPD_MakeTasteEncoder", name="of mine", tower="tower of: pocket", studies="mine")
    runs = import_module("ppd.training.runs").trainings
    inputs = {"checkpoint": "mine.safetensors", "studies": "mine", "taste_encoder": "of mine"}
    yield lambda **more: run(ID, **{**inputs, **more}).result
    for training in runs(comfy_folders.module.trainings_folder()):
        if training.state().is_active:
            psutil.Process(json.loads((training.folder / "run.json").read_text())["pid"]).kill()


def finish(folder, result=None):
    """Makes the training of a folder one that has ended well."""
    told = json.loads((folder / "run.json").read_text())
    if psutil.pid_exists(told["pid"]):
        psutil.Process(told["pid"]).kill()
    while psutil.pid_exists(told["pid"]):
        time.sleep(0.02)
    (folder / "result.json").write_text(
        json.dumps(result or {"real_people": {"people": 0}, "held_out": {"simulated": None, "real": None}})
    )


def test_it_starts_once_and_shows_how_it_stands(trained, comfy_folders):
    report, sheet, adapter = trained(steps=10)
    assert report.startswith("my adapter.safetensors: Has begun") and adapter == "my adapter.safetensors"
    assert sheet.shape == (1, 64, 64, 3) and sheet.max() == sheet.min()
    folder = comfy_folders.user / "__ppd" / "trainings" / "my adapter"
    told = json.loads((folder / "run.json").read_text())
    options = " ".join(told["arguments"])
    assert (
        f"--base {comfy_folders.models}/checkpoints/mine.safetensors --studies {comfy_folders.datasets}/mine" in options
    )
    assert f"--out {comfy_folders.models}/user_adapters/my adapter.safetensors" in options and "--steps 10 " in options
    assert json.loads((folder / "folders.json").read_text())["clip_vision"] == [
        str(comfy_folders.models / "clip_vision")
    ]
    assert trained(steps=10)[0].startswith("my adapter.safetensors: Has begun")
    assert json.loads((folder / "run.json").read_text())["pid"] == told["pid"]
    with pytest.raises(ValueError, match="The training 'my adapter' is running: stop it, or wait for its end"):
        trained(name="another")


def test_two_presses_start_one_process(trained, comfy_folders):
    def begun():
        processes = (child.cmdline() for child in psutil.Process().children())
        return sum("train" in command and "adapter" in command for command in processes)

    with ThreadPoolExecutor(2) as both:
        told = [one.result() for one in [both.submit(trained) for _ in range(2)]]
    assert all("Has begun" in report for report, _, _ in told) and begun() == 1


def test_a_finished_one_is_shown_and_its_file_is_never_written_over(trained, comfy_folders):
    trained()
    folder = comfy_folders.user / "__ppd" / "trainings" / "my adapter"
    finish(folder)
    Image.new("RGB", (96, 32), "red").save(folder / "sheet.png")
    out = comfy_folders.models / "user_adapters" / "my adapter.safetensors"
    out.parent.mkdir(exist_ok=True)
    out.touch()
    report, sheet, _ = trained()
    assert "Measured on nobody" in report and sheet.shape == (1, 32, 96, 3) and sheet[..., 0].min() == 1
    assert trained(action="show", studies="none")[0] == report
    (out.parent / "taken.safetensors").touch()
    with pytest.raises(ValueError, match="There is a user adapter 'taken' already: choose another name"):
        trained(name="taken")
    with pytest.raises(ValueError, match=r"'my adapter' is finished, and was trained with other settings \(steps\)"):
        trained(steps=99)
    out.unlink()
    assert trained()[0].startswith("my adapter.safetensors: Has begun")
    assert not (folder / "sheet.png").exists()


def test_a_dry_run_is_one_of_its_own(trained, comfy_folders):
    trained(action="dry run")
    folder = comfy_folders.user / "__ppd" / "trainings" / "my adapter" / "dry run"
    arguments = json.loads((folder / "run.json").read_text())["arguments"]
    assert arguments[-3:] == ["--dry-run", "--made", str(folder.parent)]  # what it makes, the training finds
    with pytest.raises(ValueError, match="The training 'my adapter/dry run' is running"):
        trained()
    finish(folder, COSTS)
    report, _, _ = trained(action="show")
    assert "Training: about 2.0 h" in report and "Peak memory: 3.0 GB" in report
    assert trained()[0].startswith("my adapter.safetensors: Has begun")


def test_what_is_missing_is_told_before_anything_starts(trained, run, comfy_folders):
    refused: dict[str, dict[str, Any]] = {
        "Training needs a choice of checkpoint": {"checkpoint": "none"},
        "Training needs studies: choose a set": {"studies": "none"},
        "Training needs a choice of taste_encoder": {"taste_encoder": "none"},
        "The taste encoder 'pocket' was not made of the studies 'mine': make it": {"taste_encoder": "pocket"},
        "Expected a name of letters, digits": {"name": "../mine"},
        "Training for one person needs their picks": {"solo": True},
        "There is nobody of that name in the taste store yet": {"preference_set": "person: me"},
        "There is no preference set 'gone'": {"preference_set": "gone"},
    }
    for name, inputs in refused.items():
        with pytest.raises(ValueError, match=name):
            trained(**inputs)
    comfy_folders.module.taste_store().add_person("ann")
    with pytest.raises(ValueError, match="ann has picked nothing yet: pick in the tab Taste first"):
        trained(preference_set="person: ann")
    assert trained(action="show")[0] == "my adapter.safetensors: Nothing was started."
    assert not comfy_folders.module.trainings_folder().exists()


def test_a_choice_that_no_training_could_start_with_is_told_when_run_is_pressed(trained, node_classes):
    check = node_classes[ID].validate_inputs
    assert check(checkpoint="mine.safetensors") is True and check(action="show") is True
    assert "Training needs a choice of checkpoint" in check()
    assert "mine2.safetensors" in check(checkpoint="mine2.safetensors")
    assert "Expected train, dry run or show as the action, got 'trian'" in check(action="trian")


def test_what_was_begun_is_begun_anew_with_other_settings(trained, comfy_folders):
    trained(steps=10)
    folder = comfy_folders.module.trainings_folder() / "my adapter"
    begin_anew = import_module("ppd_pack.nodes.training_runs").begin_anew
    training = Training(folder)
    with pytest.raises(ValueError, match="The training 'my adapter' is running: stop it first"):
        begin_anew(training)
    finish(folder)
    (folder / "result.json").unlink()
    (folder / "preferences.pt").touch()
    (folder / "latents").mkdir()
    with pytest.raises(ValueError, match=r"half done with other settings \(steps\): .* or begin anew"):
        trained(steps=20)
    trained(steps=20, action="dry run")
    assert not Training(folder / "dry run").is_half_done and training.is_half_done
    finish(folder / "dry run", COSTS)
    begin_anew(training)
    assert training.state().state == "new" and not training.is_begun and (folder / "latents").exists()
    assert trained(steps=20)[0].startswith("my adapter.safetensors: Has begun")
    finish(folder)
    (folder / "preferences.pt").touch()
    begin_anew(training)  # a page that was left open does not know that it has finished
    assert training.state().state == "finished" and training.is_begun


def test_somebodys_picks_are_kept_until_they_are_erased(trained, comfy_folders):
    store = comfy_folders.module.taste_store()
    person = store.add_person("ann").id
    pick(store, person, 3)
    trained(preference_set=f"person: {person}", solo=True)
    kept = comfy_folders.user / "__ppd" / "trainings" / "my adapter" / person
    told = json.loads((kept.parent / "run.json").read_text())["arguments"]
    assert str(kept) in told and "--solo" in told
    picks = kept / "pairs.jsonl"
    assert len(picks.read_text().splitlines()) == 3
    finish(kept.parent)
    pick(store, person, 2)
    trained(preference_set=f"person: {person}", solo=True)
    assert len(picks.read_text().splitlines()) == 5  # nothing was learned of the first three yet
    finish(kept.parent)
    (kept.parent / "result.json").unlink()
    (kept.parent / "preferences.pt").touch()
    pick(store, person, 1)
    other = store.add_person("bo").id
    pick(store, other, 2)
    with pytest.raises(ValueError, match=r"half done with other settings \(pairs\)"):
        trained(preference_set=f"person: {other}", solo=True)
    assert not list(kept.parent.glob(f"{other}*"))
    trained(preference_set=f"person: {person}", solo=True)
    assert len(picks.read_text().splitlines()) == 5
    made = [run / name for run in (kept.parent, kept.parent / "dry run") for name in ("latents", "pictures", "texts")]
    for folder in made:
        (folder / "0").mkdir(parents=True)
    cut_short = kept.with_name(f"{person} now")
    cut_short.mkdir()
    import_module("ppd_pack.nodes.forgetting").erase(person)
    assert not any(path.exists() for path in (kept, cut_short, *made))
