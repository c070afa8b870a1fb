"""A user adapter is trained on ComfyUI's own denoisers, at tiny sizes, for people with opposite tastes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppd.adapters import LowRankAdapter, LowRankConfig
from ppd.training.adapter import own_and_other, train_adapter
from ppd.training.objective import Objective, UserDPO
from ppd.training.picks import QueryPicks
from tests.hosts.small_models import comfy_model, denoiser
from tests.hosts.test_comfyui_training import Small, attention_adapter, what_is_installed
from tests.hosts.tiny_models import TINY, build

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from ppd.hosts.comfyui_denoisers import linear_sites, low_rank_family

DIM, PICTURES, PEOPLE, PICKS = 5, 16, 6, 64


def opposite_tastes(model, shape):
    """Half the pictures lie on one side of a direction, half on the other; half the people like this, half that."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(shape, generator=generator)
    side = torch.tensor([1.0, -1.0]).repeat(PICTURES // 2).view(-1, *[1] * len(shape))
    rng = np.random.default_rng(0)
    person = rng.integers(PEOPLE, size=PICKS)
    one, other = 2 * rng.integers(PICTURES // 2, size=(2, PICKS)) + np.array([[0], [1]])
    likes_one = person % 2 == 0
    taste = torch.randn(DIM, generator=generator)
    sides = torch.tensor([1.0, -1.0]).repeat(PEOPLE // 2)[:, None]
    pictures = 2 * side * direction + 0.5 * torch.randn(PICTURES, *shape, generator=generator)
    return QueryPicks(
        model.process_latent_out(pictures),
        person=person,
        chosen=np.where(likes_one, one, other),
        rejected=np.where(likes_one, other, one),
        caption=rng.integers(2, size=PICKS),
        embeddings=sides * taste + 0.2 * torch.randn(2, PEOPLE, DIM, generator=generator),
        population=torch.zeros(DIM),
        prompts=("a", "two words"),
    )


def tiny(name, **options):
    if name == "sd15":
        return Small(name, comfy_model(name, denoiser(name)), (4, 8, 8), **options)
    return Small(name, build(name), TINY[name].latent, **options)


def low_rank_adapter(model):
    sites = tuple(linear_sites(model.model.diffusion_model))
    config = LowRankConfig(
        family=low_rank_family(model), encoder="test", encoder_hash="0" * 64, embedding_dim=DIM, sites=sites, rank=4
    )
    return LowRankAdapter(config)


@pytest.mark.parametrize(
    ("name", "make", "checkpointing"),
    [
        ("sd15", low_rank_adapter, False),
        ("sdxl", attention_adapter, False),
        ("qwen_image", low_rank_adapter, True),
        ("z_image", low_rank_adapter, False),
        ("flux1", low_rank_adapter, False),
    ],
)
def test_an_adapter_learns_whose_taste_is_whose(name, make, checkpointing, tmp_path):
    model = tiny(name, checkpointing=checkpointing)
    picks, before = (
        opposite_tastes(model.model.model, model.shape),
        [weight.clone() for weight in model.model.model.parameters()],
    )
    trained = train_adapter(
        model.denoiser,
        make(model.model),
        picks,
        tmp_path / "checkpoint.pt",
        steps=12,
        batch=4,
        learning_rate=0.1,
        objective=Objective(),
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.model.parameters(), strict=True))
    assert what_is_installed(model.model) == ([], [])
    host, texts = model.denoiser.host(trained), model.denoiser.text(picks.prompts)
    own, other = own_and_other(UserDPO(model.denoiser, host, picks, texts, Objective(), 1.0))
    assert own >= 0.75 and own > other + 0.3  # two of five others have the same taste
    x, sigma, context = model.batch()
    with torch.no_grad():
        plain = model.denoiser.predict(x, sigma, context)
        with host.personalized(torch.zeros(2, 1, DIM)):
            assert torch.equal(model.denoiser.predict(x, sigma, context), plain)
        with host.personalized(picks.embeddings[0, :2, None]):
            assert not torch.allclose(model.denoiser.predict(x, sigma, context), plain, rtol=1e-2, atol=1e-3)
