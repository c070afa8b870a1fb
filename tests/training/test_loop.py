"""The training loop: schedule, averaging, and runs that are interrupted, killed and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppd.training.loop import cosine_with_warmup, fit, warm_average

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12


def tiny_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))


def tiny_loss(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
    """Draws from both generators, as the stages' losses do."""
    x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32)) + 0.1 * torch.randn(16, 4)
    value = (module(x).float() - x[:, :2].sin()).square().mean()
    return value, {"mse": value.item()}


def train(checkpoint: Path, loss=tiny_loss, steps: int = STEPS, **settings) -> nn.Module:
    settings = {"save_every": 0.0, "learning_rate": 0.05, "warmup": 4, "seed": 9, "ema": 0.9, **settings}
    return fit("tiny", tiny_model(), loss, steps=steps, checkpoint=checkpoint, **settings)


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
    assert ours["schedules"] == theirs["schedules"]


def test_learning_rate_schedule_on_literal_numbers():
    factors = [cosine_with_warmup(step, steps=100, warmup=10) for step in (0, 4, 9, 10, 55, 100, 1000)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.51, 0.02, 0.02])
    assert cosine_with_warmup(0, steps=10, warmup=0) == 1.0


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


def test_the_average_forgets_the_random_start():
    """At a plain decay of .999, 37 % of the start would be left after 1,000 updates."""
    averaged = [torch.ones(1)]
    update = warm_average(0.999)
    for count in range(1, 1000):
        update(averaged, [torch.zeros(1)], torch.tensor(count))
    assert averaged[0].item() < 1e-9


def test_frozen_parameters_stay(tmp_path):
    model = tiny_model()
    model[0].requires_grad_(False)
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
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "killed.pt")], env=environment)
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


def slow_loss(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
    if step > 3:
        time.sleep(0.5)  # time to be killed in
    return tiny_loss(module, rng, step)


if __name__ == "__main__":
    train(Path(sys.argv[1]), slow_loss)
