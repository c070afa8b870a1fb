"""What others can read of a run."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ppd.training import journal as module
from ppd.training.control import NotFiniteError, Stopped
from ppd.training.loop import fit
from tests.training.tiny import STEPS, tiny_loss, train


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "log.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["run", "step", "figure", "value"]
    return [(int(step), figure, float(value)) for run, step, figure, value in lines if run == "tiny"]


def test_progress_can_be_read_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    progress, seen = tmp_path / "new" / "progress.json", []

    def slow(model, rng, step):
        seen.append(read(progress))
        time.sleep(0.02)
        value, figures = tiny_loss(model, rng, step)
        return value, {"mse": 1.0 if step == 0 else 2.0, "odd": float("nan")}

    train(tmp_path / "a.pt", slow, progress=progress, validate=lambda _, step: float(step), validate_every=2)
    assert [state["step"] for state in seen] == list(range(STEPS)) and seen[0]["state"] == "training"
    third = seen[3]
    assert (third["name"], third["of"], third["pid"], third["skipped"]) == ("tiny", STEPS, os.getpid(), 0)
    assert third["figures"] == {"mse": pytest.approx(1.0 + 0.02 + 0.02 * 0.98), "held_out": 2.0}
    assert third["seconds_per_step"] > 0.02
    assert third["seconds_left"] == pytest.approx(9 * third["seconds_per_step"])
    assert abs(third["time"] - time.time()) < 60
    last = read(progress)
    assert (last["state"], last["step"], last["seconds_left"], last["message"]) == ("finished", STEPS, 0.0, "")


def test_progress_is_written_once_a_second(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module, "write_file", lambda path, data: written.append(json.loads(data)))
    train(tmp_path / "a.pt", progress=tmp_path / "progress.json")
    assert [state["state"] for state in written] == ["training", "finished"]


def test_progress_says_how_a_run_ended(tmp_path):
    def stopping(model, rng, step):
        (tmp_path / "STOP").touch()
        return tiny_loss(model, rng, step)

    def broken(model, rng, step):
        value, figures = tiny_loss(model, rng, step)
        return value * float("nan"), figures

    progress = tmp_path / "progress.json"
    for loss, error, state in ((stopping, Stopped, "stopped"), (broken, NotFiniteError, "failed")):
        with pytest.raises(error) as raised:
            train(tmp_path / "a.pt", loss, progress=progress)
        assert read(progress)["state"] == state and read(progress)["message"] == str(raised.value)
    assert read(progress)["step"] == 4 and read(progress)["skipped"] == 3


def test_a_progress_file_that_someone_holds_ends_no_training(tmp_path, monkeypatch, caplog):
    def held(path, data):
        raise PermissionError("in use")

    monkeypatch.setattr(module, "write_file", held)
    assert not train(tmp_path / "a.pt", progress=tmp_path / "progress.json").training
    assert "progress.json could not be written: another program holds it open." in caplog.text


def test_the_log_has_each_step_once_also_after_a_kill(tmp_path):
    def interrupted(model, rng, step):
        if step == 7:
            raise KeyboardInterrupt
        return tiny_loss(model, rng, step)

    settings: dict[str, Any] = {"validate": lambda _, step: float(step), "validate_every": 4}
    train(tmp_path / "whole.pt", logs=tmp_path / "whole", **settings)
    whole = rows(tmp_path / "whole")
    assert [row[0] for row in whole if row[1] == "mse"] == list(range(1, STEPS + 1))
    assert [row[::2] for row in whole if row[1] == "held_out"] == [(4, 4.0), (8, 8.0), (12, 12.0)]
    assert {row[1] for row in whole} == {"mse", "gradient_norm", "held_out"}

    # Steps 1 to 7 are logged, and step 3 was saved: what is beyond is made again, the torn last line too.
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts.pt", interrupted, logs=tmp_path / "parts", **settings)
    with (tmp_path / "parts" / "log.csv").open("a") as file:
        file.write("tiny,8,mse,0.123456\ntiny,9,ms")
    train(tmp_path / "parts.pt", logs=tmp_path / "parts", **settings)
    assert rows(tmp_path / "parts") == whole


def test_stages_share_a_log(tmp_path):
    model = nn.Linear(4, 2)
    options = {"steps": 2, "learning_rate": 0.1, "logs": tmp_path}
    train(tmp_path / "a.pt", logs=tmp_path)
    fit("2, then", model, tiny_loss, checkpoint=tmp_path / "b.pt", **options)
    assert [row[0] for row in rows(tmp_path) if row[1] == "mse"] == list(range(1, STEPS + 1))
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line[:13] for line in lines if "mse" in line][STEPS:] == ['"2, then",1,m', '"2, then",2,m']


def test_tensorboard_reads_the_figures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "a.pt", logs=tmp_path / "logs", validate=lambda _, step: float(step), validate_every=4)
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "tiny")).Reload()
    assert [event.step for event in events.Scalars("mse")] == list(range(1, STEPS + 1))
    assert [(event.step, event.value) for event in events.Scalars("held_out")] == [(4, 4.0), (8, 8.0), (12, 12.0)]


def test_nothing_is_written_where_nothing_was_asked_for(tmp_path):
    train(tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
