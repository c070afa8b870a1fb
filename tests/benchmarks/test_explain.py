"""The benchmark of explanations: its people turn round what they are to turn, and few of them give its figures."""

import json

import numpy as np
import pytest
import torch

from benchmarks import explain
from benchmarks.explain import STRONG, answered, by_drift, by_influence, over_time, tastes
from ppd.encoders.encoder import TasteEncoder
from ppd.explain.influence import leans
from ppd.pocket.studio import WEIGHTS


@pytest.fixture(scope="module")
def encoder():
    return TasteEncoder.load(WEIGHTS / "taste_encoders" / "pocket-flow")


def test_people_are_of_the_prior(encoder):
    found = tastes(encoder.prior, 20_000, 0)
    torch.testing.assert_close(found.mean(0).float(), encoder.prior.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(found.T).float(), encoder.prior.covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("change", ["none", "at once", "bit by bit"])
def test_one_look_turns_round_and_no_other(encoder, change):
    prior, looks = encoder.prior, encoder.looks
    lean = leans(looks, prior.noise)
    deviation = ((lean @ prior.covariance.double()) * lean).sum(1).sqrt()
    course = over_time(tastes(prior, 1, 3)[0], prior, looks, 6, change) @ lean.T / deviation
    turned = int((course[0] - course[-1]).abs().argmax())
    others = [look for look in range(len(looks)) if look != turned or change == "none"]
    torch.testing.assert_close(course[:, others], course[:1, others].expand(6, -1), atol=1e-6, rtol=0)
    if change != "none":
        assert float(course[0, turned].abs()) == pytest.approx(STRONG, rel=1e-5)
        assert float(course[-1, turned]) == pytest.approx(-float(course[0, turned]), rel=1e-5)
        half = {"at once": 1.0, "bit by bit": 0.2}[change]  # the third of six picks
        assert float(course[2, turned] / course[0, turned]) == pytest.approx(half, rel=1e-5)


def test_they_pick_what_they_like(encoder):
    taste = 4 * tastes(encoder.prior, 1, 3)[0]
    (told,) = answered(encoder.prior, taste.expand(1, 200, -1), "random", np.random.default_rng(0))
    assert float((told.differences @ taste > 0).double().mean()) > 0.8


def test_the_report_has_its_figures(encoder, monkeypatch):
    monkeypatch.setattr(explain, "COUNTS", (6,))
    monkeypatch.setattr(explain, "LENGTHS", (16,))
    monkeypatch.setattr(explain, "CANDIDATES", 4)
    report = {"influence": by_influence(encoder.prior, encoder.looks, 3)}
    report["drift"] = by_drift(encoder.prior, encoder.looks, 3)
    report = json.loads(json.dumps(report))
    assert -1 <= report["influence"]["6"]["spearman"]["mean"] <= 1
    assert set(report["drift"]) == {"random", "most telling"}
    for ways in report["drift"].values():
        assert set(ways) == {"none", "at once", "bit by bit"} and "ever told" in ways["none"]["16"]
