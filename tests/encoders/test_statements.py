"""Statements: joint, not marginal; mirrored by swapped picks; silent of what was not asked."""

import pytest
import torch

from ppd.encoders.looks import Looks
from ppd.encoders.statements import asked_of, statements, would_ask

READINGS = torch.eye(4)[:3]


def looks_of(readings=READINGS):
    k = len(readings)
    names, low, high = (tuple(f"{word} {i}" for i in range(k)) for word in ("look", "less", "more"))
    return Looks(names, low, high, steps=readings, readings=readings, reliability=torch.ones(k))


def picks(weights, n, *, correlated=0.0, seed=0):
    """Differences [n, 4] as picked by weights [3] over the first coordinates, of which the first two go together."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * 2**0.5
    x[:, 1] = correlated * x[:, 0] + (1 - correlated**2) ** 0.5 * x[:, 1]
    return x * torch.sign(x[:, :3] @ torch.tensor(weights))[:, None]


def states(found):
    return [(one.state, one.prefers) for one in found]


def test_no_picks_and_everything_is_not_asked_yet():
    found = statements(looks_of(), torch.empty(0, 4))
    assert states(found) == [("not asked yet", "")] * 3
    for one in found:
        assert one.probability_low == one.probability_high == pytest.approx((0.4 + 2 * 0.3 + 3 * 0.2) / 3 / 2)
        assert one.mean == 0 and one.least == -one.most and one.asked == 0 and one.instead == ()


def test_a_look_that_goes_along_with_the_liked_one_is_explained_away():
    """The second look is .9 correlated with the first, which alone is picked by: by itself it explains 24 of 30."""
    x = picks([1.0, 0.0, 0.0], 30, correlated=0.9)
    assert int((x[:, 1] > 0).sum()) == 24
    found = statements(looks_of(), x)
    assert states(found) == [("sure", "more 0"), ("unknown", ""), ("unknown", "")]
    assert found[0].probability_high > 0.97 and found[1].probability < 0.35
    assert found[0].least > 0 and found[1].least < 0 < found[1].most


def test_looks_that_have_never_been_apart_are_not_told_apart():
    """Twelve pickers of pictures that are always both: one of both surely, neither by itself."""
    x = picks([1.0, 0.0, 0.0], 12, correlated=1.0)
    first, second, third = statements(looks_of(), x)
    assert first.state != "sure" and second.state != "sure"
    assert first.probability_high == pytest.approx(second.probability_high, abs=1e-6)
    assert (first.instead, second.instead, third.instead) == (("look 1",), ("look 0",), ())


def test_somebody_with_three_looks_is_known_by_all_three():
    found = statements(looks_of(), picks([1.0, -1.0, 1.0], 60))
    assert states(found) == [("sure", "more 0"), ("sure", "less 1"), ("sure", "more 2")]


def test_swapped_picks_turn_every_statement_round():
    x = picks([1.0, 0.5, 0.0], 9, correlated=0.5)
    for one, other in zip(statements(looks_of(), x), statements(looks_of(), -x), strict=True):
        assert one.probability_high == pytest.approx(other.probability_low, rel=1e-9)
        assert (one.mean, one.least, one.most) == pytest.approx((-other.mean, -other.most, -other.least), rel=1e-9)
        assert (one.state, one.asked, one.instead) == (other.state, other.asked, other.instead)


def test_what_the_pairs_never_varied_is_not_asked_yet_and_told_by_candidates_that_do():
    """Twelve picks of the darker of pairs that were as bright as each other: nothing is said of brightness."""
    x = picks([0.0, -1.0, 0.0], 12)
    x[:, 2] *= 0.05
    found = statements(looks_of(), x)
    assert states(found)[1:] == [("sure", "less 1"), ("not asked yet", "")]
    candidates = torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 1.5, 0], [0, 0, -1.5, 1.0], [0, 0, 1.3, 0]])
    assert would_ask(looks_of(), asked_of(looks_of(), x), candidates).tolist() == [False, False, True, True, False]
    everything = asked_of(looks_of(), picks([0.0, -1.0, 0.0], 12))
    assert not would_ask(looks_of(), everything, candidates).any()


def test_effects_are_log_odds_for_one_step():
    """A reading of twice the length reads the same step from half as far: its effect per step is half."""
    x = picks([1.0, 0.0, 0.0], 20)
    half, one = statements(looks_of(READINGS * 2), x)[0], statements(looks_of(), x)[0]
    assert half.mean == pytest.approx(one.mean / 2) and half.least == pytest.approx(one.least / 2)
    assert half.probability_high == pytest.approx(one.probability_high)


def test_ties_and_faded_picks_tell_less():
    x = picks([1.0, 0.0, 0.0], 12)
    sure, tied, faded = (
        statements(looks_of(), x, *more)[0].probability_high
        for more in ((), (torch.full((12,), 0.5),), (torch.ones(12), torch.full((12,), 0.1)))
    )
    assert sure > 0.9 > faded > tied and tied < 0.4
    nothing = statements(looks_of(), x, torch.ones(12), torch.zeros(12))[0]
    assert nothing.state == "not asked yet"


def test_of_many_looks_the_true_ones_are_found():
    generator = torch.Generator().manual_seed(3)
    readings = torch.nn.functional.normalize(torch.randn(85, 32, generator=generator), dim=1)
    x = torch.randn(60, 32, generator=generator) * 2**0.5
    x = x * torch.sign(x @ (readings[7] - readings[40]))[:, None]
    found = statements(looks_of(readings), x)
    assert [(one.name, one.prefers) for one in found if one.state == "sure"] == [
        ("look 7", "more 7"),
        ("look 40", "less 40"),
    ]
    nobody = statements(looks_of(readings), x[:0])
    assert sum(one.probability_low + one.probability_high for one in nobody) == pytest.approx(1.6)


def test_picks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"differences \[n, 4\] with an outcome and a weight each, got \[2, 3\]"):
        statements(looks_of(), torch.zeros(2, 3))
