"""The training loop on one device: what a step does, early stop, and runs that are interrupted, killed, continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ppd.training.loop import fit
from tests.training import tiny
from tests.training.tiny import STEPS, tiny_loss, tiny_model, train

ROOT = Path(__file__).resolve().parents[2]


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def assert_same_checkpoint(a: Path, b: Path) -> None:
    ours, theirs = (torch.load(path, weights_only=True) for path in (a, b))
    assert ours["step"] == theirs["step"] == STEPS
    for part in ("model", "averaged"):
        assert all(torch.equal(ours[part][name], theirs[part][name]) for name in ours[part])
    for mine, other in zip(ours["optimizers"], theirs["optimizers"], strict=True):
        for index, state in mine["state"].items():
            assert all(torch.equal(value, other["state"][index][name]) for name, value in state.items())
    rest = ("skipped", "best", "best_weights")
    assert [ours[key] for key in rest] == [theirs[key] for key in rest]


def test_adam_schedule_and_average_on_literal_numbers(tmp_path):
    """With a constant gradient each AdamW step is the learning rate: .1, .1, .051; averages warm up."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    seen: list[float] = []
    trained = fit(
        "line",
        model,
        lambda module, rng, step: (-module.weight.sum(), {}),
        steps=3,
        learning_rate=0.1,
        warmup=1,
        ema=0.5,
        checkpoint=tmp_path / "line.pt",
        on_step=lambda averaged, step: seen.append(averaged.weight.item()),
    )
    assert torch.load(tmp_path / "line.pt", weights_only=True)["model"]["weight"].item() == pytest.approx(0.251)
    assert seen == pytest.approx([0.1, 0.181818, 0.233705], rel=1e-5)  # decays 2/11 and 3/12
    assert trained.weight.item() == pytest.approx(0.233705, rel=1e-5)
    assert not trained.training


def test_frozen_parameters_stay(tmp_path):
    model = tiny_model()
    model.get_submodule("0").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = fit("tiny", model, tiny_loss, steps=3, learning_rate=0.1, checkpoint=tmp_path / "a.pt").state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["2.weight"], after["2.weight"])


@pytest.mark.parametrize("muon", [False, True])
def test_an_interrupted_run_ends_like_an_uninterrupted_one_to_the_last_bit(tmp_path, muon):
    def interrupted(module, rng, step):
        if step == 7:
            raise KeyboardInterrupt
        return tiny_loss(module, rng, step)

    whole = train(tmp_path / "whole.pt", muon=muon)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts.pt", interrupted, muon=muon)
    assert torch.load(tmp_path / "parts.pt", weights_only=True)["step"] == 7
    assert_same_weights(train(tmp_path / "parts.pt", muon=muon), whole)
    assert_same_checkpoint(tmp_path / "parts.pt", tmp_path / "whole.pt")


def test_a_run_interrupted_before_its_first_checkpoint_starts_again(tmp_path):
    def interrupted(module, rng, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a.pt", interrupted)
    assert not (tmp_path / "a.pt").exists()
    assert_same_weights(train(tmp_path / "a.pt"), train(tmp_path / "b.pt"))


def test_a_finished_run_returns_its_weights_without_a_step(tmp_path):
    def forbidden(module, rng, step):
        raise AssertionError("a finished run takes no step")

    whole = train(tmp_path / "a.pt")
    written = (tmp_path / "a.pt").stat().st_mtime_ns
    assert_same_weights(train(tmp_path / "a.pt", forbidden), whole)
    assert (tmp_path / "a.pt").stat().st_mtime_ns == written


def test_a_half_written_checkpoint_is_never_read(tmp_path):
    whole = train(tmp_path / "whole.pt")
    (tmp_path / "parts.partial").write_bytes(b"cut off by a kill")
    assert_same_weights(train(tmp_path / "parts.pt"), whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_is_continued_to_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, tiny.__file__, "alone", str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before its first checkpoint"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 0 < torch.load(tmp_path / "killed.pt", weights_only=True)["step"] < STEPS
    assert_same_weights(train(tmp_path / "killed.pt"), whole)
    assert_same_checkpoint(tmp_path / "killed.pt", tmp_path / "whole.pt")


def test_microbatches_are_averaged_and_drawn_from_streams_of_their_own(tmp_path):
    """The first one draws what a run without accumulation draws."""
    drawn: list[float] = []

    def loss(module, rng, step):
        drawn.append(rng.random())
        return (module.weight * (1.0 if len(drawn) % 2 else 3.0)).sum(), {"index": float(len(drawn))}

    def run(name, **settings):
        drawn.clear()
        model = nn.Linear(1, 1, bias=False)
        fit("line", model, loss, steps=2, learning_rate=0.1, checkpoint=tmp_path / name, **settings)
        return list(drawn), torch.load(tmp_path / name, weights_only=True)["optimizers"][0]["state"][0]["exp_avg"]

    two, mean = run("two.pt", accumulate=2, seed=9)
    one, _ = run("one.pt", seed=9)
    assert len(set(two)) == 4 and two[::2] == one
    for step, first in enumerate(one):
        rng = np.random.default_rng([9, step])
        rng.integers(2**31)
        assert first == rng.random()
    # mean gradient 2, clipped to 1; AdamW's running mean of two of them at .9
    assert mean.item() == pytest.approx(0.19, rel=1e-5)


def test_precision_is_what_was_asked_for(tmp_path):
    seen = []

    def loss(module, rng, step):
        seen.append(nn.functional.linear(torch.ones(1, 4), module[0].weight).dtype)
        return tiny_loss(module, rng, step)

    train(tmp_path / "a.pt", loss, steps=1, precision="no")
    train(tmp_path / "b.pt", loss, steps=1, precision="bf16")
    assert seen == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match='Expected "bf16" or "no" .*\'fp16\''):
        train(tmp_path / "c.pt", precision="fp16")


def rises_until_6(averaged: nn.Module, step: int) -> float:
    return -abs(step - 6.0)


def test_a_run_ends_when_the_held_out_figure_stops_rising_and_returns_its_best_weights(tmp_path):
    kept = {}

    def validate(averaged, step):
        kept[step] = {name: value.clone() for name, value in averaged.state_dict().items()}
        return rises_until_6(averaged, step)

    settings: dict[str, Any] = {"validate": validate, "validate_every": 2, "patience": 4}
    trained = train(tmp_path / "a.pt", **settings)
    assert list(kept) == [2, 4, 6, 8, 10]
    assert all(torch.equal(value, kept[6][name]) for name, value in trained.state_dict().items())
    assert not torch.equal(kept[6]["0.weight"], kept[10]["0.weight"])
    assert_same_weights(train(tmp_path / "a.pt", **settings), trained)
    assert list(kept) == [2, 4, 6, 8, 10]  # nothing was trained or judged again

    whole = train(tmp_path / "a.pt", **settings | {"patience": None})  # goes on to the end, where it judges once more
    assert list(kept)[-1] == STEPS
    assert_same_weights(whole, trained)


def test_a_held_out_figure_that_is_no_number_keeps_nothing(tmp_path):
    settings: dict[str, Any] = {"validate": lambda averaged, step: float("nan"), "validate_every": 2, "patience": 2}
    assert_same_weights(train(tmp_path / "a.pt", **settings), train(tmp_path / "b.pt"))


def test_an_early_stop_is_the_same_after_a_resume(tmp_path):
    """Also when the best weights were made before the interruption."""
    settings: dict[str, Any] = {"validate": rises_until_6, "validate_every": 2, "patience": 4}
    whole = train(tmp_path / "whole.pt", **settings)

    def interrupted(module, rng, step):
        if step == 7:
            raise KeyboardInterrupt
        return tiny_loss(module, rng, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts.pt", interrupted, **settings)
    assert_same_weights(train(tmp_path / "parts.pt", **settings), whole)
    ours, theirs = (torch.load(tmp_path / name, weights_only=True) for name in ("parts.pt", "whole.pt"))
    assert ours["step"] == theirs["step"] == 10 and ours["best"] == theirs["best"] == [0.0, 6]


def test_a_checkpoint_of_the_first_form_is_continued(tmp_path):
    """It has schedules, which are a function of the step, and no counters."""

    def interrupted(module, rng, step):
        if step == 7:
            raise KeyboardInterrupt
        return tiny_loss(module, rng, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "old.pt", interrupted)
    state = torch.load(tmp_path / "old.pt", weights_only=True)
    first = {key: state[key] for key in ("step", "model", "averaged", "optimizers")} | {
        "schedules": [{"last_epoch": 7}]
    }
    torch.save(first, tmp_path / "old.pt")
    assert_same_weights(train(tmp_path / "old.pt"), train(tmp_path / "new.pt"))


@pytest.mark.parametrize("damage", [b"", b"cut off", "another model"])
def test_a_checkpoint_of_no_use_is_named_and_left_alone(tmp_path, damage):
    path = tmp_path / "a.pt"
    if damage == "another model":
        fit("other", nn.Linear(1, 1), lambda m, *_: (m.weight.sum(), {}), steps=1, learning_rate=0.1, checkpoint=path)
    else:
        path.write_bytes(damage)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a.pt is no checkpoint that this training can go on from .* delete it"):
        train(path)
    assert path.read_bytes() == before


def test_a_microbatch_that_nothing_can_be_learned_from_is_no_error(tmp_path):
    """As that of null users alone, who get the frozen base itself."""

    def loss(module, rng, step):
        value = tiny_loss(module, rng, step)[0]
        return (value if step else value.detach()), {}

    trained = train(tmp_path / "a.pt", loss, steps=2)
    assert_differing(trained, tiny_model())


def assert_differing(a: nn.Module, b: nn.Module) -> None:
    assert any(not torch.equal(ours, theirs) for ours, theirs in zip(a.parameters(), b.parameters(), strict=True))
