"""Steps whose numbers break, and runs that are asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from ppd.training.control import NotFiniteError, Stopped, stop_if_asked
from tests.training.tiny import STEPS, tiny_loss, train


def breaking(steps, how="loss"):
    """tiny_loss, whose loss or whose gradient alone is not finite in the given steps."""

    def loss(module, rng, step):
        value, figures = tiny_loss(module, rng, step)
        if step in steps and how == "loss":
            value = value / 0.0
        elif step in steps:
            value = value + (module[0].weight * 0).abs().sqrt().sum()  # 0, whose slope is infinite
        return value, {**figures, "where": f"pairs of {step}"}

    return loss


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_moves_nothing(tmp_path, caplog, how):
    seen = []

    def on_step(averaged, step):
        state = checkpoint(tmp_path / "a.pt") if step > 1 else None  # of the step before
        seen.append((averaged.state_dict()["0.weight"].clone(), state))

    train(tmp_path / "a.pt", breaking({4}, how), on_step=on_step)
    averages = [weight for weight, _ in seen]
    assert torch.equal(averages[4], averages[3]) and not torch.equal(averages[5], averages[4])
    before, after = seen[4][1], seen[5][1]
    assert (before["step"], after["step"]) == (4, 5)
    assert before["skipped"] == [0, 0] and after["skipped"] == [1, 1]
    for part in ("model", "averaged"):
        assert all(torch.equal(value, after[part][name]) for name, value in before[part].items())
    for index, moments in before["optimizers"][0]["state"].items():
        assert all(torch.equal(value, after["optimizers"][0]["state"][index][name]) for name, value in moments.items())
    assert checkpoint(tmp_path / "a.pt")["skipped"] == [1, 0]
    what = "its loss is inf" if how == "loss" else "its gradient's norm is nan"
    assert f"tiny: step 5 of 12 is skipped, {what} (pairs of 4)." in caplog.text


def test_three_in_a_row_end_the_run_with_one_sentence(tmp_path):
    with pytest.raises(NotFiniteError) as stopped:
        train(tmp_path / "a.pt", breaking({2, 4, 5, 7, 8, 9}))
    assert str(stopped.value).startswith("tiny: stopped at step 10 of 12, 3 steps in a row were not finite numbers")
    assert "(the last: its loss is inf (pairs of 9))" in str(stopped.value) and "a.pt" in str(stopped.value)
    state = checkpoint(tmp_path / "a.pt")
    assert state["step"] == 10 and state["skipped"] == [6, 3]
    assert all(value.isfinite().all() for value in state["model"].values())


def test_the_count_goes_on_after_a_resume(tmp_path):
    def interrupted(module, rng, step):
        if step == 6:
            raise KeyboardInterrupt
        return breaking({4, 5})(module, rng, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a.pt", interrupted)
    with pytest.raises(NotFiniteError, match="stopped at step 7 of 12"):
        train(tmp_path / "a.pt", breaking({6}))


def asking(ask, at=5):
    def loss(module, rng, step):
        if step == at:
            ask()
        return tiny_loss(module, rng, step)

    return loss


@pytest.mark.parametrize("by", ["the file STOP", "Ctrl-C", "SIGTERM"])
def test_a_run_that_is_asked_to_stop_finishes_its_step_saves_and_goes_on_later(tmp_path, by):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ask = {
        "the file STOP": lambda: (tmp_path / "STOP").touch(),
        "Ctrl-C": lambda: signal.raise_signal(signal.SIGINT),
        "SIGTERM": lambda: signal.raise_signal(signal.SIGTERM),
    }[by]
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "a.pt", asking(ask), save_every=1e9)
    assert str(stopped.value) == (
        f"tiny: stopped by {by} after step 6 of 12, all is saved in {tmp_path / 'a.pt'}. Start it again in the same "
        "way, and it goes on from there."
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert checkpoint(tmp_path / "a.pt")["step"] == 6
    assert not (tmp_path / "STOP").exists()
    trained, whole = train(tmp_path / "a.pt"), train(tmp_path / "whole.pt")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_file_from_before_this_process_asks_nothing_and_one_made_while_it_prepared_does(tmp_path):
    (tmp_path / "STOP").touch()
    with pytest.raises(Stopped, match="after step 1 of 12"):
        train(tmp_path / "a.pt")
    (tmp_path / "STOP").touch()
    os.utime(tmp_path / "STOP", (1e9, 1e9))
    assert not train(tmp_path / "a.pt").training
    assert not (tmp_path / "STOP").exists()


def test_asked_in_its_last_step_a_run_stops_before_what_comes_next(tmp_path):
    with pytest.raises(Stopped, match="after step 12 of 12"):
        train(tmp_path / "a.pt", asking(lambda: signal.raise_signal(signal.SIGTERM), at=STEPS - 1))
    trained, whole = train(tmp_path / "a.pt"), train(tmp_path / "whole.pt")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in whole.state_dict().items())


def test_between_steps_only_a_file_of_now_stops(tmp_path):
    stop_if_asked(tmp_path, "measuring")
    (tmp_path / "STOP").touch()
    with pytest.raises(Stopped, match="Stopped by the file STOP while measuring; what was done is saved in"):
        stop_if_asked(tmp_path, "measuring")
    assert (tmp_path / "STOP").exists()
    os.utime(tmp_path / "STOP", (1e9, 1e9))
    stop_if_asked(tmp_path, "measuring")


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a process in the background ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "a.pt", asking(twice), save_every=1e9)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not (tmp_path / "a.pt").exists()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_a_thread_signals_are_left_alone_and_the_file_stops(tmp_path):
    before, caught = signal.getsignal(signal.SIGINT), []

    def loss(module, rng, step):
        assert signal.getsignal(signal.SIGINT) is before
        return asking((tmp_path / "STOP").touch)(module, rng, step)

    def run():
        try:
            train(tmp_path / "a.pt", loss)
        except Stopped as stopped:
            caught.append(str(stopped))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert len(caught) == 1 and "the file STOP" in caught[0]
