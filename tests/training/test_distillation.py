"""Self-distillation on a denoiser whose words move its predictions by known amounts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ppd.encoders.simulated import SimulatedPeople
from ppd.training.distillation import Distillation, wordings
from ppd.training.picks import QueryPicks

from .test_objective import Line

PROMPTS = ("a", "b", "c")
SIDES = [[(f"{prompt}, dark", f"{prompt}, bright"), (f"{prompt}, cool", f"{prompt}, warm")] for prompt in PROMPTS]
MOVES = {"bright": [1.0, 0.0], "dark": [-1.0, 0.0], "warm": [0.0, 0.5], "cool": [0.0, -0.5]}


class Obedient(Line):
    """Predicts what Line does, moved by the words for looks in its prompt."""

    def text(self, prompts):
        return torch.tensor([MOVES.get(prompt.partition(", ")[2], [0.0, 0.0]) for prompt in prompts])

    def predict(self, x, t, context):
        return super().predict(x, t, context) + context


def distillation(looks, adapter=0.0):
    line: Any = Obedient()
    line.adapter = torch.tensor(adapter, requires_grad=True)
    people = SimulatedPeople(torch.zeros(len(looks), 2), torch.tensor(looks))
    # u is what the looks' words do: bright moves the first number by 2 against dark, warm the second by 1
    u = people.looks * torch.tensor([2.0, 1.0])
    pictures = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    nobody = np.zeros(0, np.int64)
    picks = QueryPicks(
        pictures,
        *(nobody,) * 4,
        embeddings=torch.zeros(1, len(looks), 2),
        population=torch.zeros(2),
        prompts=PROMPTS,
        shows=np.array([0, 1, 2, 0, 1, 2]),
    )
    return Distillation(line, line, picks, people, u, line.text(wordings(PROMPTS, SIDES)), len(SIDES), 0.8)


def test_the_wordings_are_the_prompts_then_each_looks_two_sides():
    texts = wordings(PROMPTS, SIDES)
    assert texts[:3] == list(PROMPTS) and len(texts) == 3 + 3 * 2 * 2
    assert texts[3 + 2 * (1 * 2 + 1)] == "b, cool" and texts[3 + 2 * (1 * 2 + 1) + 1] == "b, warm"


@pytest.mark.parametrize("looks", [[[1.0, 0.0]], [[0.6, -0.8]], [[0.6, -0.8], [-1.0, 0.0], [0.0, 1.0]]])
def test_the_target_is_moved_as_the_words_of_the_liked_looks_move_it(looks):
    """An adapter that does what the words do has no error, one that does nothing all of it."""
    for adapter, expected in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.25)):
        value, figures = distillation(looks, adapter).loss(np.random.default_rng(1), 16)
        assert value.item() == pytest.approx(expected, abs=1e-6)
    if len(looks) == 1:
        moved = np.array(looks[0]) * [2.0, 1.0]
        assert figures["moved"] == pytest.approx(np.sqrt((moved**2).mean()))


def test_it_teaches_the_adapter_alone():
    found = distillation([[1.0, 0.0]])
    found.loss(np.random.default_rng(1), 8)[0].backward()
    assert found.denoiser.adapter.grad.item() < 0  # it is to grow


def test_prompts_without_wordings_are_left_out():
    assert wordings(PROMPTS, SIDES[:1]) == ["a", "a, dark", "a, bright", "a, cool", "a, warm"]
    found = distillation([[1.0, 0.0]], 1.0)
    found = replace(found, prompts=1, texts=found.denoiser.text(wordings(PROMPTS, SIDES[:1])))
    assert found.loss(np.random.default_rng(1), 16)[0].item() == pytest.approx(0.0, abs=1e-6)
