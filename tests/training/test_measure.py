"""What is said of an adapter: figures on a denoiser whose personal errors can be reckoned, and the page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ppd.training.measure import measure
from ppd.training.picks import QueryPicks
from ppd.training.report import page, sentences

from .test_objective import Line

PEOPLE = 12


ADAPTER: Any = SimpleNamespace(config=SimpleNamespace(end_percent=0.5))


class Hosted(Line):
    """Its own host for whatever adapter: what u adds to the prediction is `adapter` times u."""

    def __init__(self, adapter):
        super().__init__()
        self.adapter = torch.tensor(adapter)

    def host(self, adapter):
        return self


def opposite_people():
    """Even people like pictures at (1, 0) better than those at (-1, 0), odd ones the other way; predicting x at x0 + t
    noise, the error on a picture falls where what u adds points away from it."""
    pictures = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(4, 1)
    person = np.arange(PEOPLE * 8) % PEOPLE
    rng = np.random.default_rng(0)
    one, other = 2 * rng.integers(4, size=(2, len(person))) + np.array([[0], [1]])
    even = person % 2 == 0
    taste = torch.where(torch.arange(PEOPLE) % 2 == 0, -1.0, 1.0)[:, None] * torch.tensor([1.0, 0.0])
    return QueryPicks(
        pictures,
        person=person,
        chosen=np.where(even, one, other),
        rejected=np.where(even, other, one),
        caption=np.zeros(len(person), np.int64),
        embeddings=taste[None],
        population=torch.zeros(2),
        prompts=("",),
        noise=torch.zeros_like(pictures),
    )


def test_own_and_another_are_told_apart():
    batches = []
    options: dict[str, Any] = {"on_batch": lambda done, of: batches.append((done, of))}
    told = measure(Hosted(0.1), ADAPTER, opposite_people(), people=PEOPLE, batch=5, **options)
    assert batches[0] == (0, 72) and batches[-1] == (70, 72)  # of six picks each
    assert told["people"] == PEOPLE
    assert told["own"]["mean"] == 1.0 and told["population"]["mean"] == 0.5
    # Of eleven others five share the taste
    assert told["anothers"]["mean"] == pytest.approx(5 / 11, abs=0.15)
    assert told["own_minus_anothers"]["low"] > 0.2 and told["permutation_p"] < 0.01
    assert told["null_user_difference"] == 0.0
    # In the mean: at one draw of noise both may rise or fall
    assert np.mean(told["chosen_error_change_by_noise"]) < 0 < np.mean(told["rejected_error_change_by_noise"])


def test_an_adapter_that_does_nothing_is_nothing_personal():
    told = measure(Hosted(0.0), ADAPTER, opposite_people(), people=PEOPLE, batch=8)
    assert told["own"]["mean"] == told["anothers"]["mean"] == 0.5
    assert told["permutation_p"] == 1.0


def figures(**changed):
    told = {
        "people": 100,
        "own": {"mean": 0.8, "low": 0.75, "high": 0.85},
        "anothers": {"mean": 0.55, "low": 0.5, "high": 0.6},
        "own_minus_anothers": {"mean": 0.25, "low": 0.2, "high": 0.3},
        "permutation_p": 0.0001,
        "null_user_difference": 0.0,
    }
    real = {"people": 0, "picks": 0}
    return {
        "held_out": {"simulated": told, "real": None},
        "real_people": real,
        "licence": "",
        "strength": {"gain": 0.25, "picked": {"0.15": 0.57, "0.25": 0.61}},
        "prompt_loss": None,
        **changed,
    }


def test_the_page_says_what_was_measured_and_on_whom():
    assert sentences(figures()) == [
        "On 100 simulated people and on prompts that training never saw, the adapter leans to the picture that the "
        "person prefers in 80% of pairs (75% to 85%), and for somebody else's taste in 55%. What is personal is the "
        "difference, +25% (+20% to +30%, p = 0.0001). For the null user the largest difference from the base is 0.",
        "At strength 1, which is 0.25 of what was learned, simulated people would pick the personal picture rather "
        "than the plain one in 61% of pairs, as the taste encoder reads them.",
        "Measured on simulated people only: whether real people like it, a blind test has to tell.",
    ]
    both = figures()["held_out"] | {"real": figures()["held_out"]["simulated"]}
    said = sentences(figures(held_out=both, real_people={"people": 3, "picks": 40}))
    assert said[1].startswith("On 100 real people") and said[3].endswith("on 40 picks of 3 real people.")
    licensed = sentences(figures(real_people={"people": 3, "picks": 40}, licence="CC0"))
    assert licensed[2].endswith("on 40 picks of 3 real people, licence: CC0.")
    assert sentences(figures(held_out={"simulated": None, "real": None}))[1].startswith("There were too few prompts")
    weak = sentences(figures(strength={"gain": 1.6, "picked": {"1": 0.51, "1.6": 0.54}}))
    assert weak[1].endswith(
        "in 54% of pairs, as the taste encoder reads them. No strength does much better; more steps may."
    )
    assert sentences(figures(strength=None))[1].startswith("Strength 1 is all that was learned, which may be too much")
    kept = {"plain": 0.3, "lost": {"mean": 0.01, "low": -0.005, "high": 0.02, "n": 12}}
    assert sentences(figures(prompt_loss=kept))[2] == (
        "Personal pictures are as near to their prompts as the plain ones, but for +0.010 (-0.005 to +0.020) of a "
        "cosine of 0.300."
    )
    text = page("<mine>", figures(), "sheet.png")
    assert "<h1>User adapter &lt;mine&gt;</h1>" in text and "src='sheet.png'" in text and "80% of pairs" in text
