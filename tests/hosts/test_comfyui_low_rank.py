"""A low-rank adapter on today's denoisers: ComfyUI's real classes at tiny sizes, through its real sampler."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from ppd.adapters import LowRankAdapter, LowRankConfig
from ppd.branch import Scope
from ppd.user_embedding import UserEmbedding

from .tiny_models import TINY, build, conditioning, latent, sample

if find_spec("comfy"):
    from ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import linear_sites, low_rank_family

pytestmark = pytest.mark.comfyui
DIM, RANK = 5, 3


def adapter_for(model, gain=1.0, **changes):
    """An adapter with random weights for all layers of a MODEL."""
    sites = tuple(linear_sites(model.model.diffusion_model))
    values: dict[str, Any] = {"family": low_rank_family(model), "encoder": "test"}
    config = LowRankConfig(
        **values,
        encoder_hash="0" * 64,
        embedding_dim=DIM,
        sites=sites,
        rank=RANK,
        **{"unconditional": "same"} | changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter = LowRankAdapter(config)
        for site in adapter.parts():
            nn.init.normal_(site.up, std=gain * 0.3 / RANK**0.5)
    return adapter.requires_grad_(False)


def person(seed=0, scale=1.0):
    u = scale * torch.randn(1, DIM, generator=torch.Generator().manual_seed(seed))
    return UserEmbedding(u, encoder="test", encoder_hash="0" * 64, pairs=4, created="2026-11-27T00:00:00+00:00")


def paint(name, model, cfg=4.0, batch=1, **options):
    return sample(model, conditioning(name), conditioning(name, seed=1), latent(name, batch), cfg=cfg, **options)


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return request.param, build(request.param)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_all_layers_act_and_zero_is_exact(tiny, cfg):
    name, model = tiny
    adapter = adapter_for(model)
    managed, outcomes = manage_adapter(adapter), []
    plain = paint(name, model, cfg)
    for nobody, options in (
        (person(scale=0), {}),
        (person(), {"strength": 0}),
        (person(), {"scope": Scope("all", 0.5, 0.5)}),
    ):
        assert torch.equal(paint(name, apply_user(model, managed, [nobody], **options), cfg), plain)
    personal = paint(name, apply_user(model, managed, [person()], on_outcome=outcomes.append), cfg)
    assert not torch.allclose(personal, plain, rtol=1e-2, atol=1e-2)
    (outcome,) = outcomes
    assert outcome.reached == outcome.places == len(adapter.parts()) > 3
    assert outcome.personal_calls == outcome.calls >= 2
    assert torch.equal(paint(name, model, cfg), plain)
    assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())
