"""Reports of blind tests that people really answered in stores, and what a pilot makes of several of them."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from ppd.blind_questions import Matchup, left_to_ask
from ppd.cli import main
from ppd.evaluation.pilot import Report, pilot, read_reports, sentences
from ppd.evaluation.report import figures_of, sheet, write_report
from ppd.pictures import Picture
from ppd.store import TasteStore

ARMS = ("plain <model>", "mine")


def matchups(count):
    colours = [(60 + number, 100 * arm, 7) for number in range(count) for arm in range(2)]
    pictures = [Picture.from_image(Image.new("RGB", (24, 16), colour)) for colour in colours]
    return [Matchup(f"prompt <{n}>", (pictures[2 * n], pictures[2 * n + 1])) for n in range(count)]


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A person's test in which they prefer their own with a probability; the store and the test."""

    def answer(name, probability, picks, questions=20, seconds=3.0):
        store, draw = TasteStore(tmp_path_factory.mktemp(name)), random.Random(name)
        person = store.add_person(name).id
        test, _ = store.add_test(person, ARMS, matchups(questions), questions, {"picks": picks}, random.Random(name))
        for number in range(1000):
            left = left_to_ask(store.test(test).trials)
            if not left:
                break
            mine = left[0].arms.index(1)
            side = mine if draw.random() < probability else 1 - mine
            store.answer_trial(test, left[0].id, ("first", "second")[side], seconds, str(number))
        return store, store.finish_test(test)

    return answer


@pytest.fixture(scope="module")
def reports(answered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blind tests")
    for name, probability, picks in (("Ann", 1.0, 10), ("Bo", 0.75, 40), ("Cy", 0.6, 10)):
        store, test = answered(name, probability, picks)
        figures = figures_of(test)
        write_report(folder / name, test, figures, lambda digest: Picture(store.picture(digest)))  # noqa: B023
    return folder


def test_a_report_is_a_page_figures_and_a_sheet_without_a_name(reports):
    page = (reports / "Bo" / "report.html").read_text()
    figures = json.loads((reports / "Bo" / "report.json").read_text())
    assert figures["purpose"] == "test" and figures["arms"] == list(ARMS)
    (pair,) = figures["pairs"]
    assert pair["over_prompts"]["n"] == pair["wins"] + pair["losses"] + pair["ties"]
    said = [one for one in figures["said"] if one["repeats"] is None]
    chosen = [one["arms"][("first", "second").index(one["verdict"])] for one in said]
    assert (pair["wins"], pair["losses"]) == (chosen.count("plain <model>"), chosen.count("mine"))
    assert f"{pair['losses']} of {len(said)} times" in page
    assert "plain &lt;model&gt;" in page and "<model>" not in page and "prompt &lt;3&gt;" in page
    assert len(re.findall("data:image/jpeg;base64,", page)) == 2 * len(figures["said"])
    assert page.count("src=") == page.count("src='data:") and "href" not in page  # it needs nothing beside it
    assert "Bo" not in re.sub("base64,[^']*", "", page) and "Bo" not in json.dumps(figures)


def test_the_sheet_has_prompts_down_and_arms_across(answered):
    store, test = answered("Sheet", 1.0, 4, questions=9)
    made = np.asarray(sheet(test, lambda digest: Picture(store.picture(digest))))
    row = made[60]
    reds = {tuple(pixel) for pixel in row[10:]}
    assert any(pixel[1] == 0 and pixel[2] == 7 for pixel in reds) and any(pixel[1] == 100 for pixel in reds)
    assert made.shape[1] == 8 + 2 * 200


def test_a_pilot_counts_people_and_what_it_cost(reports):
    found = read_reports([reports])
    figures = pilot(found)
    (pair,) = figures["pairs"]
    assert pair["arms"] == ["mine", "plain <model>"] and figures["people"] == 3
    by_picks = {one.picks: one for one in found if one.minutes}
    assert by_picks.keys() == {10, 40}
    rates = [one["rate"] for one in pair["people"]]
    assert pair["rate"] == pytest.approx(np.mean(rates)) and max(rates) == 1.0
    assert pair["over_people"]["low"] <= pair["rate"] <= pair["over_people"]["high"]
    assert pair["over_people"]["p"] == 2 / 2**3 and min(rates) > 0.5  # three people of one mind can say no more
    assert pair["minutes_taught"] == pytest.approx((10 + 40 + 10) * 3 / 60 / 3)  # their picks at 3 seconds each
    assert pair["points_per_minute"] == pytest.approx(100 * (pair["rate"] - 0.5) / pair["minutes_taught"], abs=0.01)
    told = sentences(figures)
    assert told[0].startswith("“mine” was preferred to “plain <model>”") and "(3 people)" in told[0]
    assert told[1] == "Were the two as good as each other, chance would set them as far apart 25 times in 100."
    assert told[-2] == "Their tastes were made by 20 picks and 1.0 minutes a person."
    assert told[-1].startswith("3 people, 3 blind tests, ")


def test_the_same_test_twice_counts_once_and_one_person_has_no_interval(reports):
    once = read_reports([reports / "Ann", reports / "Ann"])
    (pair,) = pilot(once)["pairs"]
    assert len(once) == 1 and pair["over_people"] is None and pair["people"][0]["wins"] == 8
    told = sentences(pilot(once))
    assert "(1 person)" in told[0] and "chance" not in told[1] and told[-1].startswith("1 person, 1 blind test, ")
    assert pair["points_per_minute"] is None  # below a minute a ratio says nothing


def test_the_command_writes_both_files(reports, tmp_path, capsys):
    assert main(["pilot", str(reports), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "figures.json")]) == 0
    told = capsys.readouterr().out
    assert "“mine” was preferred to “plain <model>”" in told and "3 people, 3 blind tests" in told
    page = (tmp_path / "out" / "pilot.html").read_text()
    assert "person 3" in page and "<model>" not in page
    assert json.loads((tmp_path / "figures.json").read_text()) == json.loads(
        (tmp_path / "out" / "pilot.json").read_text()
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "x"}, "expected format 'ppd-blind-test', got 'x'"),
        ({"version": 2}, "is of version 2, expected 1"),
        ({"pairs": [{"arms": ["a", "b"], "wins": -1, "losses": 0, "ties": 0}]}, "from 0 to 100000 as wins, got -1"),
        ({"consistency": {"of": 1}}, "is damaged"),
        ({"minutes": float("nan")}, "as minutes, got nan"),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(reports, tmp_path, change, told):
    values = json.loads((reports / "Ann" / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=told):
        Report.load(tmp_path / "report.json")


def test_a_folder_without_tests_is_told(tmp_path, capsys):
    assert main(["pilot", str(tmp_path)]) == 2
    assert "There is no report.json in" in capsys.readouterr().err
