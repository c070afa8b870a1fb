"""The plan that hosts obey: who acts on which rows, how strongly, where and when."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig
from ppd.branch import Outcome, Scope, branch_keys_values, describe, guidance_sides, off_for_anybody, reason_to_be_off
from ppd.user_embedding import UserEmbedding, null_user


def adapter(**more):
    config: dict[str, Any] = {
        "family": "sd15",
        "encoder": "pocket",
        "encoder_hash": "0" * 64,
        "embedding_dim": 3,
        "layers": [8] * 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = CrossAttentionAdapter(CrossAttentionConfig(**config | more))
        for layer in made.layers:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"))
    return made.requires_grad_(False)


PERSON = UserEmbedding(torch.tensor([[3.0, 0.0, 4.0]]), "pocket", "0" * 64, 4, "2026-01-01")


def test_unconditional_rows_by_the_adapters_rule():
    u = torch.tensor([[[1.0, 2.0]]])
    assert [x.tolist() for x in guidance_sides(u, "negative")] == [[[[1, 2]]], [[[-1, -2]]]]
    for rule in ("none", "same"):
        assert [x.tolist() for x in guidance_sides(u, rule)] == [[[[1, 2]]]]


def test_layers_and_window_meet_the_adapters_own():
    own = adapter(start_percent=0.2, end_percent=0.8)
    assert Scope().places(own) == tuple(range(16)) and Scope("style only").places(own) == (6, 7, 8)
    own.default_part = "style only"
    assert Scope().places(own) == (6, 7, 8) and len(Scope("all").places(own)) == 16
    assert Scope("all", 0.0, 0.5).window(own.config) == (0.2, 0.5)
    assert reason_to_be_off(own, [PERSON], 1.0, Scope("all", 0.8, 1.0)).startswith("the adapter acts from 20% to 80%")


@pytest.mark.parametrize(("strength", "used"), [(0.5, 0.5), (1.0, 1.0), (5.0, 2.0)])
def test_strength_scales_up_to_the_adapters_most_and_the_null_user_is_silent(strength, used):
    own = adapter()
    own.max_strength = 2.0
    people = torch.stack([PERSON.u, null_user(PERSON).u])
    ((k, v),) = branch_keys_values(own, people, strength, [3])
    ((plain_k, plain_v),) = own.keys_values(PERSON.u[None], [3])
    torch.testing.assert_close(k[:1], plain_k)
    torch.testing.assert_close(v[:1], used * plain_v)
    assert not v[1].any()
    said, facts = describe(own, [PERSON], strength, cfg=4.0).split("\n")
    most = " (acts as 2, this adapter's most)" if strength == 5.0 else ""
    assert said == f"Paints for 4 picks at strength {strength:g}{most}."
    assert f"times cfg 4 = {4 * used:g}" in facts and facts.endswith("read by pocket; length of the taste 5.00.)")


@pytest.mark.parametrize(
    ("picks", "said"),
    [
        ([4], "Paints for 4 picks at strength 1."),
        ([1], "Paints for 1 pick at strength 1. Weak so far: pick more."),
        ([0], "Paints for the average person, since there are no picks yet, at strength 1. Weak so far: pick more."),
        ([9, 3], "Paints for 2 people, of 9 picks and 3 picks, at strength 1. Weak so far: pick more."),
    ],
)
def test_the_first_line_is_for_people(picks, said):
    people = [replace(PERSON, pairs=number) for number in picks]
    assert describe(adapter(), people, 1.0).split("\n")[0] == said


def test_what_is_off_says_why():
    own = adapter()
    assert describe(own, [PERSON], 0.0) == "Personalization is off: strength is 0."
    assert reason_to_be_off(own, [null_user(PERSON)] * 2, 1.0, Scope()) == "the null user paints as the base"
    assert reason_to_be_off(own, [null_user(PERSON), PERSON], 1.0, Scope()) is None


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, 1e30, "1"])
def test_a_strength_that_is_no_number_is_refused(strength):
    with pytest.raises(ValueError, match="Expected a number from -100 to 100 as strength, got"):
        off_for_anybody(strength, Scope())


@pytest.mark.parametrize("percent", [math.nan, math.inf, -0.1, 1.1])
@pytest.mark.parametrize("name", ["start_percent", "end_percent"])
def test_a_window_outside_of_the_schedule_is_refused(name, percent):
    with pytest.raises(ValueError, match=f"Expected a number from 0 to 1 as {name}, got {percent}"):
        Scope(**{name: percent})


def test_an_outcome_of_two_runs_counts_both():
    first, second = Outcome(4, 0, 0, 7, "layers", (0.0, 0.5)), Outcome(6, 3, 7, 7, "layers", (0.0, 0.5))
    assert first.told().startswith("No step was personal: raise denoise or end_percent.")
    assert (first + second).told() == "Personal were 3 of 10 calls of the model, in 7 of 7 layers."
