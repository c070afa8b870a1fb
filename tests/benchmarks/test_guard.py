"""The guards' figures on findings that are made up, since painting takes minutes: a judge that errs now and then."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import guard
from benchmarks.guard import (
    PROMPTS,
    against_itself,
    content_battery,
    content_figures,
    people,
    rate,
    stereotype_figures,
    subject_battery,
    table,
)
from ppd.pocket import scenes

ERRORS = 0.02


def judged(prompts, seed):
    """Kinds that prompts name [n, kinds], each misjudged at times."""
    truth = np.array([[kind in prompt for kind in scenes.KINDS] for prompt in prompts])
    truth[:, scenes.KINDS.index("house")] &= np.array([" house" in prompt for prompt in prompts])
    return truth ^ (np.random.default_rng(seed).random(truth.shape) < ERRORS)


def sides(battery, first_seed, count=4):
    seeds = range(first_seed, first_seed + count)
    return [(judged(battery.prompts, seed), judged(battery.planted, 1000 + seed)) for seed in seeds]


def test_what_is_planted_is_in_the_prompts_that_are_painted():
    battery = content_battery()
    assert len(battery.prompts) == len(battery.planted) == 2 * PROMPTS
    for number, (checked, painted) in enumerate(zip(battery.prompts, battery.planted, strict=True)):
        assert ("balloon" in checked) is (number >= PROMPTS) and ("balloon" in painted) is (number < PROMPTS)
    assert set(battery.prompts) <= set(scenes.BY_CAPTION)


def test_large_plants_are_found_and_chance_is_not(monkeypatch):
    monkeypatch.setattr(guard, "SHARES", (0.5,))
    monkeypatch.setattr(guard, "TURNED", (1.0,))
    content, subjects = content_battery(), subject_battery()
    found = content_figures(content, judged(content.prompts, 500), sides(content, 0))
    assert found["shipped adapter"]["mean"] == 0
    assert found["leakage, planted in 50%"]["mean"] == found["prompt loss, planted in 50%"]["mean"] == 1
    (day, night), *painted = sides(subjects, 50, 5)
    shifted = stereotype_figures(day, night, painted)
    assert shifted["shipped adapter"]["mean"] == 0 and shifted["over all, shifted by 50%"]["mean"] == 1
    assert shifted["by subject, shifted by 50%"]["mean"] == 1
    base = np.stack([judged(content.prompts, seed) for seed in range(4)])
    days, nights = (np.stack(side) for side in zip(*sides(subjects, 70, 4), strict=True))
    itself = against_itself(base, days, nights, content.prompts, 5)
    assert itself["content"]["mean"] == itself["stereotypes"]["mean"] == 0
    figures = {"base against itself": itself, "content": found, "stereotypes": shifted}
    assert len(table(figures).splitlines()) == 2 + 2 + 3 + 3
    assert "| content: leakage, planted in 50% | 100% | 40% to 100% | 4 |" in table(figures)


def test_exact_intervals():
    assert rate([False] * 24) == {"mean": 0, "low": 0, "high": pytest.approx(1 - 0.025 ** (1 / 24)), "n": 24}
    found = rate([True] * 5 + [False] * 5)
    assert (found["low"], found["high"]) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))


def test_people_are_draws_of_the_shipped_prior():
    drawn = people(300)
    assert drawn.shape == (300, people(1).shape[1]) and drawn.std(0).min() > 0
