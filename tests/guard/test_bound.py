"""u bound to a guide: nearest in the prior's metric, idempotent, and leaning against no rule."""

from __future__ import annotations

import itertools

import pytest
import torch

from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.guard.bound import bound, nonnegative, told
from ppd.guard.guide import Contrast, Guide, LookRule
from ppd.text_taste import leanings
from ppd.user_embedding import UserEmbedding

D, WORDS, HASH = 6, ("a", "b", "c", "d"), "0" * 64
RULES = (("never", "high a"), ("must", "high b"), ("never", "low c"), ("must", "low d"))


def world(seed):
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(D, D, generator=g)
    readings, steps = torch.randn(2, 4, D, generator=g)
    prior = PopulationPrior(
        torch.zeros(D), root @ root.T / D + 0.1 * torch.eye(D), torch.zeros(7), torch.eye(7, D), "e", "0" * 64
    )
    looks = Looks(
        WORDS, tuple(f"low {w}" for w in WORDS), tuple(f"high {w}" for w in WORDS), steps, readings, torch.ones(4)
    )
    factor = torch.randn(D, D, generator=g)
    u = UserEmbedding(torch.randn(1, D, generator=g), "e", HASH, 4, "2026-01-01", factor)
    rules = tuple(LookRule(level, word, 0.5) for level, word in RULES)
    signs = torch.tensor([1.0, -1, -1, 1])[:, None]
    return u, Guide("g", rules), looks, prior, torch.cat([signs * readings, signs * steps]).double()


def by_trying_every_face(u, a, s):
    """The nearest feasible of the projections on all sets of edges."""
    best = None
    for size in range(D + 1):
        for chosen in itertools.combinations(range(len(a)), size):
            edge = a[list(chosen)]
            v = u - s @ edge.T @ torch.linalg.solve(edge @ s @ edge.T, edge @ u) if size else u
            cost = (v - u) @ torch.linalg.solve(s, v - u)
            if bool((a @ v <= 1e-9).all()) and (best is None or cost < best[0]):
                best = (cost, v)
    return best[1]


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_nearest_taste_that_obeys(seed):
    u, guide, looks, prior, a = world(seed)
    found = bound(u, guide, looks, prior)
    expected = by_trying_every_face(u.u[0].double(), a, prior.covariance.double())
    torch.testing.assert_close(found.embedding.u[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert bool((a @ found.embedding.u[0].double() <= 1e-5).all())
    again = bound(found.embedding, guide, looks, prior)
    assert torch.equal(again.embedding.u, found.embedding.u) and again.held == ()
    against = (a @ u.u[0].double() > 0).view(2, -1).any(0)
    assert found.held == tuple(rule for rule, one in zip(guide.rules, against, strict=True) if one)
    on_edge = (a @ found.embedding.u[0].double()).abs() < 1e-5
    assert on_edge.any()
    for one in (found, again):  # draws lean where u does
        assert (a @ one.embedding.covariance_factor.double()).abs().max() < 1e-4
    assert (found.embedding.pairs, found.embedding.encoder_hash) == (4, HASH)


def test_draws_obey_whatever_rule_the_mean_was_moved_by():
    """Beyond the edges that hold u, too; what is not ruled stays as open as it was."""
    for seed in range(12):
        u, guide, looks, prior, a = world(seed)
        found, rows = bound(u, Guide("g", guide.looks[:2]), looks, prior).embedding, a[[0, 1, 4, 5]]
        draws = found.u.double() + torch.randn(200, D, dtype=torch.float64) @ found.covariance_factor.T.double()
        assert float((draws @ rows.T).max()) < 1e-4
        assert torch.linalg.matrix_rank(found.covariance_factor, rtol=1e-4) == D - 4


def test_what_obeys_already_is_the_same_bit_for_bit():
    u, guide, looks, prior, _ = world(0)
    for one in (
        UserEmbedding(torch.zeros(1, D), "e", HASH, 0, "2026-01-01"),
        bound(u, guide, looks, prior).embedding,
    ):
        assert torch.equal(bound(one, guide, looks, prior).embedding.u, one.u)
    free = Guide("g", (LookRule("should", "high a", 0.5), Contrast("must", 3)))
    assert bound(u, free, looks, prior).embedding is u
    assert told(bound(u, free, looks, prior), free).startswith("The guide g has no looks")


def test_opposite_and_repeated_rules_leave_the_look_alone():
    u, _, looks, prior, a = world(3)
    guide = Guide(
        "g", tuple(LookRule(*one) for one in (("never", "high a", 1), ("never", "low a", 2), ("must", "low a", 3)))
    )
    found = bound(u, guide, looks, prior)
    for face in (looks.readings[0], looks.steps[0]):
        assert abs(float(face @ found.embedding.u[0])) < 1e-5
    assert "must: low a, by 3 of the look's steps: it leaned the other way, and now does not." in told(found, guide)


def test_no_words_are_left_of_a_look_that_must_never_be():
    """Its effect is rounding, and so is how sure it is: without a limit it would be named as sure."""
    u, guide, looks, prior, _ = world(0)
    named = {one.look.id: one for one in leanings(bound(u, guide, looks, prior).embedding, looks, 1.0, {})}
    assert [named[word].effect for word in WORDS].count(0.0) >= 1
    for rule, word in zip(guide.rules, WORDS, strict=True):
        one = named[word]
        liked, wanted = one.liked.name == rule.word, rule.level == "must"
        assert not one.effect or liked == wanted


def test_nonnegative_least_squares_as_scipys():
    from scipy.optimize import nnls

    rng = torch.Generator().manual_seed(4)
    for _ in range(20):
        a, b = torch.randn(9, 6, generator=rng).double(), torch.randn(9, generator=rng).double()
        expected, _ = nnls(a.numpy(), b.numpy())
        torch.testing.assert_close(nonnegative(a.T @ a, a.T @ b), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_what_a_semidefinite_gram_cannot_reach_stays_at_0():
    """Least squares end also where there is no least: of random ones of rank 1 to 5 some went round forever."""
    gram = torch.diag(torch.tensor([2.0, 0.0])).double()
    assert nonnegative(gram, torch.ones(2).double()).tolist() == [0.5, 0.0]
    assert nonnegative(0 * gram, torch.ones(2).double()).tolist() == [0.0, 0.0]
    rng = torch.Generator().manual_seed(5)
    for number in range(200):
        a, target = torch.randn(8, 1 + number % 5, generator=rng).double(), torch.randn(8, generator=rng).double()
        x = nonnegative(a @ a.T, target)
        assert bool((x >= 0).all()) and float(x @ a @ a.T @ x / 2 - x @ target) <= 0
