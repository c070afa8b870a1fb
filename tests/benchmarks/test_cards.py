"""The tables of README and model cards: what they say is what was measured, of the weights that ship."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from benchmarks.all import ROOT
from benchmarks.cards import PAGES, TABLE, TABLES, main, read_figures, short


def test_the_pages_say_what_the_figures_say():
    assert main(["--check"]) == 0
    names = [name for page in PAGES for _, name, _ in TABLE.findall((ROOT / page).read_text(encoding="utf-8"))]
    assert len(names) == len(set(names)) == 12 and names[0] == "readme"
    assert {name.rpartition(" ")[2] for name in names[1:]} == set(TABLES)


@pytest.fixture
def copy(tmp_path):
    for name in (
        *PAGES,
        "docs/figures/few_picks-pocket.json",
        "docs/figures/few_picks-flow.json",
        "weights/figures/pocket.json",
        "weights/figures/pocket-flow.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_other_figures_are_told_by_check_and_written_by_the_command(copy, capsys):
    path = copy / "weights" / "figures" / "pocket.json"
    figures = json.loads(path.read_text())
    figures["wins_vs_base"] |= {"mean": 0.123, "low": -0.0004, "high": 0.456}
    path.write_text(json.dumps(figures))
    before = [(copy / page).read_text() for page in PAGES]
    assert main(["--check", "--root", str(copy)]) == 1
    assert "README.md, weights/README.md: tables differ from the figures" in capsys.readouterr().err
    assert [(copy / page).read_text() for page in PAGES] == before
    assert main(["--root", str(copy)]) == main(["--check", "--root", str(copy)]) == 0
    changed = [
        set((copy / page).read_text().splitlines()) - set(old.splitlines())
        for page, old in zip(PAGES, before, strict=True)
    ]
    assert changed == [
        {"| the personal picture to the model's own | 12 % | 0 to 46 | 85 % | 81 to 89 |"},
        {"| wins vs base | .12 | .00 to .46 | .99 | .80 |"},
    ]


def test_picks_that_the_tab_asked_are_the_benchmarks(copy):
    path = copy / "docs" / "figures" / "few_picks-flow.json"
    kept = json.loads(path.read_text())
    kept["figures"]["as the panel asks"]["painted"]["own_vs_other"] = {"mean": 0.5, "low": 0.25, "high": 0.75}
    path.write_text(json.dumps(kept))
    assert main(["--root", str(copy)]) == 0
    (row,) = (line for line in (copy / "README.md").read_text().splitlines() if "so asked" in line)
    assert row.endswith("| 50 % | 25 to 75 |")


def test_the_figures_are_of_the_weights_that_ship():
    for world, figures in read_figures(ROOT).items():
        measured = {ROOT / "weights" / name: digest for name, digest in figures["settings"]["sha256"].items()}
        shipped = [path for path in measured if path.is_file()]
        assert {path.name for path in shipped} >= {
            f"{world}.safetensors",
            f"{world.replace('-', '_')}_base.safetensors",
        }
        assert [path for path in shipped if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != measured[path]] == []


def test_numbers_are_short():
    assert [short(one) for one in (0.876, -0.07, 1.0, -0.001)] == [".88", "-.07", "1.00", ".00"]
