"""A user adapter by federated averaging: what a round adds up to, and twenty studios by Flower beside a pooled one."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ppd.encoders.population import PopulationPrior
from ppd.federated.adapter import AdapterStudio, FederatedAdapter, Local, begin, put, vector
from ppd.federated.sums import added
from ppd.pocket.adapters import BETA, keys_values
from ppd.pocket.model import PocketModel
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

D, STUDIOS, PEOPLE, PICTURES, QUERIES = 6, 20, 4, 40, 12
U = {"encoder": "encoder", "encoder_hash": "hash", "embedding_dim": D, "end_percent": 0.5}
LOCAL = Local(steps=2, batch=4, learning_rate=2e-3, objective=Objective(beta=BETA, contrast=0.0), most_picks=100)
PER_PICK = ("person", "chosen", "rejected", "caption")
ROOT = Path(__file__).resolve().parents[2]
PRIOR = PopulationPrior(torch.full((D,), 0.1), torch.eye(D), torch.zeros(7), torch.eye(7, D), "encoder", "0" * 64)


@pytest.fixture(scope="module")
def model(pocket_base_file: Path) -> PocketModel:
    return PocketModel.load(pocket_base_file)


def picks_of(seed: int, people: int = PEOPLE) -> QueryPicks:
    """Of people who like one of two sorts of pictures or the other, by their u; every seed has pictures of its own."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    latents = 0.3 * torch.randn(PICTURES, 4, 16, 16, generator=generator)
    side = torch.ones(PICTURES).index_fill(0, torch.arange(PICTURES // 2, PICTURES), -1.0)
    latents += side.view(-1, 1, 1, 1) * torch.tensor([1.0, -1.0, 0.5, 0.0]).view(1, 4, 1, 1)
    person = np.repeat(np.arange(people), QUERIES)
    first, second = rng.integers(PICTURES // 2, size=len(person)), PICTURES // 2 + rng.integers(20, size=len(person))
    sign = torch.where(torch.arange(people) % 2 == 0, 1.0, -1.0)[:, None]
    likes_first = person % 2 == 0
    return QueryPicks(
        latents,
        person=person,
        chosen=np.where(likes_first, first, second),
        rejected=np.where(likes_first, second, first),
        caption=np.zeros(len(person), np.int64),
        embeddings=(sign * torch.tensor([2.0, 1.0, 0, 0, 0, 0]) + 0.3 * torch.randn(people, D, generator=generator))[
            None
        ],
        population=PRIOR.mean,
        prompts=("",),
    )


def new_adapter(model):
    adapter = keys_values(model, **U)
    begin(adapter, PRIOR)
    return adapter


def studios_of(model, count, local):
    return [AdapterStudio(model, new_adapter(model), picks_of(100 + number), local) for number in range(count)]


def test_a_round_is_the_mean_of_the_studios_changes_by_their_picks(model):
    """One has a third of the other's picks."""
    few, many = studios_of(model, 2, LOCAL)
    few = replace(few, picks=replace(few.picks, **{name: getattr(few.picks, name)[::3] for name in PER_PICK}))
    task = FederatedAdapter(new_adapter(model), 2, LOCAL)
    before = vector(task.adapter)
    answers = [studio.answer(task.ask()) for studio in (few, many)]
    assert all(float(answer.abs().max()) <= task.range for answer in answers)
    changes = [vector(studio.adapter) - before for studio in (few, many)]
    assert all(0.01 < float(change.norm()) < LOCAL.longest for change in changes)
    task.take(added(answers))
    torch.testing.assert_close(vector(task.adapter) - before, (changes[0] + 3 * changes[1]) / 4, rtol=0, atol=1e-6)
    assert task.left == 1 and task.ask()[1] == 1
    again = many.answer([before, torch.tensor([0])])
    torch.testing.assert_close(again, answers[1], rtol=0, atol=1e-6)  # by the round's number and nothing else


def test_a_long_change_is_shortened_and_too_much_is_refused(model):
    (studio,) = studios_of(model, 1, replace(LOCAL, longest=0.05))
    task = FederatedAdapter(new_adapter(model), 1, studio.local)
    answer = studio.answer(task.ask())
    share = PEOPLE * QUERIES / LOCAL.most_picks
    assert float(answer[:-1].norm()) == pytest.approx(0.05 * share, rel=1e-6) and float(answer[-1]) == 0.05 * share
    small = replace(studio, local=replace(LOCAL, most_picks=10))
    with pytest.raises(ValueError, match="This studio has 48 picks, and 10 are agreed on: agree on more."):
        small.answer(task.ask())
    with pytest.raises(ValueError, match="The server's adapter has 3 weights and this studio's "):
        put(studio.adapter, torch.zeros(3))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs requirements-federated.txt")
def test_twenty_studios_with_masks_get_an_adapter_as_good_as_the_pooled_one(tmp_path, monkeypatch):
    """By Flower with secure aggregation, in the world pocket flow: `benchmarks/federated_adapter.py` without painting.
    On picks that nobody trained on the federated adapter is within the pooled one's interval."""
    monkeypatch.syspath_prepend(ROOT)  # before Opacus' own "benchmarks", also in the studios' process
    from benchmarks import federated_adapter as benchmark
    from ppd.federated.flower import rehearse

    recipe, _ = benchmark.world(tmp_path)  # once, before the studios' process looks for it
    task = FederatedAdapter(benchmark.new_adapter(recipe), benchmark.ROUNDS, benchmark.LOCAL)
    rehearse(partial(benchmark.studio, tmp_path), STUDIOS, task, STUDIOS)
    assert task.left == 0
    found, exact = (benchmark.judged(tmp_path, one.eval()) for one in (task.adapter, benchmark.pooled(tmp_path)))
    for name in ("own", "own_minus_anothers"):
        assert exact[name]["low"] <= found[name]["mean"] <= exact[name]["high"]
    assert found["own"]["low"] > 0.55
