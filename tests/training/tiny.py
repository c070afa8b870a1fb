"""Runs of a second for the tests of the training loop; as a script, one in a process of its own, or one of several."""

from __future__ import annotations

import atexit
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppd.training.control import Stopped
from ppd.training.distributed import processes
from ppd.training.latent_files import encoded
from ppd.training.loop import fit
from ppd.training.text_files import TextFiles
from tests.training.strengths import Judged, no_room
from tests.training.study_sets import latent_of, scene

STEPS = 12
PICTURES = [scene(number) for number in range(20)]
PROMPTS = [f"prompt {number}" for number in range(20)]


def tiny_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))


def tiny_loss(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
    """Draws from both generators, as the stages' losses do."""
    x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32)) + 0.1 * torch.randn(16, 4)
    value = (module(x).float() - x[:, :2].sin()).square().mean()
    return value, {"mse": value.item()}


def sometimes_broken(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float | str]]:
    """Not a number for about every tenth microbatch, as its draws have it."""
    broken = rng.random() < 0.1
    value, figures = tiny_loss(module, rng, step)
    return value * (float("nan") if broken else 1.0), {**figures, "where": f"broken {broken}"}


def slow_loss(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
    if step > 3:
        time.sleep(0.5)  # time to be killed in
    return tiny_loss(module, rng, step)


def train(checkpoint: Path, loss=tiny_loss, steps: int = STEPS, **settings) -> nn.Module:
    settings = {"save_every": 0.0, "learning_rate": 0.05, "warmup": 4, "seed": 9, "ema": 0.9, **settings}
    return fit("tiny", tiny_model(), loss, steps=steps, checkpoint=checkpoint, **settings)


def train_user_adapter(base: Path, checkpoint: Path, **settings) -> nn.Module:
    """User-DPO of keys and values of a pocket U-Net, four picks a microbatch, each with the beta that suits it."""
    from ppd.pocket.adapters import keys_values
    from ppd.pocket.model import PocketModel
    from ppd.training.objective import UserDPO
    from ppd.training.picks import QueryPicks
    from ppd.training.settings import Objective

    model = PocketModel.load(base)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    chosen = rng.integers(12, size=30)
    picks = QueryPicks(
        torch.randn(12, 4, 16, 16, generator=generator),
        person=np.arange(30) % 3,
        chosen=chosen,
        rejected=(chosen + rng.integers(1, 12, size=30)) % 12,
        caption=np.zeros(30, np.int64),
        embeddings=torch.randn(2, 3, 6, generator=generator),
        population=torch.zeros(6),
        prompts=("",),
    )
    torch.manual_seed(1)
    adapter = keys_values(model, encoder="encoder", encoder_hash="hash", embedding_dim=6, end_percent=0.5)
    dpo = UserDPO(model, model.host(adapter), picks, model.text(picks.prompts), Objective(steered_beta=True), 0.5)
    with model.plain_attention():
        return fit(
            "adapter",
            adapter,
            lambda module, rng, step: dpo.loss(rng, 4),
            steps=4,
            learning_rate=1e-3,
            checkpoint=checkpoint,
            warmup=2,
            **settings,
        )


def together(folder: Path, base: Path) -> None:
    """What several processes are compared with one for; each tells what it was called for."""
    rank = processes().process_index
    logs: dict[str, Any] = {"progress": folder / "progress.json", "logs": folder / "logs"}
    seen: list[int] = []
    judged: list[int] = []

    def validate(averaged: nn.Module, step: int) -> float:
        judged.append(step)
        return -abs(step - 6.0) - rank  # the mean over two is best at 6

    train(folder / "tiny.pt", precision="no")
    settings: dict[str, Any] = {"precision": "no", "validate": validate, "validate_every": 2, "patience": 4}
    best = train(folder / "broken.pt", sometimes_broken, on_step=lambda _, s: seen.append(s), **settings, **logs)
    torch.save(best.state_dict(), folder / f"best{rank}.pt")
    adapter = train_user_adapter(base, folder / "adapter.pt", precision="no")
    torch.save(adapter.state_dict(), folder / f"adapter{rank}.pt")
    read(folder, str(rank))
    painter = Judged(folder / f"studies{rank}")
    strengths = [painter.picked(folder), painter.painted.copy()]
    strengths.append(painter.picked(folder, whole=0.5, paint=no_room if rank else None))
    (folder / f"strengths{rank}.json").write_text(json.dumps(strengths))
    (folder / f"calls{rank}.json").write_text(json.dumps({"on_step": seen, "validate": judged}))


def read(folder: Path, name: str) -> None:
    """Pictures as latents, and prompts as what they say."""
    latents, rows = encoded(PICTURES, lambda some: torch.cat([latent_of(one) for one in some]), folder / "latents")
    torch.save(latents[torch.from_numpy(rows)], folder / f"latents{name}.pt")
    torch.save(TextFiles(folder / "texts", folder)(PROMPTS, said), folder / f"texts{name}.pt")


def said(prompts: Sequence[str]) -> list[Any]:
    """As long a row as the prompt's number."""
    return [{"text": torch.full((1, len(prompt), 2), float(prompt[-1] == "3"))} for prompt in prompts]


def rest(folder: Path) -> None:
    """The rest of a killed run, in two parts: process 1 alone is told to stop, in step 7."""
    tell_at_exit(folder)

    def loss(module: nn.Module, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 6 and processes().process_index == 1:
            signal.raise_signal(signal.SIGTERM)
        return tiny_loss(module, rng, step)

    try:
        train(folder / "killed.pt", loss, precision="no")
    except Stopped as stopped:
        (folder / f"stopped{processes().process_index}").write_text(str(stopped))
    train(folder / "killed.pt", precision="no")


def tell_at_exit(folder: Path) -> None:
    """Whether this process still belongs to the others after all that was registered later."""
    atexit.register(lambda: (folder / f"left{rank}").write_text(str(torch.distributed.is_initialized())))
    rank = processes().process_index


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    if mode == "together":
        together(place, Path(sys.argv[3]))
    elif mode == "rest":
        rest(place)
    elif mode == "machine":  # one of two, first with a folder of its own, then with one that they share
        read(place, "")
        read(place.parent / "shared", place.name)
    else:
        train(place / "killed.pt", slow_loss, **dict[str, Any]({} if mode == "alone" else {"precision": "no"}))
