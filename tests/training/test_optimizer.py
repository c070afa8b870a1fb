"""Muon's step on literal numbers, and which parameters it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppd.training.optimizer import Muon, muon_and_adamw


def step(parameter: nn.Parameter, gradient: torch.Tensor, **settings: float) -> torch.Tensor:
    parameter.grad = gradient
    before = parameter.detach().clone()
    Muon([parameter], **settings).step()
    return parameter.detach() - before


def test_a_step_is_orthogonal_and_of_adamws_size():
    """Whatever the gradient's singular values, the step's are near one size: .2 sqrt(32) times the learning rate."""
    gradient = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -1, 16)[:, None]
    moved = step(nn.Parameter(torch.zeros(16, 32)), gradient, lr=0.1)
    values = torch.linalg.svdvals(moved) / (0.1 * 0.2 * 32**0.5)
    assert 0.6 < values.min() and values.max() < 1.3
    assert torch.linalg.svdvals(gradient).max() / torch.linalg.svdvals(gradient).min() > 8
    assert (moved * gradient).sum() < 0
    assert moved.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.3)


def test_kernels_are_flattened():
    gradient = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    moved = step(nn.Parameter(torch.zeros(8, 4, 3, 3)), gradient, lr=0.1)
    flat = step(nn.Parameter(torch.zeros(8, 36)), gradient.flatten(1), lr=0.1)
    assert moved.shape == (8, 4, 3, 3)
    assert torch.equal(moved.flatten(1), flat)


def test_weights_decay_by_the_learning_rate():
    start = nn.Parameter(torch.full((4, 4), 2.0))
    zero = torch.zeros(4, 4)
    assert step(start, zero, lr=0.1, weight_decay=0.5) == pytest.approx(-0.1)
    assert step(start, zero, lr=0.1, weight_decay=0.0).abs().max() == 0


def test_momentum_is_nesterovs(monkeypatch):
    monkeypatch.setattr(
        "ppd.training.optimizer.has_bfloat16", lambda device: False
    )  # whose rounding differs between CPUs
    first, second = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3))
    parameter = nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0)
    for gradient in (first, second):
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
    momentum = 0.9 * 0.1 * first + 0.1 * second
    torch.testing.assert_close(optimizer.state[parameter]["momentum"], momentum)
    ahead = 0.1 * second + 0.9 * momentum
    torch.testing.assert_close(parameter.detach() - before, step(nn.Parameter(torch.zeros(4, 4)), ahead, lr=0.1))


def test_matrices_go_to_muon_and_the_rest_to_adamw():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1), nn.Linear(8, 8, bias=False))
    muon, adamw = muon_and_adamw(model.parameters(), 0.01)
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    taken = [p.shape for p in muon.param_groups[0]["params"]]
    assert taken == [(8, 3, 3, 3), (8, 8)]  # a 2 x 8 matrix is too thin
    assert len(adamw.param_groups[0]["params"]) == 5
    assert muon.param_groups[0]["lr"] == adamw.param_groups[0]["lr"] == 0.01


def test_a_model_without_matrices_has_adamw_alone():
    (only,) = muon_and_adamw(nn.GroupNorm(2, 8).parameters(), 0.01)
    assert isinstance(only, torch.optim.AdamW)
