"""What is chosen as strength 1, and how often simulated people want each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ppd.encoders.simulated import SimulatedPeople
from ppd.encoders.towers import open_tower
from ppd.pocket.studio import ENCODER, WEIGHTS
from ppd.training.strength import GAINS, smallest_as_good, wins_by_gain

from .study_sets import encoder_of, paint_studies, scene


@pytest.mark.parametrize(
    ("wins", "count", "gain"),
    [
        ({0.15: 0.79, 0.4: 0.80, 0.9: 0.82}, 32, 0.15),  # the most less its error of .068
        ({0.15: 0.75, 0.4: 0.76, 0.9: 0.82}, 32, 0.4),
        ({0.15: 0.79, 0.4: 0.80, 0.9: 0.82}, 3200, 0.9),
        ({0.15: 0.6, 0.4: 0.6, 0.9: 0.5}, 1, 0.15),
        ({0.15: 0.0, 0.4: 0.0, 0.9: 0.0}, 32, 0.15),
        ({0.15: 0.9, 0.4: 1.0, 0.9: 1.0}, 32, 0.4),
    ],
)
def test_the_smallest_gain_within_an_error_of_the_most_wins(wins, count, gain):
    assert smallest_as_good(wins, count) == gain


def test_everybody_judges_what_was_painted_for_them(tmp_path):
    """One likes bright pictures, another dark ones. The painter overshoots beyond .4: dark for the first, and for the
    second still dark."""
    studies = paint_studies(tmp_path / "studies", prompts=10)
    encoder = encoder_of(studies, open_tower({"kind": "folder"}, WEIGHTS / ENCODER))
    light = encoder.looks.readings[list(encoder.looks.names).index("dark-bright")].double()
    people = SimulatedPeople(torch.stack([light, -light]), torch.zeros(2, 2))
    embeddings = torch.tensor([[0.0], [0.0], [1.0], [0.0], [0.0]])[..., None] * torch.tensor([1.0, -1.0])[:, None]
    picks, told = SimpleNamespace(prompts=("a", "b", "c"), embeddings=embeddings), []

    def paint(prompt, seed, adapter=None, u=None):
        told.append((prompt, seed, adapter, None if u is None else u.item()))
        gain = adapter or 0.0
        sign = 0.0 if u is None else u.item()
        return scene(seed, -0.2 if gain > 0.4 else 0.5 * gain * sign).open()

    base, adapter, seen = SimpleNamespace(paint=paint), SimpleNamespace(scaled=lambda gain: gain), []
    wins = wins_by_gain(base, adapter, people, picks, encoder, 4, lambda *at: seen.append(at))
    assert wins == {0.15: 1.0, 0.25: 1.0, 0.4: 1.0, 0.6: 0.5, 0.9: 0.5}
    assert told[:4] == [(prompt, seed, None, None) for seed, prompt in enumerate("abca")]
    assert told[4:8] == [("a", 0, 0.15, 1.0), ("b", 1, 0.15, -1.0), ("c", 2, 0.15, 1.0), ("a", 3, 0.15, -1.0)]
    assert seen == [(number, 4 * (1 + len(GAINS))) for number in range(24)]
