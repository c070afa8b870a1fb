"""Trainings as processes of their own: what their folders tell, while they run, at their end, and after a kill."""

from __future__ import annotations

import json
import os
import time
from importlib.util import find_spec

import psutil
import pytest

from ppd.adapters import UserAdapter
from ppd.training.costs import Costs
from ppd.training.runs import Training, trainings

if find_spec("comfy"):
    from .tiny_base import write_models, write_studies

ARGUMENTS = ["--base", "model.safetensors", "--studies", "nowhere", "--encoder", "nobody", "--out", "mine.safetensors"]
ARGUMENTS += ["--steps", "40", "--distillation-steps", "20"]
COSTS = Costs(9, 90, 0, 1.0, 1800.0, 1800.0, peak_memory=2**31, disk=2**28, batch=4)


def ended(training, seconds=240):
    """How it stands at its end, and in which states it was before."""
    seen, end = [], time.monotonic() + seconds
    while (state := training.state()).is_active:
        seen += [state.state] * (state.state not in seen)
        assert time.monotonic() < end, (training.folder / "log.txt").read_text()
        time.sleep(0.05)
    return state, seen


def alive(folder, arguments=ARGUMENTS, **changes):
    """A training whose process is this one."""
    folder.mkdir(exist_ok=True)
    me = psutil.Process()
    told = {"arguments": arguments, "comfyui": "", "pid": me.pid, "began": me.create_time(), "started": 5.0}
    (folder / "run.json").write_text(json.dumps({**told, **changes}))
    (folder / "log.txt").touch()
    return Training(folder)


def progress(training, **changes):
    told = {"name": "1 of 2, self-distillation", "state": "training", "step": 5, "of": 20, "seconds_per_step": 2.0}
    told |= {"figures": {"loss": 0.5}, "time": 6.0}
    (training.folder / "progress.json").write_text(json.dumps({**told, **changes}))


def test_what_cannot_begin_fails_with_its_sentence(tmp_path):
    training = Training(tmp_path / "mine")
    assert training.state().state == "new"
    training.start(ARGUMENTS, comfyui=tmp_path)
    with pytest.raises(ValueError, match="The training 'mine' is running already: stop it first"):
        training.start(ARGUMENTS, comfyui=tmp_path)
    assert [one.folder.name for one in trainings(tmp_path)] == ["mine"]
    state, seen = ended(training)
    assert (state.state, seen) == ("failed", ["preparing"])
    assert "nowhere" in state.message and not state.message.startswith("error")
    training.go_on()
    assert training.state().state == "preparing"
    ended(training)
    with pytest.raises(ValueError, match="There is no training 'other': start it"):
        Training(tmp_path / "other").go_on()


def test_one_that_was_killed_is_told_from_one_that_runs(tmp_path):
    training = Training(tmp_path / "mine")
    training.start(ARGUMENTS, comfyui=tmp_path)
    process = psutil.Process(json.loads((training.folder / "run.json").read_text())["pid"])
    assert os.getsid(process.pid) != os.getsid(0)
    process.kill()
    state, _ = ended(training, 10)
    assert (state.state, state.message) == ("died", "")
    assert alive(tmp_path / "another", began=psutil.Process().create_time() - 60).state().state == "died"


def test_steps_of_both_parts_count_together(tmp_path):
    training = alive(tmp_path)
    assert (training.state().state, training.state().of) == ("preparing", 60)
    progress(training, time=4.0)  # of an earlier start
    assert training.state().state == "preparing"
    (tmp_path / "progress.json").write_text('{"state": "preparing", "time": 6.0}')
    assert training.state().state == "preparing"
    progress(training)
    state = training.state()
    assert (state.state, state.step, state.of, state.seconds_left) == ("training", 5, 60, 110.0)
    assert state.figures == {"loss": 0.5} and state.started == 5.0
    progress(training, step=20, state="finished")
    assert training.state().state == "training"  # the second part is still to come
    progress(training, name="2 of 2, preferences", step=10, of=40)
    assert (training.state().step, training.state().seconds_left) == (30, 60.0)
    training.stop()
    assert training.state().state == "stopping" and (tmp_path / "STOP").exists()
    (tmp_path / "STOP").unlink()
    progress(training, name="2 of 2, preferences", step=25, of=40, state="finished")  # nothing rose any more
    assert (training.state().state, training.state().seconds_left) == ("measuring", 0.0)
    progress(training, name="2 of 2, preferences", step=40, of=40, state="finished", measured=0.25)
    assert training.state().measured == 0.25
    progress(training, state="stopped")  # its process has yet to end
    assert training.state().state == "stopping"


def test_how_it_ended_is_told_by_its_files(tmp_path):
    training = alive(tmp_path, pid=2**22 + 1)
    progress(training, state="stopped")
    assert training.state().state == "stopped"
    (tmp_path / "progress.json").write_text('{"state": "stopped", "time": 6.0}')  # before the first step
    assert training.state().state == "stopped"
    progress(training)
    (tmp_path / "log.txt").write_text(" 10%|#| 1/9\r 20%|#| 2/9\n")
    assert training.state().state == "died"
    (tmp_path / "log.txt").write_text("some\nTraceback (most recent call last):\n  here\nMemoryError: 3 GB\n")
    assert (training.state().state, training.state().message) == ("failed", "MemoryError: 3 GB")
    (tmp_path / "log.txt").write_text("usage: x\npython -m ppd train adapter: error: what is --this\n")
    assert training.state().message == "what is --this"
    (tmp_path / "result.json").write_text(json.dumps(vars(COSTS)))
    state = training.state()
    assert state.state == "finished" and state.costs() == {"seconds": 3600.0, "gigabytes": 2.0}
    assert "about 60 min" in state.report() and state.worth() is None
    trained = {"held_out": {"simulated": None, "real": None}, "real_people": {"people": 0}, "peak_memory": 2**31}
    (tmp_path / "result.json").write_text(json.dumps(trained))
    assert training.state().costs() is None and "too few prompts" in training.state().report()
    training.clear()
    assert training.state().state == "failed"


def test_what_is_half_done_goes_on_with_its_own_settings_alone(tmp_path):
    training = alive(tmp_path / "mine", pid=2**22 + 1)
    (training.folder / "distillation.pt").touch()
    changed = [*ARGUMENTS[:-1], "30", "--rank", "4"]
    with pytest.raises(
        ValueError, match=r"half done with other settings \(distillation-steps, rank\): give those back"
    ):
        training.start(changed, comfyui=tmp_path)
    assert training.state().state == "died"
    training.start([*ARGUMENTS, "--batch", "1"], comfyui=tmp_path)  # it had run out of memory
    assert training.state().state == "preparing"
    ended(training)


@pytest.mark.comfyui
def test_a_small_checkpoint_is_trained_to_its_report(comfyui_path, tmp_path):
    flux, clip, vae = (tmp_path / f"{name}.safetensors" for name in ("flux", "clip", "vae"))
    write_models(flux, clip, vae)
    write_studies(tmp_path / "studies", tmp_path / "encoder")
    arguments = ["--base", str(flux), "--text-encoder", str(clip), "--vae", str(vae)]
    arguments += ["--studies", f"{tmp_path}/studies"]
    arguments += ["--encoder", f"{tmp_path}/encoder", "--out", f"{tmp_path}/mine.safetensors", "--batch", "4"]
    training = Training(tmp_path / "mine")
    few = [
        "--steps",
        "2",
        "--distillation-steps",
        "2",
        "--rank",
        "2",
        "--people",
        "12",
        "--measured-people",
        "2",
        "--strength-pictures",
        "2",
    ]
    training.start([*arguments, *few], comfyui=comfyui_path)
    state, seen = ended(training)
    assert state.state == "finished", state.message
    assert seen[0] == "preparing" and (state.step, state.of) == (4, 4)
    assert UserAdapter.load(tmp_path / "mine.safetensors").config.training["report"]["encoder"]
    worth = state.worth()
    assert worth["personal"] == pytest.approx(worth["own"] - worth["anothers"]) and worth["kind"] == "simulated"
    assert {"sheet.png", "report.html", "log.csv", "result.json"} <= {path.name for path in training.folder.iterdir()}
    assert "Measured on simulated people only" in state.report()
    clip.unlink()  # a quarter of a gigabyte
