"""User-DPO's switches on a linear denoiser whose errors can be reckoned by hand."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch

from ppd.training.objective import UserDPO
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

PEOPLE, PICTURES = 4, 6


class Line:
    """Predicts the noise as the noised picture moved by a * u: a denoiser of pictures of two numbers, and its host."""

    device = torch.device("cpu")

    def __init__(self):
        self.adapter, self.moved, self.seen = torch.tensor(0.5, requires_grad=True), None, []
        self.sizes: list[int] = []

    def text(self, prompts):
        return torch.zeros(len(prompts), 1)

    def draw_timesteps(self, rng, count, end_percent):
        return torch.from_numpy(rng.random(count)).float() * end_percent

    def noised(self, x0, noise, t):
        self.seen.append(noise)
        return x0 + t[:, None] * noise

    def target(self, x0, noise, t):
        return noise

    def predict(self, x, t, context):
        self.sizes.append(len(x))
        return x if self.moved is None else x + self.adapter * self.moved

    @contextmanager
    def personalized(self, u):
        self.moved = u[:, 0]
        yield
        self.moved = None

    def plain_attention(self):
        return nullcontext()


def picks(**given):
    generator = torch.Generator().manual_seed(0)
    chosen = np.array([0, 1, 2, 3, 4, 5, 0, 2])
    return QueryPicks(
        torch.randn(PICTURES, 2, generator=generator),
        person=np.arange(8) % PEOPLE,
        chosen=chosen,
        rejected=(chosen + 1) % PICTURES,
        caption=np.zeros(8, np.int64),
        embeddings=torch.randn(3, PEOPLE, 2, generator=generator),
        population=torch.zeros(2),
        prompts=("",),
        **given,
    )


class Fixed:
    """Draws the same whatever was drawn before."""

    def integers(self, low, high=None, size=None):
        return np.random.default_rng(0).integers(low, high, size)

    def random(self, size):
        return np.full(size, 0.5)


def dpo(objective, **given):
    line: Any = Line()
    return UserDPO(line, line, picks(**given), line.text([""]), objective, 0.5)


def loss(objective, seed=1, **given):
    torch.manual_seed(seed)
    return dpo(objective, **given).loss(np.random.default_rng(seed), 64)


SCORES = torch.tensor([[3.0, 0, 3, 0, 3, 0], [0, 3, 0, 3, 0, 3], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 9]])


def test_labels_of_simulated_people_are_their_probabilities():
    found = picks(scores=SCORES)
    # Person i says of the pictures i and i + 1
    torch.testing.assert_close(found.labels(np.arange(4)), torch.sigmoid(torch.tensor([3.0, 3.0, 0.0, 0.0])))
    assert picks().labels(np.arange(8)).tolist() == [1.0] * 8
    sure = torch.full((8,), 0.7)
    torch.testing.assert_close(picks(scores=SCORES, certainty=sure).labels(np.arange(8)), sure)


def test_the_other_of_a_contrast_is_who_disagrees_most():
    rng = np.random.default_rng(0)
    assert picks(scores=SCORES).others(np.array([0, 1]), rng, drawn=64).tolist() == [1, 0]
    strangers = picks().others(np.arange(8), rng)
    assert (strangers != np.arange(8) % PEOPLE).all()


def test_both_pictures_of_a_pair_have_one_t_one_noise_and_one_text():
    found = replace(dpo(Objective(user_dropout=0.5)), texts=torch.arange(8.0)[:, None])
    found.picks.caption[:] = np.arange(8)
    noised = found.noised(np.random.default_rng(0), np.array([3, 6, 1]))
    assert torch.equal(noised.t[:3], noised.t[3:]) and torch.equal(noised.target[:3], noised.target[3:])
    assert noised.context[:, 0].tolist() == [3, 6, 1, 3, 6, 1]


def test_pictures_are_noised_along_the_noise_that_they_were_painted_from():
    noise = torch.arange(PICTURES * 2.0).view(PICTURES, 2)
    for wanted in (True, False):
        found = dpo(Objective(true_noise=wanted), noise=noise)
        found.noised(np.random.default_rng(0), np.array([1, 5]))
        seen = found.denoiser.seen[0]
        if wanted:
            assert torch.equal(seen, noise[[1, 5, 2, 0]])
        else:
            assert torch.equal(seen[:2], seen[2:]) and not torch.equal(seen[:2], noise[[1, 5]])


def test_a_steered_beta_gives_the_typical_margin_the_wanted_gradient_factor():
    found = dpo(Objective(steered_beta=True))
    noised = found.noised(np.random.default_rng(0), np.arange(8))
    reference, policy = found.reference(noised), found.policy(noised, found.picks.embeddings[0, [0, 1] * 4])
    margin = (policy.chosen - policy.rejected) - (reference.chosen - reference.rejected)
    expected = 2 * log(4) / margin.abs().mean().item()
    assert found.beta(policy, reference) == pytest.approx(min(max(expected, 0.02), 2.0))
    assert 0.02 < found.beta(policy, reference)
    assert found.beta(reference, reference) == 2.0  # at birth, 1 for each of two numbers
    assert dpo(Objective(beta=7.0)).beta(policy, reference) == 7.0
    assert dpo(Objective()).beta(policy, reference) == pytest.approx(0.2)


def test_soft_labels_lower_what_a_doubtful_pick_counts():
    hard, _ = loss(Objective(beta=1.0, contrast=0.0, soft_labels=False), scores=SCORES)
    soft, _ = loss(Objective(beta=1.0, contrast=0.0), scores=SCORES)
    plain, _ = loss(Objective(beta=1.0, contrast=0.0))
    assert hard.item() == plain.item() != soft.item()


def test_the_contrast_pays_for_a_gap_between_ones_own_u_and_anothers():
    plain, without = loss(Objective(beta=1.0, contrast=0.0))
    more, figures = loss(Objective(beta=1.0, contrast=2.0))
    assert "own_over_other" not in without and 0 <= figures["own_over_other"] <= 1
    assert more.item() > plain.item()


def test_the_contrast_of_people_who_are_all_the_same_is_log_2():
    one = replace(picks(), embeddings=picks().embeddings[:1, :1].expand(1, PEOPLE, 2))
    line: Any = Line()
    fixed: Any = Fixed()
    objective = Objective(beta=1.0, contrast=2.0)
    values = []
    for contrast in (0.0, 2.0):
        torch.manual_seed(1)
        run = UserDPO(line, line, one, line.text([""]), replace(objective, contrast=contrast, user_dropout=0.0), 0.5)
        values.append(run.loss(fixed, 8)[0].item())
    assert values[1] - values[0] == pytest.approx(2 * log(2))


def test_a_pick_with_a_soft_label_has_no_contrast_and_costs_no_second_pass():
    certainty = torch.tensor([0.7, torch.nan, 1.0, 0.6, torch.nan, 0.9, 1.0, torch.nan])
    hard = [1, 2, 4, 6, 7]
    found: Any = dpo(Objective(beta=1.0, user_dropout=0.0), certainty=certainty)
    found.loss(np.random.default_rng(1), 64)
    index, _ = found.draw(np.random.default_rng(1), 64)
    assert found.denoiser.sizes == [128, 128, 2 * np.isin(index, hard).sum()]
    soft, _ = loss(Objective(beta=1.0, contrast=0.0), scores=SCORES)
    both, figures = loss(Objective(beta=1.0), scores=100 * SCORES)
    assert "own_over_other" not in figures  # also where a person is as good as sure
    both, figures = loss(Objective(beta=1.0), scores=SCORES)
    assert both.item() == soft.item() and "own_over_other" not in figures


def test_a_contrast_is_taken_at_the_noise_and_the_text_of_its_own_pick():
    """With everybody the same, each pass of the policy on a hard pick repeats its first one: all gaps are 0."""
    certainty = torch.tensor([0.7, torch.nan, 1.0, 0.6, torch.nan, 0.9, 1.0, torch.nan])
    line: Any = Line()
    one = replace(picks(certainty=certainty), embeddings=picks().embeddings[:1, :1].expand(1, PEOPLE, 2))
    objective = Objective(beta=1.0, user_dropout=0.0)
    values = []
    for contrast in (0.0, 2.0):
        run = UserDPO(line, line, one, line.text([""]), replace(objective, contrast=contrast), 0.5)
        torch.manual_seed(1)
        values.append(run.loss(np.random.default_rng(1), 64)[0].item())
    index, _ = run.draw(np.random.default_rng(1), 64)
    share = np.isin(index, [1, 2, 4, 6, 7]).mean()
    assert values[1] - values[0] == pytest.approx(2 * log(2) * share)


def test_the_population_adapter_has_no_contrast():
    line: Any = Line()
    found = UserDPO(line, line, picks(), line.text([""]), Objective(beta=1.0, contrast=2.0), 0.5, personal=False)
    value, figures = found.loss(np.random.default_rng(0), 8)
    assert value.item() == pytest.approx(log(2)) and "own_over_other" not in figures  # the population's u is 0
