"""docs/benchmarks.md is what docs/figures say, and how a run's figures get there."""

import json
import sys

import pytest

from benchmarks import all as every
from benchmarks.tables import TABLES, interval, number


def test_the_page_is_what_the_figures_say():
    text, found = every.PAGE.read_text(encoding="utf-8"), every.results()
    blocks = every.BLOCK.findall(text)
    assert [name for kind, name in blocks if kind == "table"] == list(TABLES)
    assert {name: result["command"] for name, result in found.items()} == {
        name: every.command(name) for name in every.RUNS
    }
    runs = tuple(part for kind, name in blocks if kind == "runs" for part in name.split(", "))
    assert [name for name in found if not name.startswith(runs)] == []
    assert every.page(text, found) == text


def test_figures_are_written_as_the_house_does():
    assert [number(0.8125), number(1), number(-0.25, 2), number(-0.0001)] == [".812", "1.000", "-.25", ".000"]
    assert interval({"mean": 0.836}) == ".836"
    assert interval({"ratio": 0.0042, "low": 0.004, "high": 0.0044, "n": 12}, 2, 100, " %") == ".42 % (.40 to .44)"


def test_two_runs_are_apart_where_their_intervals_are():
    old = {"a": {"mean": 0.5, "low": 0.4, "high": 0.6}, "b": {"c": {"ratio": 2.0, "low": 1.9, "high": 2.1}}, "n": 3}
    new = {"a": {"mean": 0.65, "low": 0.6, "high": 0.7}, "b": {"c": {"ratio": 1.5, "low": 1.4, "high": 1.89}}, "n": 4}
    assert list(every.apart(old, new)) == ["b, c: 1.9 to 2.1, now 1.4 to 1.89"]
    assert list(every.apart(old, old)) == []


def test_commands_are_told_with_their_day_duration_and_machine():
    machine = {"cpu": "AMD EPYC", "cores": 2, "torch": "2.11.0+cu130"}
    run = {"command": "python -m benchmarks.small", "measured": "2026-11-28", "seconds": 170, "machine": machine}
    old = {**run, "seconds": None, "machine": {"cpu": "a shared CPU", "cores": 2}}
    assert every.told({"small-one": run, "small-two": old, "large": run}, "small-one, small-two") == (
        "```\n"
        "python -m benchmarks.small  # 2026-11-28, 3 min, 2 cores of AMD EPYC, torch 2.11.0\n"
        "python -m benchmarks.small  # 2026-11-28, 2 cores of a shared CPU\n"
        "```"
    )


MEASURES = """
import json, sys
json.dump({"wins": {"mean": 1 / 3, "low": 0.25, "high": 0.5}}, open(sys.argv[sys.argv.index("--json") + 1], "w"))
"""


def test_a_run_is_measured_once_kept_and_told(tmp_path, monkeypatch, capfd):
    page, file = tmp_path / "page.md", tmp_path / "figures" / "small-one.json"
    page.write_text("Prose.\n<!-- table: wins -->\nold\n<!-- end -->\n<!-- runs: small -->\n<!-- end -->\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text(MEASURES)
    runs = {"small-one": 'small --arms "a b"', "training": "training --script SCRIPT", "broken": "broken"}
    tables = {"wins": lambda runs: interval(runs["small-one"]["wins"])}
    for name, value in (
        ("ROOT", tmp_path),
        ("PAGE", page),
        ("FIGURES", file.parent),
        ("RUNS", runs),
        ("TABLES", tables),
    ):
        monkeypatch.setattr(every, name, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks.all", *arguments])
        every.main()

    with pytest.raises(SystemExit, match=r"^No figures of training, broken\.$"):
        run()
    told = capfd.readouterr().out
    assert "training is left out: give SCRIPT=..." in told and "broken ended with 1" in told
    result = json.loads(file.read_text())
    assert result["figures"] == {"wins": {"mean": 0.333333, "low": 0.25, "high": 0.5}}
    assert page.read_text() == (
        "Prose.\n<!-- table: wins -->\n.333 (.250 to .500)\n<!-- end -->\n"
        f"<!-- runs: small -->\n{every.told({'small-one': result}, 'small')}\n<!-- end -->\n"
    )
    file.write_text(file.read_text().replace("0.5", "0.2").replace("0.25", "0.1").replace("0.333333", "0.15"))
    with pytest.raises(SystemExit, match=r"docs/benchmarks\.md is not what docs/figures say"):
        run("--check")
    run("--only", "small")
    assert "\n.150 (.100 to .200)\n" in page.read_text()
    run("--only", "small", "--again")
    assert "\n.333 (.250 to .500)\n" in page.read_text()
    assert "apart from the run before: wins: 0.1 to 0.2, now 0.25 to 0.5" in capfd.readouterr().out
