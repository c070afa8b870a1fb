"""The explanation as a whole, and in words."""

import json
from dataclasses import asdict

import pytest
import torch

from ppd.encoders.encoder import Told
from ppd.explain.influence import fit, leans, otherwise, parts_of, some, without
from ppd.explain.report import explain, in_words, share, what_if, what_if_in_words

from .people import a_prior, picks, some_looks


def likes_look_0(n=24, seed=0):
    return picks(3 * some_looks().readings[0], n, seed)


def test_every_number_is_the_engines():
    prior, looks, told = a_prior(), some_looks(), likes_look_0()
    found = explain(prior, looks, told)
    parts, lean = parts_of(prior, told), leans(looks, prior.noise)
    assert (found.answers, len(found.looks)) == (24, 3)
    one = found.looks[0]
    assert (one.statement.name, one.statement.state, one.leans_to) == ("look 0", "sure", "more 0")
    assert one.lean == pytest.approx(float(lean[0] @ parts.u)) and one.least < one.lean < one.most
    assert one.of_people == pytest.approx(float(lean[0] @ prior.mean.double()), rel=1e-5)
    adds = parts.parts @ lean[0]
    assert [cause.answer for cause in one.causes[:3]] == adds.argsort(descending=True)[:3].tolist()
    assert one.causes[3].answer == int(adds.argmin()) and one.causes[3].adds < 0
    left = without(prior, told, [one.causes[0].answer]) @ lean[0]
    assert one.causes[0].without == pytest.approx(float(left))
    assert one.course[-1][1] == pytest.approx(one.lean) and len(one.course) == len(found.points)
    assert found.drift == ()
    json.dumps(asdict(found))


def test_what_belongs_to_no_moment_is_in_u_and_not_in_the_course():
    prior, looks, told = a_prior(), some_looks(), likes_look_0()
    is_dated = torch.arange(24) >= 4
    found = explain(prior, looks, told, is_dated)
    assert found.answers == 24 and found.points[-1] == 20
    later = fit(prior, some(told, is_dated))[0]
    assert found.looks[0].course[-1][1] == pytest.approx(float(leans(looks, 1.0)[0] @ later))


def test_drift_counts_all_answers():
    prior, looks, likes = a_prior(), some_looks(), 3 * some_looks().readings[0]
    rows = torch.stack([-likes if 10 <= number < 30 else likes for number in range(50)])
    found = explain(prior, looks, picks(rows), torch.arange(50) >= 10)
    assert found.drift[0].look == "look 0" and abs(found.drift[0].since - 30) <= 4


def test_what_if_is_the_fit_of_the_other_answer():
    prior, looks, told = a_prior(), some_looks(), likes_look_0(8)
    found = what_if(prior, looks, told, 3)
    lean = leans(looks, prior.noise)
    before, after = fit(prior, told)[0], fit(prior, otherwise(told, 3))[0]
    assert [one.lean_before for one in found.all] == pytest.approx((lean @ before).tolist())
    assert [one.lean_after for one in found.all] == pytest.approx((lean @ after).tolist())
    assert 0 < found.decided < 0.5
    assert set(found.said) <= set(found.all)
    for one in found.all:
        changed = (one.before.state, one.before.prefers) != (one.after.state, one.after.prefers)
        assert changed == (one in found.said)


def test_words():
    prior, looks, told = a_prior(), some_looks(), likes_look_0()
    lines = in_words(explain(prior, looks, told))
    assert lines[0] == "Of 24 picks."
    assert lines[1].startswith("look 0: more 0. Of 100 pairs that differ in it: ")
    assert lines[2].startswith("  Picks that say so: ") and "(without it " in lines[2]
    assert in_words(explain(prior, looks, Told(*(part[:0] for part in told)))) == [
        "No picks yet, so there is nothing to explain."
    ]
    said = what_if_in_words(what_if(prior, looks, likes_look_0(4), 1), 1)
    assert said[0].startswith("Had pick 2 been the other one, ")
    assert (share(0), share(3), share(-3)) == (50, 95, 5)
