"""Training adapters with Diffusion-DPO: two groups of people who like opposite pictures, on a tiny denoiser."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppd.adapters import CrossAttentionAdapter, LowRankAdapter, UserAdapter
from ppd.hosts.diffusers import DiffusersHost, cross_attentions
from ppd.pocket.adapters import BETA, keys_values, low_rank
from ppd.pocket.model import PocketModel
from ppd.training.adapter import train_adapter
from ppd.training.dpo import diffusion_dpo_loss
from ppd.training.objective import UserDPO
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

PEOPLE, PICTURES = 6, 24
OBJECTIVE = Objective(beta=BETA, contrast=0.0)
U = {"encoder": "encoder", "encoder_hash": "hash", "embedding_dim": 6, "end_percent": 0.5}


@pytest.fixture(scope="module")
def model(pocket_base_file: Path) -> PocketModel:
    return PocketModel.load(pocket_base_file)


@pytest.fixture(scope="module")
def picks() -> QueryPicks:
    """The first half of the pictures is liked by people of even number, the second half by the others."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    latents = 0.3 * torch.randn(PICTURES, 4, 16, 16, generator=generator)
    side = torch.ones(PICTURES).index_fill(0, torch.arange(PICTURES // 2, PICTURES), -1.0)
    latents += side.view(-1, 1, 1, 1) * torch.tensor([1.0, -1.0, 0.5, 0.0]).view(1, 4, 1, 1)
    person = np.arange(60) % PEOPLE
    first, second = rng.integers(PICTURES // 2, size=60), PICTURES // 2 + rng.integers(PICTURES // 2, size=60)
    even = person % 2 == 0
    taste = torch.where(torch.arange(PEOPLE) % 2 == 0, 1.0, -1.0)[:, None] * torch.tensor([2.0, 1.0, 0, 0, 0, 0])
    return QueryPicks(
        latents,
        person=person,
        chosen=np.where(even, first, second),
        rejected=np.where(even, second, first),
        caption=rng.integers(20, size=60),
        embeddings=taste + 0.1 * torch.randn(2, PEOPLE, 6, generator=generator),
        population=torch.full((6,), 0.1),
        prompts=("",) * 20,
    )


def train(model: PocketModel, picks: QueryPicks, checkpoint: Path, *, personal: bool, steps: int) -> UserAdapter:
    options: dict[str, Any] = {"steps": steps, "objective": OBJECTIVE, "personal": personal, "seed": 1, "batch": 8}
    return train_adapter(model, keys_values(model, **U), picks, checkpoint, **options)


@pytest.fixture(scope="module")
def trained(model, picks, tmp_path_factory) -> UserAdapter:
    return train(model, picks, tmp_path_factory.mktemp("adapter") / "a.pt", personal=True, steps=32)


def mean_loss(model: PocketModel, adapter: UserAdapter, picks: QueryPicks, users: np.ndarray) -> float:
    """The objective on fixed picks, noise and timesteps, with the u of `users` [60]."""
    dpo = UserDPO(model, model.host(adapter), picks, model.text(picks.prompts), OBJECTIVE, 0.5)
    torch.manual_seed(7)
    with torch.no_grad():
        noised = dpo.noised(np.random.default_rng(7), np.arange(60))
        reference, policy = dpo.reference(noised), dpo.policy(noised, picks.embeddings[0, users])
    return diffusion_dpo_loss(*policy.means, *reference.means, BETA)[0].mean().item()


def test_the_adapter_is_the_pockets(model):
    config = keys_values(model, **U).config
    assert config.family == "pocket"
    DiffusersHost(model.denoiser, CrossAttentionAdapter(config))
    assert config.layers == tuple(attention.inner_dim for attention in cross_attentions(model.denoiser))
    assert config.timesteps[0] == pytest.approx(499.5) and config.timesteps[1] == 999


def test_errors_of_a_pair_share_noise_and_timestep(model, picks):
    """A picture against itself has one error, whatever the noise."""
    alike = replace(picks, rejected=picks.chosen)
    dpo = UserDPO(model, model.host(keys_values(model, **U)), alike, model.text(picks.prompts), OBJECTIVE, 0.5)
    reference = dpo.reference(dpo.noised(np.random.default_rng(0), np.arange(3)))
    assert reference.chosen.shape == (3,)
    torch.testing.assert_close(reference.chosen, reference.rejected)


def test_training_lowers_the_loss_for_each_persons_own_taste(model, picks, trained):
    own = mean_loss(model, trained, picks, picks.person)
    other = mean_loss(model, trained, picks, (picks.person + 1) % PEOPLE)
    untrained = mean_loss(model, CrossAttentionAdapter(trained.config), picks, picks.person)
    assert untrained == pytest.approx(log(2), abs=1e-4)  # values start at zero: the policy is the reference
    assert own < log(2) - 0.004
    assert other > log(2) + 0.004


def test_a_low_rank_adapter_is_trained_by_the_same_recipe(model, picks, tmp_path):
    options: dict[str, Any] = {"steps": 10, "objective": OBJECTIVE, "seed": 1, "batch": 8}
    trained = train_adapter(model, low_rank(model, **U), picks, tmp_path / "a.pt", **options)
    assert isinstance(trained, LowRankAdapter) and trained.config.training["steps"] == 10
    assert all(site.up.any() for site in trained.parts())
    assert mean_loss(model, trained, picks, picks.person) < log(2) - 0.002


def test_the_base_is_left_alone(model, pocket_base_file, trained):
    fresh = PocketModel.load(pocket_base_file).denoiser.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


def test_the_training_is_written_down(trained, tmp_path):
    expected = {"steps": 32, "batch": 8, "learning_rate": 1e-3, "seed": 1, "personal": True, **OBJECTIVE.as_json()}
    assert trained.config.training == expected
    trained.save(tmp_path / "a.safetensors", torch.float16)
    assert UserAdapter.load(tmp_path / "a.safetensors", family="pocket").config == trained.config


def test_a_finished_training_is_continued_from_its_checkpoint(model, picks, tmp_path):
    one = train(model, picks, tmp_path / "a.pt", personal=True, steps=2)
    two = train(model, picks, tmp_path / "a.pt", personal=True, steps=2)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_population_adapter_sees_only_the_population_user(model, picks, tmp_path):
    """Other people's embeddings of the same spread change a personal adapter, and not the population adapter."""
    mirrored = replace(picks, embeddings=-picks.embeddings)

    def same(personal: bool) -> bool:
        ours, theirs = (
            train(model, data, tmp_path / f"{personal}-{name}.pt", personal=personal, steps=3).state_dict()
            for name, data in (("own", picks), ("mirrored", mirrored))
        )
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    assert same(False)
    assert not same(True)
