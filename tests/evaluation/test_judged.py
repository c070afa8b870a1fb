"""Judges of arms: folders of pictures, blind tests that a person took, and the command that reports what is said."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppd.blind_questions import BlindQuestion, Matchup, left_to_ask
from ppd.cli import main
from ppd.encoders.towers.vlm import LocalVLM
from ppd.evaluation.arms import matchups_in, questions_of
from ppd.evaluation.judged import Bench, judged, sentences
from ppd.evaluation.judges import Judged
from ppd.pairs import PreferencePair, read_pairs, write_pairs
from ppd.pictures import Picture
from ppd.pocket.studio import WEIGHTS
from ppd.store import TasteStore

from ..encoders.towers.vlm_models import write_vlm

EXAMPLE = WEIGHTS / "examples" / "vivid and bold"


def noise(number, size=(32, 32)):
    pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Picture.from_image(Image.fromarray(pixels))


class Says:
    """A judge that says what it is told to, as people who were asked have said it."""

    def __init__(self, *verdicts):
        self.said = [Judged(*one) if isinstance(one, tuple) else Judged(one) for one in verdicts]

    def judge(self, questions):
        assert len(questions) == len(self.said)
        return self.said


def questions(prompts, arms=(0, 1)):
    return [BlindQuestion(prompt, (noise(2 * n), noise(2 * n + 1)), arms) for n, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def liked():
    return list(read_pairs(EXAMPLE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, liked):
    """What the person of an example rejected, in one folder, and what they chose, in the other; of one prompt twice."""
    root = tmp_path_factory.mktemp("arms")
    for arm in ("worse", "better"):
        (root / arm / "x").mkdir(parents=True)
    for number, pair in enumerate(liked):
        for arm, picture in (("worse", pair.rejected), ("better", pair.chosen)):
            picture.open().save(root / arm / "x" / f"{number}.png")
    return root


def test_pictures_of_the_same_names_are_one_matchup_and_the_same_picture_asks_nothing(tmp_path, folders):
    matchups = matchups_in({"a": folders / "worse", "b": folders / "better"})
    assert [matchup.prompt for matchup in matchups] == ["0", "1", "2", "3"]
    assert matchups[2].pictures[1].path == folders / "better" / "x" / "2.png"
    same = matchups_in({"a": folders / "worse", "b": folders / "better", "c": folders / "better"})
    assert {one.arms for one in questions_of(same)} == {(0, 1), (0, 2)}  # b and c are one
    mine = matchups_in({"a": folders / "worse", "b": folders / "better"}, "x")  # the pictures of a person called x
    assert [matchup.pictures[0].path.name for matchup in mine] == ["0.png", "1.png", "2.png", "3.png"]
    (tmp_path / "0.png").write_bytes((folders / "worse" / "x" / "0.png").read_bytes())
    with pytest.raises(ValueError, match="The folder of 'b' lacks 3 of 4 pictures that another has, such as '1.png'"):
        matchups_in({"a": folders / "worse" / "x", "b": tmp_path})
    with pytest.raises(ValueError, match="There are no pictures in "):
        matchups_in({"a": folders, "b": tmp_path / "none"})


def test_seeds_of_one_prompt_count_once_and_inconsistent_answers_as_ties():
    """Of prompt a two seeds were won and one lost, b was won, c lost, d contradicted."""
    asked = questions(["a", "a", "A ", "b", "c", "d"])
    bench = Bench("by me", {"me": Says("first", "second", "first", "first", "second", ("tie", False))}, {"me": asked})
    figures = judged(["mine", "plain"], bench)
    (pair,) = figures["pairs"]
    assert [pair[name] for name in ("wins", "losses", "ties", "inconsistent")] == [3, 2, 1, 1]
    assert pair["rate"] == pytest.approx((2 / 3 + 1 + 0 + 0.5) / 4)
    assert (pair["exact"]["prompts_won"], pair["exact"]["prompts_lost"], pair["exact"]["p"]) == (2, 1, 1.0)
    assert sentences(figures)[0] == (
        "“mine” preferred to “plain” 67 times in 100, with 95 % confidence between 9 and 99 (4 prompts; neither: 1, 1 "
        "of them since the order decided). Were the two as good as each other, chance would set them as far apart 100 "
        "times in 100. No answers to so few could make it fewer than 12: ask more."
    )


def test_people_and_prompts_are_both_asked_anew():
    """Three people of one mind on six prompts: the permutation of three is the larger p."""
    asked = questions([f"prompt {n}" for n in range(6)])
    people = {name: Says(*["second"] * 5, "tie") for name in ("ann", "bo", "cy")}
    figures = judged(["plain", "mine"], Bench("by all", people, dict.fromkeys(people, asked)))
    (pair,) = figures["pairs"]
    assert pair["p"] == 2 / 2**3 and "exact" not in pair and len(pair["people"]) == 3
    assert pair["rate"] == pytest.approx(0.5 / 6) and pair["interval"]["people"] == 3
    assert sentences(figures)[0].startswith("“mine” preferred to “plain” 92 times in 100, ")
    assert "(6 prompts, 3 people; neither: 3). " in sentences(figures)[0]
    assert "chance would set them as far apart 25 times in 100. " in sentences(figures)[0]
    assert sentences(figures)[0].endswith(" No answers to so few could make it fewer than 25: ask more.")
    many = {str(number): Says(*["second"] * 6) for number in range(6)}
    figures = judged(["plain", "mine"], Bench("by all", many, dict.fromkeys(many, asked)))
    assert sentences(figures)[0].endswith("chance would set them as far apart 3 times in 100.")


def test_where_nothing_differs_there_is_nothing_to_judge_and_ties_say_so():
    with pytest.raises(ValueError, match="painted the same pictures, so there is nothing to judge"):
        judged(["a", "b"], Bench("by me", {"me": Says()}, {"me": []}))
    asked = questions(["a", "b"])
    told = sentences(judged(["a", "b"], Bench("by me", {"me": Says("tie", "tie")}, {"me": asked})))
    assert told[0] == "“a” or “b”: no preference (2 prompts; neither: 2)."


def run(capsys, *arguments):
    code = main(["judge", "--world", "pocket", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_judges_folders_by_picks_and_by_simulated_people(folders, tmp_path, capsys):
    arms = f"worse={folders / 'worse'}", f"better <b>={folders / 'better'}"
    code, out, _ = run(
        capsys,
        *(*arms, "--by", "posterior", "simulated", "--pairs", EXAMPLE, "--taste", EXAMPLE),
        *("--out", tmp_path / "out", "--json", tmp_path / "figures.json"),
    )
    assert code == 0
    told = "“better <b>” preferred to “worse” 100 times in 100, with 95 % confidence between 40 and 100 (4 prompts). "
    assert out.count(told) == 2 and "held-out picks" in out and "Simulated people of the pocket" in out
    figures = json.loads((tmp_path / "out" / "judged.json").read_text())
    assert figures["judged"] == json.loads((tmp_path / "figures.json").read_text())["judged"]
    assert [pair["losses"] for one in figures["judged"] for pair in one["pairs"]] == [4, 4]
    page = (tmp_path / "out" / "judged.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8 and "<b>" not in page and "better &lt;b&gt;" in page


def test_the_worlds_own_people_judge_where_nobody_is_named(folders, tmp_path, capsys):
    arms = f"worse={folders / 'worse'}", f"better={folders / 'better'}"
    code, out, _ = run(capsys, *arms, "--by", "simulated", "--out", tmp_path)
    (figures,) = json.loads((tmp_path / "judged.json").read_text())["judged"]
    assert code == 0 and figures["people"] == 200 and "4 prompts, 200 people" in out
    assert 0.05 < figures["pairs"][0]["p"] <= 1  # of four prompts nothing is known, whoever is asked


def test_the_command_shows_a_vision_language_model_the_persons_pairs(folders, tmp_path, capsys):
    pytest.importorskip("transformers")
    model = write_vlm(tmp_path / "tiny", "qwen2_5_vl")
    arms = f"worse={folders / 'worse'}", f"better={folders / 'better'}"
    code, out, _ = run(
        capsys, *arms, *("--by", "vlm", "--vlm", model, "--pairs", EXAMPLE, "--shown", "1", "--out", tmp_path / "out")
    )
    (figures,) = json.loads((tmp_path / "out" / "judged.json").read_text())["judged"]
    (pair,) = figures["pairs"]
    assert code == 0 and "tiny, shown at most 1 pair of the person and asked in both orders" in out
    assert pair["wins"] + pair["losses"] + pair["ties"] == 4 and pair["inconsistent"] == pair["ties"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a=x", "--by", "posterior"], "Expected two or three ways to paint as NAME=FOLDER, each of its own name"),
        (["a=x", "a=y", "--by", "posterior"], "each of its own name, got 'a=x a=y'"),
        (["a=x", "b=y", "--by", "vlm"], "goes by people's picks: give --pairs"),
        (["a=x", "b=y", "--by", "vlm", "--pairs", str(EXAMPLE)], "needs a model: give --vlm"),
        (
            ["a=x", "b=y", "--by", "vlm", "--pairs", str(EXAMPLE), "--vlm", "x", "--shown", "-1"],
            "Expected a whole number from 0 to 64 as --shown, got -1",
        ),
        (["--tests", "nowhere", "--by", "posterior"], "There is no taste store in nowhere"),
        (["a=x", "b=y", "--by", "simulated", "--taste", str(WEIGHTS)], "taste.json"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_sentence(capsys, arguments, told):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and told in err and err.count("\n") == 1


def test_one_folder_twice_is_nothing_to_judge(folders, capsys):
    code, _, err = run(capsys, f"a={folders / 'worse'}", f"b={folders / 'worse'}", "--by", "simulated")
    assert code == 2 and "painted the same pictures, so there is nothing to judge: is the strength 0" in err


def test_simulated_people_see_pictures_as_they_were_painted(folders, tmp_path, capsys):
    for arm in "ab":
        (tmp_path / arm).mkdir()
        noise(ord(arm), (64, 64)).open().save(tmp_path / arm / "0.png")
    code, _, err = run(capsys, f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "--by", "simulated")
    assert code == 2 and "see pictures of 128 x 128, got 64 x 64" in err


@pytest.fixture(scope="module")
def tested(tmp_path_factory, liked):
    """Somebody who picked, took a blind test by the pictures of `liked`, preferring what they had chosen in three of
    four, and picked again."""
    store = TasteStore(tmp_path_factory.mktemp("store"))
    person = store.add_person("Ann").id

    def pick(number):
        candidate = store.add_candidate(person, f"prompt {number}", noise(10 * number), noise(10 * number + 1))
        store.pick(candidate, "first", f"pick {number}")

    pick(1)
    matchups = [Matchup(pair.prompt, (pair.rejected, pair.chosen)) for pair in liked]
    test, _ = store.add_test(person, ["worse", "better"], matchups, 20, {"picks": 1}, random.Random(1))
    for number in range(20):
        left = left_to_ask(store.test(test).trials)
        if not left:
            break
        side = left[0].arms.index(1 if left[0].prompt != liked[0].prompt else 0)
        store.answer_trial(test, left[0].id, ("first", "second")[side], 2.0, f"answer {number}")
    store.finish_test(test)
    return store, person


def test_a_finished_blind_test_is_judged_by_later_picks_and_told_beside_the_person(
    tested, liked, tmp_path, capsys, monkeypatch
):
    store, person = tested
    asked = "--tests", store.folder, "--by", "posterior", "--out", tmp_path
    code, _, err = run(capsys, *asked)
    assert code == 2 and "Nobody has picked anything since their blind test was painted" in err
    monkeypatch.setattr("ppd.store.candidates.now", lambda: "2999-01-31T00:00:00+00:00")
    for number, pair in enumerate(liked):
        store.pick(
            store.add_candidate(person, f"later {number}", pair.chosen, pair.rejected), "first", f"late {number}"
        )
    code, out, _ = run(capsys, *asked)
    (figures,) = json.loads((tmp_path / "judged.json").read_text())["judged"]
    assert code == 0 and "Ann" not in out and [pair["losses"] for pair in figures["pairs"]] == [4]
    assert figures["agreement"]["same"] == 3 and figures["agreement"]["of"] == 4
    assert "asked the same in a blind test, preferred the same 3 of 4 times (95 % between 19 and 99 %)" in out
    late = store.add_person("Bo").id  # tested, and without picks
    test, _ = store.add_test(
        late, ["worse", "better"], [Matchup("s", (liked[0].rejected, liked[0].chosen))], 1, {"picks": 0}
    )
    store.answer_trial(test, store.test(test).trials[0].id, "first", 1.0, "Bo's answer")
    store.finish_test(test)
    code, out, _ = run(capsys, *asked)
    assert code == 0 and "1 test left out, without picks to go by" in out
    store.delete_person(late)
    store.set_encoder(person, "mine")
    code, _, err = run(capsys, *asked)
    assert code == 2 and "are read by the taste encoder 'mine': give its folder, --encoder" in err
    store.set_encoder(person, "pocket-flow")
    code, _, err = run(capsys, "a=here", "b=there", *asked)
    assert code == 2 and "got both: leave one out" in err
    code, _, err = run(capsys, *asked[:2], "--by", "simulated")
    assert code == 2 and "judged by their picks" in err


def test_one_model_judges_people_of_different_taste_encoders(tested, liked, tmp_path, capsys, monkeypatch):
    store, person = tested
    bo = store.add_person("Bo").id
    store.set_encoder(bo, "pocket")
    assert store.person(person).encoder != "pocket"
    store.pick(store.add_candidate(bo, "before", noise(90), noise(91)), "first", "Bo's pick")
    matchups = [Matchup(liked[0].prompt, (liked[0].rejected, liked[0].chosen))]
    test, _ = store.add_test(bo, ["worse", "better"], matchups, 1, {"picks": 1})
    store.answer_trial(test, store.test(test).trials[0].id, "first", 1.0, "Bo's answer")
    store.finish_test(test)
    loaded, load = [], LocalVLM.from_folder
    monkeypatch.setattr(LocalVLM, "from_folder", lambda folder: loaded.append(folder) or load(folder))
    model = write_vlm(tmp_path / "tiny", "qwen2_5_vl")
    code, out, _ = run(capsys, "--tests", store.folder, "--by", "vlm", "--vlm", model, "--out", tmp_path / "out")
    assert code == 0 and loaded == [model] and "2 people" in out and "shown at most 4 pairs" in out
    store.delete_person(bo)


def test_people_of_a_set_are_judged_apart(folders, liked, tmp_path, capsys):
    """One who chose these pictures, and one who rejected them."""
    pairs = [PreferencePair(one.prompt, one.chosen, one.rejected, f"a{n}", user="ann") for n, one in enumerate(liked)]
    pairs += [PreferencePair(one.prompt, one.rejected, one.chosen, f"b{n}", user="bo") for n, one in enumerate(liked)]
    write_pairs(tmp_path / "set", pairs)
    arms = f"worse={folders / 'worse'}", f"better={folders / 'better'}"
    code, _, _ = run(capsys, *arms, "--by", "posterior", "--pairs", tmp_path / "set", "--out", tmp_path)
    (figures,) = json.loads((tmp_path / "judged.json").read_text())["judged"]
    (pair,) = figures["pairs"]
    rates = {one["person"]: one["rate"] for one in pair["people"]}
    assert code == 0 and rates["ann"] == 0.0 and rates["bo"] > 0.5
    page = (tmp_path / "judged.html").read_text()
    assert "by person" in page and "<td>bo</td>" in page and Path(tmp_path / "judged.json").is_file()
