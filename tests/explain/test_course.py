"""The course of a taste, and drift: told of who turns round, seldom of who stays."""

import pytest
import torch

from ppd.encoders.encoder import Told
from ppd.explain.course import ALARM, POINTS, change_points, course, drifts, first
from ppd.explain.influence import fit, leans
from ppd.store import fade

from .people import a_prior, picks, some_looks


def turning_round(n=40, at=20, seed=0):
    """Somebody who likes more of look 0 until `at`, and less of it from then on."""
    likes = 3 * some_looks().readings[0]
    return picks(torch.stack([likes if number < at else -likes for number in range(n)]), seed=seed)


def test_the_course_is_the_posterior_of_the_first_answers():
    prior, looks, told = a_prior(), some_looks(), turning_round(10)
    found = course(prior, looks, told)
    assert found.answers == list(range(11))
    lean = leans(looks, prior.noise)
    torch.testing.assert_close(found.lean[0], lean @ prior.mean.double())
    torch.testing.assert_close(found.lean[-1], lean @ fit(prior, told)[0])
    torch.testing.assert_close(found.lean[4], lean @ fit(prior, Told(*(part[:4] for part in told)))[0])
    assert (found.least < found.lean).all() and (found.lean < found.most).all()
    assert (found.most - found.least)[0].sum() > (found.most - found.least)[-1].sum()
    long = course(prior, looks, turning_round(60))
    assert len(long.answers) == POINTS and (long.answers[0], long.answers[-1]) == (0, 60)
    assert course(prior, looks, Told(*(part[:0] for part in told))).answers == [0]


def test_the_first_answers_are_faded_as_they_were():
    told = turning_round(8)._replace(weights=torch.tensor(fade(8, 3.0)))
    torch.testing.assert_close(first(told, 5).weights, torch.tensor(fade(5, 3.0)))
    assert len(first(told, 0).weights) == 0


def test_somebody_who_turns_round_is_told_of_where_and_what_to_fade_by():
    prior, looks = a_prior(), some_looks()
    found = drifts(prior, looks, turning_round())
    one = found[0]
    assert one.look == 0 and abs(one.since - 20) <= 4 and one.p <= ALARM
    assert one.before > 0.5 and one.now < -0.5
    assert one.half_life == 40 - one.since
    faded = turning_round()._replace(weights=torch.tensor(fade(40, 5.0)))
    assert drifts(prior, looks, faded) == found  # fading hides nothing


def test_false_alarms_and_power():
    """60 people each, 40 picks: who stays is told of a drift about as seldom as ALARM says, who turns round mostly."""
    prior, looks = a_prior(), some_looks()
    generator = torch.Generator().manual_seed(9)
    stays = sum(
        bool(drifts(prior, looks, picks(1.5 * torch.randn(6, generator=generator), 40, seed))) for seed in range(60)
    )
    turns = sum(bool(drifts(prior, looks, turning_round(seed=seed))) for seed in range(60))
    assert stays <= 4 and turns >= 50, (stays, turns)


def test_too_few_answers_tell_no_drift():
    assert drifts(a_prior(), some_looks(), turning_round(7, 4)) == []


def test_the_change_is_where_scores_change():
    scores = torch.zeros(30, 2).double()
    scores[:12, 1] = 1
    scores += 0.1 * torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    at, p = change_points(scores, 999)
    assert int(at[1]) == 12 and float(p[1]) == pytest.approx(0.001) and float(p[0]) > 0.1
    assert float(change_points(torch.ones(10, 1))[1]) == 1  # nothing changes
