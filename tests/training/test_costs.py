"""What a training will cost, and what it has cost so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppd.training import command, costs
from ppd.training.costs import Costs, Spent, bytes_below
from ppd.training.settings import Settings

CPU = torch.device("cpu")


def test_costs_tell_real_people_apart():
    real = {"real_pictures": 12, "real_picks": 7}
    told = Costs(9, 90, 2, 1.0, 1800.0, 5400.0, 3 * 2**30, **real, disk=2**29, batch=4, measuring_seconds=600.0)
    assert told.seconds == 7800.0 and told.report().splitlines() == [
        "9 pictures and 90 picks of simulated people, and 12 pictures and 7 picks of 2 real people are usable.",
        "Training: about 2.2 h (30 min of self-distillation, 1.5 h of preferences, 10 min of figures and pictures).",
        "Peak memory: 3.0 GB with a batch of 4. Disk: 512 MB.",
    ]


def test_hours_of_all_starts_add_up_and_a_kill_loses_a_minute(tmp_path, monkeypatch):
    clock = iter([0.0, 30.0, 61.0, 61.0, 61.0, 100.0, 3700.0, 3700.0])
    monkeypatch.setattr(costs.time, "monotonic", lambda: next(clock))
    killed = Spent(tmp_path, CPU)
    killed.keep()
    assert not (tmp_path / "spent.json").exists()
    killed.keep()
    kept = json.loads((tmp_path / "spent.json").read_text())
    assert kept["hours"] == pytest.approx(61 / 3600, abs=1e-4) and kept["peak_memory"] > 2**20
    (tmp_path / "spent.json").write_text(json.dumps({**kept, "peak_memory": 2**50}))
    with Spent(tmp_path, CPU) as again:
        assert again.told() == {"hours": pytest.approx(1 + 61 / 3600, abs=2e-4), "peak_memory": 2**50}
    assert json.loads((tmp_path / "spent.json").read_text())["peak_memory"] == 2**50


def test_all_files_of_a_folder_count(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"123")
    assert bytes_below(tmp_path) == 8 and bytes_below(tmp_path / "none") == 0


@dataclass(frozen=True)
class OnTheGPU:
    """A run on a GPU, which the machine of the tests has not: a pair takes a GB, and eight do not fit."""

    folder: Path
    settings: Settings
    rehearsals: list[int]
    pairs: str = "none"

    @property
    def base(self):
        return SimpleNamespace(denoiser=SimpleNamespace(device=torch.device("cuda")), signature={"weights": "1"})

    def inputs(self):
        return {"base": self.base.signature, "pairs": self.pairs}

    def rehearse(self):
        batch = self.settings.batch
        self.rehearsals.append(batch)
        if batch >= 8:
            raise torch.OutOfMemoryError
        return SimpleNamespace(peak_memory=batch * 2**30)


def test_the_batch_is_halved_until_it_fits_once(tmp_path, capsys):
    run: Any = OnTheGPU(tmp_path / "run", Settings(batch=9, accumulate=2), [])
    for _ in range(2):
        fits = command.fitted(run, 2.5).settings
        assert (fits.batch, fits.accumulate) == (2, 9) and run.rehearsals == [9, 4, 2]
    said = capsys.readouterr().err
    assert (
        said == "A batch of 9 takes more than there is: going on with 4.\nA batch of 4 takes 4.0 GB: going on with 2.\n"
    )
    with pytest.raises(ValueError, match=r"One pair at a time takes 1.0 GB, and 0.5 GB are allowed"):
        command.fitted(run, 0.5)
    run.rehearsals.clear()
    assert command.fitted(replace(run, pairs="some"), 2.5).settings.batch == 2
    assert run.rehearsals == [9, 4, 2]  # with other pairs it may take more
