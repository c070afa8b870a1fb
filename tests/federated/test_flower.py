"""The federated prior over Flower: what a studio answers to, and twenty studios with masks, of which one drops out."""

from __future__ import annotations

import importlib.util
import math
import random

import pytest
import torch

from ppd.encoders.population import fit_population
from ppd.federated.flower import MODULUS, rehearse, server_app, steps
from ppd.federated.hiding import Hiding
from ppd.federated.prior import EVIDENCE, SUMS, FederatedPrior, PriorStudio
from ppd.federated.sums import fit_federated, rows
from ppd.privacy import DELTA, Guarantee

D, STUDIOS, LEAST, PEOPLE = 6, 20, 15, 3
flower = pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs requirements-federated.txt")


@pytest.fixture(scope="module")
def studios():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STUDIOS, PEOPLE, 12, D, generator=generator, dtype=torch.float64)
    tastes = 0.5 + torch.randn(STUDIOS, PEOPLE, D, generator=generator, dtype=torch.float64)
    x = torch.where((torch.einsum("spnd,spd->spn", x, tastes) > 0)[..., None], x, -x)
    return [[(row, torch.ones(12).double()) for row in studio] for studio in x]


@pytest.fixture(scope="module")
def public():
    return torch.zeros(D).double(), torch.eye(D).double()


def test_the_server_asks_for_evidence_first_and_then_for_sums(studios):
    """By hand what Flower carries: the prior is that of everybody pooled."""
    task = FederatedPrior(D, 3, PEOPLE, None, None)
    while task.left:
        answers = torch.stack([PriorStudio(people, None).answer(task.ask()) for people in studios])
        assert float(answers.abs().max()) <= task.range == PEOPLE * (EVIDENCE if task.prior is None else SUMS)
        task.take(answers.sum(0))
    torch.testing.assert_close(task.prior, fit_federated(studios, 3), rtol=0, atol=1e-12)


def test_a_studio_that_hides_its_people_gives_no_sums_without_noise(studios, public):
    hiding = Hiding(Guarantee(4.0), LEAST, 2)
    with pytest.raises(ValueError, match="asked for sums without noise"):
        PriorStudio(studios[0], hiding).answer([])
    assert not torch.equal(PriorStudio(studios[0], hiding).answer(public), rows(studios[0], public).sum(0))
    for prior, rounds in ((None, 2), (public, 3)):
        with pytest.raises(ValueError, match="start at a public prior"):
            FederatedPrior(D, rounds, PEOPLE, prior, hiding)


@pytest.mark.parametrize("studios", [2, 3, 20, 1000])
def test_the_sum_of_all_studios_fits_into_the_masks(studios):
    assert MODULUS / 8 <= steps(studios) * studios < MODULUS


def test_without_flower_one_sentence_says_what_to_install(studios, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flwr", None)
    with pytest.raises(ValueError, match="install requirements-federated.txt in an environment of its own"):
        rehearse([PriorStudio(some, None) for some in studios], FederatedPrior(D, 1, PEOPLE, None, None), LEAST)


@flower
def test_a_sum_over_one_studio_is_refused(public):
    task = FederatedPrior(D, 1, PEOPLE, public, None)
    for least in (1, 21):
        with pytest.raises(ValueError, match=f"Expected 2 to 20 studios that must answer, got {least}"):
            server_app(task, STUDIOS, least, done=lambda: None)


def rehearsed(studios, task, hiding=None, noise=None, **options):
    rehearse([PriorStudio(some, hiding, noise) for some in studios], task, **options)
    return task.prior


@flower
@pytest.mark.slow
def test_twenty_studios_with_masks_get_the_pooled_prior_but_for_the_rounding(studios):
    """A number is off by a step times sqrt(20) / 2 at most, on 60 people."""
    found = rehearsed(studios, FederatedPrior(D, 2, PEOPLE, None, None), least=LEAST)
    exact = fit_population([person for people in studios for person in people], 2)
    step = 2 * PEOPLE * SUMS / steps(STUDIOS)
    assert 0 < float((found[0] - exact[0]).abs().max()) < 20 * step / (STUDIOS * PEOPLE) < 1e-6
    torch.testing.assert_close(found, exact, rtol=0, atol=3e-6)


@flower
@pytest.mark.slow
def test_a_studio_that_drops_out_after_the_keys_leaves_the_sums_of_the_others(studios, public):
    task = FederatedPrior(D, 1, PEOPLE, public, None)
    found = rehearsed(studios, task, least=LEAST, absent=lambda studio: studio == 7)
    rest = studios[:7] + studios[8:]
    task = FederatedPrior(D, 1, PEOPLE, public, None)
    task.take(torch.stack([rows(people, public).sum(0) for people in rest]).sum(0))
    torch.testing.assert_close(found, task.prior, rtol=0, atol=3e-6)


@flower
@pytest.mark.slow
def test_noise_reaches_the_server_through_the_masks(studios, public):
    """Four studios are enough: what they send is what the same draws make of their sums."""
    some, hiding = studios[:4], Hiding(Guarantee(8.0), 4, 1)
    task = FederatedPrior(D, 1, PEOPLE, public, hiding)
    found = rehearsed(some, task, hiding, random.Random(0), least=4)
    plain = FederatedPrior(D, 1, PEOPLE, public, None)
    plain.take(torch.stack([rows(people, public).sum(0) for people in some]).sum(0))
    torch.testing.assert_close(found[1], found[1].T)
    assert torch.isfinite(found[0]).all() and float(found[0].norm()) <= hiding.clip
    assert float((found[1] - plain.prior[1]).norm()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "rounds"), [(1.0, 1), (8.0, 1), (1.0, 12), (8.0, 12)])
def test_opacus_finds_the_same_price(epsilon, rounds):
    """Its Renyi accountant bounds from above what has a closed form here."""
    accountants = pytest.importorskip("opacus.accountants", reason="needs requirements-federated.txt")
    hiding, accountant = Hiding(Guarantee(epsilon), 1, rounds), accountants.RDPAccountant()
    multiplier = hiding.sigma / (hiding.clip * math.hypot(1, 0.25))
    for _ in range(rounds):
        accountant.step(noise_multiplier=multiplier, sample_rate=1.0)
    told = accountant.get_epsilon(delta=DELTA)
    assert epsilon < told < 1.2 * epsilon
