"""Asking and duels in the pocket world, on pictures that are rendered, since painting a pool takes minutes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks import asking, interview
from benchmarks.asking import ARMS, by_accuracy, by_duel, by_painting, picks_needed, table
from benchmarks.interview import Gallery, Painter, Questions, disjoint_pairs, draw_questions, duel
from ppd.encoders.posterior import fit_posterior
from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import picture_statistics, reward_statistics
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool
from ppd.questions import NEWEST

PICTURES, CAPTIONS, SIZE, FRESH = 240, 41, 60, 50


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interview, "SIZE", SIZE)
    monkeypatch.setattr(interview, "FRESH", FRESH)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The shipped weights and a pool of rendered pictures."""
    recipe, rng = Recipe(tmp_path_factory.mktemp("work"), WEIGHTS), np.random.default_rng(0)
    captions = np.arange(PICTURES) % CAPTIONS
    rendered = [
        scenes.render(scenes.TRAINING_CAPTIONS[caption], scenes.random_style(rng), seed)
        for seed, caption in enumerate(captions)
    ]
    pictures = to_tensor(np.stack(rendered))
    features = torch.cat([recipe.encoder.image_tensor_features(part) for part in pictures.split(60)])
    recipe.pool = Pool(captions, reward_statistics(recipe.whitening, picture_statistics(pictures)), features)
    return recipe


@pytest.fixture(scope="module")
def people(recipe: Recipe) -> People:
    reporting = recipe.people["reporting"]
    return People(reporting.weights[:60], reporting.types[:60])


@pytest.fixture
def gallery(recipe: Recipe, tmp_path) -> Gallery:
    """Two people with two pictures each, painted in few steps."""
    return Gallery.open(Painter(recipe, tmp_path, steps=2), 2).part(2, 2)


def draw(recipe: Recipe, people: People, number: int = 0) -> Questions:
    return draw_questions(recipe.pool, people, recipe.prior, number)


def test_pairs_are_of_one_caption_and_share_no_picture(recipe):
    pairs = disjoint_pairs(recipe.pool, np.random.default_rng(0))
    captions = recipe.pool.captions[pairs]
    assert (captions[:, 0] == captions[:, 1]).all()
    assert len(np.unique(pairs)) == pairs.size
    counts = np.bincount(recipe.pool.captions)
    assert len(pairs) == (counts // 2).sum() and (counts % 2).any()


@pytest.mark.parametrize("arm", ARMS)
def test_the_posterior_is_the_fit_of_the_picks(recipe, people, arm):
    questions, prior = draw(recipe, people), recipe.prior
    means, asked = interview.interview(questions, prior, ARMS[arm], 7)
    assert torch.equal(means[0], prior.mean.double().expand(60, -1))
    assert all(len(set(row)) == 7 for row in asked.tolist())
    for person in (0, 59):
        signs = torch.where(questions.first[person, asked[person]], 1.0, -1.0)[:, None]
        x = questions.differences[person, asked[person]] * signs
        direct, _ = fit_posterior(x, torch.ones(7), prior.mean.double(), prior.covariance.double())
        torch.testing.assert_close(means[-1, person], direct)


def test_the_panels_first_two_questions_are_the_most_telling_and_the_third_of_the_newest(recipe, people):
    questions = draw(recipe, people)
    _, panel = interview.interview(questions, recipe.prior, ARMS["as the panel asks"], 6)
    _, telling = interview.interview(questions, recipe.prior, ARMS["most telling"], 2)
    assert torch.equal(panel[:, :2], telling)
    for third in (2, 5):
        for row in panel.tolist():
            assert row[third] in sorted(set(range(SIZE)) - set(row[:third]))[-NEWEST:]


def test_seeds_repeat_exactly(recipe, people):
    first, again, other = draw(recipe, people), draw(recipe, people), draw(recipe, people, 1)
    assert torch.equal(first.differences, again.differences) and torch.equal(first.first, again.first)
    assert not torch.equal(first.first, other.first)
    (means, asked), (same, asked_again) = (
        interview.interview(one, recipe.prior, ARMS["most telling"], 4) for one in (first, again)
    )
    assert torch.equal(means, same) and torch.equal(asked, asked_again)


def test_answers_do_not_depend_on_the_size_of_the_pool(recipe, people):
    questions = draw(recipe, people)
    part = questions.of(10)
    assert part.differences.shape[:2] == part.first.shape == (60, 10)
    assert torch.equal(part.first, questions.first[:, :10]) and torch.equal(part.fresh, questions.fresh)


def test_asking_well_beats_asking_at_random(recipe, people):
    """60 people, 60 candidates, 6 picks: accuracy on fresh pairs, mean of three draws."""
    found = {}
    for arm, ask in ARMS.items():
        drawn = [draw(recipe, people, number) for number in range(3)]
        rows = [one.accuracy(interview.interview(one, recipe.prior, ask, 6)[0][-1]) for one in drawn]
        found[arm] = float(np.mean(rows))
    assert found["random"] > 0.7
    assert found["most telling"] > found["random"] + 0.015, found


def test_the_fewest_picks_that_reach_the_reference():
    reached = np.tile([0.5, 0.6, 0.8, 0.7], (9, 1))
    assert picks_needed(reached, (2, 4, 6, 8), np.full(9, 0.6)) == {"mean": 4, "low": 4, "high": 4, "n": 9}
    assert picks_needed(reached, (2, 4, 6, 8), np.full(9, 0.9))["mean"] == 9  # one more than any
    pictures = np.repeat(reached[..., None], 3, 2)
    assert picks_needed(pictures, (2, 4, 6, 8), np.full((9, 3), 0.8))["mean"] == 6


def test_the_duels_posterior_is_the_fit_of_its_picks_and_repeats_exactly(gallery, tmp_path):
    (_, _, gap), (u, differences, _) = islice(duel(gallery), 2)
    prior = gallery.painter.recipe.prior
    assert u.shape == (2, prior.dim) and differences.shape == (2, 2, prior.dim) and (gap > 0).all()
    direct, _ = fit_posterior(differences[1], torch.ones(2), prior.mean.double(), prior.covariance.double())
    torch.testing.assert_close(u[1].double(), direct, rtol=1e-5, atol=1e-6)
    elsewhere = Painter(gallery.painter.recipe, tmp_path / "elsewhere", steps=2)
    _, (again, _, _) = islice(duel(replace(gallery, painter=elsewhere)), 2)
    assert torch.equal(u, again)


def test_the_null_user_ties_with_the_base_and_paintings_are_kept(gallery):
    assert (gallery.wins(torch.zeros(2, 2, gallery.painter.recipe.prior.dim)) == 0.5).all()
    files = sorted(gallery.painter.folder.iterdir())
    assert len(files) == 4  # two pictures, once for us and once by the base
    times = [file.stat().st_mtime_ns for file in files]
    gallery.wins(torch.zeros(2, 2, gallery.painter.recipe.prior.dim))
    assert [file.stat().st_mtime_ns for file in sorted(gallery.painter.folder.iterdir())] == times


def test_the_report_has_its_figures(recipe, people, gallery, monkeypatch):
    monkeypatch.setattr(asking, "SIZES", (SIZE, 20))
    monkeypatch.setattr(asking, "PAINTED", {"random": (16,), "most telling": (2, 3)})
    monkeypatch.setattr(asking, "DUELS", (1, 2))
    few = People(people.weights[:5], people.types[:5])
    report = {
        "accuracy": by_accuracy(recipe.pool, few, recipe.prior, draws=1),
        "painted": by_painting(gallery, recipe.pool, recipe.prior),
        "duel": by_duel(gallery, recipe.pool, recipe.prior),
        "seconds": asking.seconds_to_choose(50, 5, 4, rounds=2),
    }
    report = json.loads(json.dumps(report))
    assert set(report["accuracy"]) == {str(SIZE), "20"}
    for arms in report["accuracy"].values():
        assert set(arms) == set(ARMS)
        assert arms["random"]["picks_needed"]["mean"] <= 16
        assert set(arms["random"]["accuracy"]["16"]) == {"mean", "low", "high", "n"}
    assert set(report["painted"]["most telling"]["win_rate"]) == {"2", "3"}
    assert report["painted"]["random"]["less_random"]["16"]["mean"] == 0
    assert set(report["duel"]) == {"random pairs", "duel"}
    assert set(report["duel"]["duel"]) == {"win_rate", "less_random", "reward_gap"}
    assert report["seconds"]["candidates"] == 50
    assert "picks needed" in table(report) and "are apart by" in table(report)
