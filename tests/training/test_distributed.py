"""Two processes on gloo, against one that accumulates two microbatches; killed, stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ppd.training.distributed import average_gradients, gathered, processes, shared
from tests.training import tiny
from tests.training.strengths import Judged
from tests.training.study_sets import latent_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(Path(tiny.__file__).resolve())
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def pair(*arguments: str) -> list[subprocess.Popen[bytes]]:
    """Two processes without a launcher, so that each can be killed by its id."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [ENVIRONMENT | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [subprocess.Popen([sys.executable, SCRIPT, *arguments], env=rank) for rank in ranks]


def finish(both: list[subprocess.Popen[bytes]]) -> None:
    try:
        assert [process.wait(120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


def assert_close(a: Path, b: Path, part: str | None = None) -> None:
    ours, theirs = (torch.load(path, weights_only=True) for path in (a, b))
    torch.testing.assert_close(ours[part] if part else ours, theirs[part] if part else theirs, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def together(tmp_path_factory, pocket_base_file) -> Path:
    """A folder with what two processes made that `accelerate launch` started."""
    folder = tmp_path_factory.mktemp("together")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]
    command = [*launch, free_port(), SCRIPT, "together", str(folder), str(pocket_base_file)]
    environment = ENVIRONMENT | {
        "CUDA_VISIBLE_DEVICES": ""
    }  # the launcher's --cpu starts one process, whatever it is told
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    (folder / "stderr").write_text(result.stderr)
    return folder


def test_two_processes_train_as_one_that_accumulates_two_microbatches(together, tmp_path):
    tiny.train(tmp_path / "tiny.pt", accumulate=2, precision="no")
    for part in ("model", "averaged"):
        assert_close(together / "tiny.pt", tmp_path / "tiny.pt", part)
    alone = torch.load(tmp_path / "tiny.pt", weights_only=True)["model"]
    tiny.train(tmp_path / "half.pt", precision="no")
    half = torch.load(tmp_path / "half.pt", weights_only=True)["model"]
    assert max((alone[name] - half[name]).abs().max().item() for name in alone) > 1e-2  # the second one's data counts


def test_a_user_adapter_that_its_loss_reaches_from_inside_the_denoiser(together, tmp_path, pocket_base_file):
    trained = tiny.train_user_adapter(pocket_base_file, tmp_path / "adapter.pt", accumulate=2, precision="no")
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    for rank in (0, 1):
        assert_close(together / f"adapter{rank}.pt", tmp_path / "weights.pt")
    assert any(value.any() for name, value in trained.state_dict().items() if "to_v" in name)  # zero at the start


def test_a_broken_microbatch_of_one_is_skipped_by_both_and_the_best_weights_are_the_same(together, tmp_path):
    settings: dict[str, Any] = {"validate": lambda _, step: -abs(step - 6.0) - 0.5, "validate_every": 2, "patience": 4}
    best = tiny.train(tmp_path / "broken.pt", tiny.sometimes_broken, accumulate=2, precision="no", **settings)
    torch.save(best.state_dict(), tmp_path / "best.pt")
    ours, theirs = (torch.load(folder / "broken.pt", weights_only=True) for folder in (together, tmp_path))
    assert ours["step"] == theirs["step"] == 10 and ours["best"] == theirs["best"] == [-0.5, 6]
    assert ours["skipped"] == theirs["skipped"] and ours["skipped"][0] > 1
    for rank in (0, 1):
        assert_close(together / f"best{rank}.pt", tmp_path / "best.pt")


def test_each_process_encodes_its_share_of_the_pictures_and_reads_all(together):
    expected = torch.cat([latent_of(picture) for picture in tiny.PICTURES]).half()
    for rank in (0, 1):
        assert torch.equal(torch.load(together / f"latents{rank}.pt", weights_only=True), expected)
    shares = [len((together / "latents" / f"4x8x8-{rank}.txt").read_text().split()) for rank in (0, 1)]
    assert sum(shares) == 20 and min(shares) > 3


def test_each_process_reads_its_share_of_the_prompts_and_knows_all(together):
    assert same_texts(together / "texts0.pt") and same_texts(together / "texts1.pt")
    held = [torch.load(path, weights_only=True) for path in sorted((together / "texts").glob("*/*.pt"))]
    assert len(held) == 2 and sum(map(len, held)) == 20 and min(map(len, held)) > 3


def test_processes_share_the_pictures_that_strengths_are_judged_by(together, tmp_path):
    alone = json.loads(json.dumps(Judged(tmp_path / "studies").picked(tmp_path)))
    for rank in (0, 1):
        picked, painted, without_room = json.loads((together / f"strengths{rank}.json").read_text())
        assert picked.keys() == alone.keys() and without_room is None
        assert list(picked.values()) == [pytest.approx(both, rel=1e-4) for both in alone.values()]
        assert len(painted) == 2 * (1 + len(picked)) and {seed % 2 for _, seed, *_ in painted} == {rank}


def same_texts(file: Path) -> bool:
    ours, theirs = torch.load(file, weights_only=True), tiny.said(tiny.PROMPTS)
    return all(torch.equal(one["text"], other["text"]) for one, other in zip(ours, theirs, strict=True))


def test_two_machines_need_share_no_folder(tmp_path):
    """Each has all pictures and prompts, by files that are called by its own rank, and cuts what a kill left there;
    with one folder for both the work is done twice."""
    machines = [tmp_path / "a", tmp_path / "b"]
    expected = torch.cat([latent_of(picture) for picture in tiny.PICTURES]).half()
    left = machines[1] / "latents" / "4x8x8-1.f16"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"\0" * 700)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--master_addr", "127.0.0.1", "--master_port", free_port(), "--node_rank"]
    finish(
        [
            subprocess.Popen([*command, str(rank), SCRIPT, "machine", str(place)], env=ENVIRONMENT)
            for rank, place in enumerate(machines)
        ]
    )
    for rank, place in enumerate(machines):
        assert [path.name for path in (place / "latents").glob("*.f16")] == [f"4x8x8-{rank}.f16"]
        assert len((place / "latents" / f"4x8x8-{rank}.txt").read_text().split()) == 20
        assert left.stat().st_size == 20 * 2 * 4 * 8 * 8
        assert [path.name for path in (place / "texts").glob("*/*.pt")] == [f"{rank}-0.pt"]
        together = tmp_path / "shared"
        assert len((together / "latents" / f"4x8x8-{rank}.txt").read_text().split()) == 20
        for latents in (place / "latents.pt", together / f"latents{place.name}.pt"):
            assert torch.equal(torch.load(latents, weights_only=True), expected)
        assert same_texts(place / "texts.pt") and same_texts(together / f"texts{place.name}.pt")


def test_process_0_alone_writes(together):
    calls = [json.loads((together / f"calls{rank}.json").read_text()) for rank in (0, 1)]
    assert [call["on_step"] for call in calls] == [list(range(1, 11)), []]
    assert [call["validate"] for call in calls] == [[2, 4, 6, 8, 10]] * 2
    rows = (together / "logs" / "log.csv").read_text().splitlines()
    assert sum(row.startswith("tiny,3,mse,") for row in rows) == 1
    assert json.loads((together / "progress.json").read_text())["state"] == "finished"
    stderr = (together / "stderr").read_text()
    assert stderr.count("skipped, its loss is nan (broken True)") == torch.load(together / "broken.pt")["skipped"][0]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_stopped_pairs_are_continued_to_the_same_weights(together, tmp_path):
    both = pair("slow", str(tmp_path))
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed.pt").exists():
            assert not any(process.poll() for process in both) and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert 0 < torch.load(tmp_path / "killed.pt", weights_only=True)["step"] <= 5

    finish(pair("rest", str(tmp_path)))
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["False", "False"]
    words = [(tmp_path / f"stopped{rank}").read_text() for rank in (0, 1)]
    assert words[0] == words[1] and "stopped by SIGTERM after step 7 of 12" in words[0]
    ours, theirs = (torch.load(path, weights_only=True) for path in (tmp_path / "killed.pt", together / "tiny.pt"))
    for part in ("model", "averaged"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())


def test_a_process_that_is_alone_has_nothing_to_say():
    line = torch.nn.Linear(2, 1)
    line.weight.grad = torch.tensor([[1.0, 2.0]])
    average_gradients(list(line.parameters()))
    assert line.weight.grad.tolist() == [[1.0, 2.0]] and line.bias.grad is None
    assert processes().num_processes == 1 and shared({"a": 1}) == {"a": 1} and gathered([1, 2]) == [1, 2]
