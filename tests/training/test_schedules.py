"""Learning rate and weight average over a run."""

from __future__ import annotations

import pytest
import torch

from ppd.training.schedules import cosine_with_warmup, warm_average


def test_learning_rate_schedule_on_literal_numbers():
    factors = [cosine_with_warmup(step, steps=100, warmup=10) for step in (0, 4, 9, 10, 55, 100, 1000)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.51, 0.02, 0.02])
    assert cosine_with_warmup(0, steps=10, warmup=0) == 1.0


def test_the_average_forgets_the_random_start():
    """At a plain decay of .999, 37 % of the start would be left after 1,000 updates."""
    averaged = [torch.ones(1)]
    update = warm_average(0.999)
    for count in range(1, 1000):
        update(averaged, [torch.zeros(1)], torch.tensor(count))
    assert averaged[0].item() < 1e-9
