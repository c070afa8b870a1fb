"""The comparison of both ways on a tiny model of a real class with random weights: what it does, not how well."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.vlm import accuracy, fit_ridge, main, people_in
from ppd.pairs import PreferencePair, write_pairs
from ppd.pictures import Picture

from ..encoders.towers.vlm_models import write_vlm

pytest.importorskip("transformers")


def flat(rng, warm):
    pixels = rng.integers(60, 190, (28, 28, 3)).astype(np.int16)
    pixels[..., 0] += 60 if warm else -60
    return Picture.from_image(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight people of seven pairs, who like warm pictures or cold ones, a ninth of three, and ties of everybody."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    pairs = []
    for user in range(9):
        for number in range(3 if user == 8 else 7):
            pictures = flat(rng, user % 2 == 0), flat(rng, user % 2 == 1)
            pairs.append(PreferencePair(f"{number}", *pictures, id=f"{user}-{number}", user=f"user {user}"))
        pairs.append(PreferencePair("tie", *pictures, id=f"{user}-tie", user=f"user {user}", tie=True))
    write_pairs(root, pairs)
    return root


def test_people_are_read_with_picks_and_held_out_pairs_that_share_no_picture(folder):
    people = people_in(folder, 2)
    assert len(people) == 8 and {len(person.support) for person in people} == {2}
    for person in people:
        seen = {x.digest for pair in person.support for x in (pair.chosen, pair.rejected)}
        assert len(person.query) == 5 and len({pair.user for part in person for pair in part}) == 1
        assert not seen & {x.digest for pair in person.query for x in (pair.chosen, pair.rejected)}
    ids = [person.support[0].id for person in people]
    assert ids == [person.support[0].id for person in people_in(folder, 2)]
    assert ids != [person.support[0].id for person in people_in(folder, 2, seed=1)]
    with pytest.raises(SystemExit, match="four people or more with 10 pairs each, got 0"):
        people_in(folder, 6)


def test_ridge_finds_a_linear_map_and_shrinks_where_there_is_none():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator).double()
    truth = torch.randn(4, 3, generator=generator).double()
    y = x @ truth + 2
    weights, offset, penalty = fit_ridge(x, y)
    assert penalty == 0.01
    torch.testing.assert_close(weights, truth, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(offset, torch.full((3,), 2.0).double(), rtol=1e-3, atol=1e-3)
    noise = torch.randn(60, 3, generator=generator).double()
    assert fit_ridge(x, noise)[2] >= 100


def test_leave_one_out_is_that_of_fits_that_leave_one_out():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(12, k, generator=generator).double() for k in (3, 2))
    errors = {}
    for penalty in (1.0, 10.0):
        total = 0.0
        for left in range(12):
            rest = [row for row in range(12) if row != left]
            a, b = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean(0)
            weights = torch.linalg.solve(a.T @ a + penalty * torch.eye(3).double(), a.T @ b)
            total += float((y[left] - y[rest].mean(0) - (x[left] - x[rest].mean(0)) @ weights).square().sum())
        errors[penalty] = total
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        hat = (u * (s.square() / (s.square() + penalty))) @ u.T
        ours = (((y - y.mean(0)) - hat @ (y - y.mean(0))) / (1 - hat.diagonal() - 1 / 12)[:, None]).square().sum()
        assert float(ours) == pytest.approx(errors[penalty], rel=1e-9)


def test_accuracy_counts_undecided_picks_half():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [2.0, 5.0]])
    assert accuracy(x, torch.tensor([1.0, 0.0])) == (1 + 0 + 0.5 + 1) / 4


def test_both_ways_are_reported_on_people_that_nothing_was_fitted_on(folder, tmp_path, monkeypatch, capsys):
    model = write_vlm(tmp_path / "qwen", "qwen2_5_vl", layers=2)
    words = ["--model", str(model), "--people", str(folder), "--picks", "2", "--longest", "3"]
    reports = []
    for name in ("first.json", "second.json"):
        file = tmp_path / name
        options = ["--json", str(file), "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr(sys, "argv", ["benchmarks.vlm", *words, *options])
        main()
        reports.append(json.loads(file.read_text()))
    report = reports[0]
    assert report == reports[1] == json.loads("{" + capsys.readouterr().out.split("\n}\n{", 1)[1])
    assert set(report["accuracy"]) == {"population", "linear", "profile", "another's profile"}
    for figure in report["accuracy"].values():
        assert figure["n"] == 4 and 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1
    assert report["settings"]["people"] == {"fitted on": 4, "reported": 4}
    assert report["settings"]["layer"] == 1 and report["settings"]["picks"] == 2 and len(report["examples"]) == 2
    # warm or cold is plain in random features as well, and two picks tell which
    assert report["accuracy"]["linear"]["mean"] > 0.7
