"""What a blind test asks, when it ends, and what its answers say."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ppd.blind_questions import Matchup, Trial, Verdict, design, error_of, left_to_ask, outcomes, pairs_of
from ppd.evaluation.blind import ALPHA, by_look, consistency, over_prompts, score
from ppd.pictures import Picture
from ppd.sequential import decided


def painted(number):
    return Picture.from_image(Image.new("RGB", (4, 4), (number % 256, number // 256, 5)))


def matchups(count, arms, seeds=1):
    return [
        Matchup(f"prompt {one // seeds}", tuple(painted(one * arms + arm) for arm in range(arms)))
        for one in range(count)
    ]


def filed(questions):
    return [
        Trial(str(place), place, one.prompt, tuple(p.digest for p in one.pictures), one.arms, one.repeats)
        for place, one in enumerate(questions)
    ]


def answered(trials, prefers, most=None):
    """Answers all that is asked, one by one, as `prefers(arms)` says: a side of the picture, "tie" or "skip"."""
    trials = list(trials)
    for number in range(1, (most or 1000) + 1):
        left = left_to_ask(trials)
        if not left:
            break
        one = left[0]
        trials[one.place] = replace(one, verdict=prefers(one), seconds=2.0, pick=number)
    return trials


def always(arm):
    return lambda one: "first" if one.arms[0] == arm else "second"


@pytest.mark.parametrize(("arms", "most"), [(2, 40), (3, 60), (3, 31)])
def test_every_pair_of_arms_is_asked_equally_often_and_a_tenth_again(arms, most):
    questions = design(matchups(40, arms), most, random.Random(1))
    new = [one for one in questions if one.repeats is None]
    again = [(place, one) for place, one in enumerate(questions) if one.repeats is not None]
    assert len(new) == most and len(again) == -(-most // 10)
    counts = Counter(tuple(sorted(one.arms)) for one in new)
    assert len(counts) == arms * (arms - 1) // 2 and max(counts.values()) - min(counts.values()) <= 1
    for place, one in again:
        first = questions[one.repeats]
        assert place - one.repeats >= 3 or place == len(questions) - 1
        assert (one.prompt, one.pictures, one.arms) == (first.prompt, first.pictures[::-1], first.arms[::-1])


def test_the_side_is_a_fair_coin_and_the_order_no_clue():
    sides, places = [], []
    for seed in range(200):
        questions = [one for one in design(matchups(20, 2), 20, random.Random(seed)) if one.repeats is None]
        sides += [one.arms[0] for one in questions]
        places.append([one.prompt for one in questions].index("prompt 0"))
    assert np.mean(sides) == pytest.approx(0.5, abs=0.025)
    assert np.mean(places) == pytest.approx(9.5, abs=1)


def test_pictures_that_are_the_same_ask_nothing():
    same = painted(1)
    with_same = [Matchup("a", (same, same, painted(2))), Matchup("b", (painted(3), painted(4), painted(5)))]
    asked = [
        (one.prompt, tuple(sorted(one.arms))) for one in design(with_same, 40, random.Random(0)) if not one.repeats
    ]
    assert ("a", (0, 1)) not in asked and len(set(asked)) == 5
    with pytest.raises(ValueError, match="the same two or three arms"):
        design([], 10, random.Random(0))


def test_a_prompt_asks_once_of_two_arms_whatever_its_seeds():
    many = matchups(24, 3, seeds=2)
    asked = [one for one in design(many, 72, random.Random(0)) if one.repeats is None]
    assert (
        Counter((one.prompt, tuple(sorted(one.arms))) for one in asked).most_common(1)[0][1] == 1 and len(asked) == 36
    )
    spelled = [Matchup(name, one.pictures) for name, one in zip(("A  lake", "a lake", "a hill"), many, strict=False)]
    assert len({one.prompt.lower()[-4:] for one in design(spelled, 9, random.Random(1))}) == 2
    again = [Matchup(f"prompt {n}", many[0].pictures) for n in range(5)]
    assert len([one for one in design(again, 15, random.Random(2)) if one.repeats is None]) == 3


def liking_by_prompt(draw, spread=4.0):
    """Ways that are as good as each other, and a person whose liking goes by the prompt."""
    qualities = {}

    def answer(one):
        first, second = (qualities.setdefault((one.prompt, arm), draw.gauss(0, spread)) for arm in one.arms)
        return "first" if draw.random() < 1 / (1 + np.exp(second - first)) else "second"

    return answer


@pytest.mark.parametrize(("prompts", "seeds", "arms"), [(12, 2, 3), (20, 4, 2)])
def test_it_is_wrong_in_at_most_five_of_a_hundred_when_answers_go_by_the_prompt(prompts, seeds, arms):
    """Where each seed counted it was wrong in 8 and 16 of 100."""
    many, draw, wrong = matchups(prompts * seeds, arms, seeds), random.Random(1), 0
    for _ in range(200):
        trials = answered(filed(design(many, 72, draw)), liking_by_prompt(draw))
        wrong += any(decided(outcomes(trials, pair), error_of(trials)) for pair in pairs_of(trials))
    assert wrong / 200 <= ALPHA


def test_it_ends_once_decided_and_the_repeats_of_what_was_answered_still_come():
    trials = answered(filed(design(matchups(40, 2), 40, random.Random(3))), always(1))
    told = outcomes(trials, (0, 1))
    assert told == [False] * 8  # 2^8 / 9 is the first above 20
    again = consistency(trials)
    assert again["of"] >= 1 and again["same"] == again["of"] and again["ceiling"] == 1.0
    assert not left_to_ask(trials)


def test_three_arms_share_the_error_and_end_one_by_one():
    trials = filed(design(matchups(40, 3), 90, random.Random(3)))
    assert error_of(trials) == pytest.approx(ALPHA / 3)
    draw = random.Random(0)
    prefers = lambda one: always(2)(one) if 2 in one.arms else draw.choice(["first", "second"])  # noqa: E731
    trials = answered(trials, prefers)
    found = score(["base", "another's", "mine"], trials, 60.0)
    assert [one["arms"] for one in found["pairs"]] == [["base", "another's"], ["base", "mine"], ["another's", "mine"]]
    assert [one["decided"] for one in found["pairs"]] == [False, True, True]
    assert [one["losses"] for one in found["pairs"][1:]] == [10, 10]  # 2^10 / 11 is the first above 60
    assert found["pairs"][0]["wins"] + found["pairs"][0]["losses"] == 30


def test_the_figures_are_those_of_the_answers():
    trials = filed(design(matchups(30, 2), 30, random.Random(5)))
    verdicts = iter(["mine", "base", "mine", "tie"] * 5 + ["skip"] * 2 + ["base", "mine"] * 10)

    def prefers(one):
        word = next(verdicts)
        return word if word in ("tie", "skip") else always({"base": 0, "mine": 1}[word])(one)

    trials = answered(trials, prefers, most=24)
    new = [one for one in trials if one.repeats is None and one.verdict]
    found = score(["base", "mine"], trials, 90.0)
    (pair,) = found["pairs"]
    wins = sum(one.winner() == 0 for one in new)
    losses, ties = sum(one.winner() == 1 for one in new), sum(one.verdict == "tie" for one in new)
    assert (pair["wins"], pair["losses"], pair["ties"]) == (wins, losses, ties)
    assert pair["rate"] == wins / (wins + losses)
    assert pair["interval"][0] < pair["rate"] < pair["interval"][1]
    assert pair["fixed"]["interval"][0] > pair["interval"][0]  # who may stop any time knows less
    assert sum(one["pairs"][0]["ties"] for one in found["prompts"]) == ties
    assert "over_prompts" not in pair  # two thousand rounds that a list of tests does not show
    over = over_prompts(trials, (0, 1))
    assert over["n"] == wins + losses + ties and over["mean"] == pytest.approx((wins + ties / 2) / over["n"])
    assert over["low"] < over["mean"] < over["high"] and over_prompts(filed([]), (0, 1)) is None
    assert (found["seconds_per_pick"], found["minutes"], found["answers"]) == (2.0, 1.5, 22)


@pytest.mark.parametrize(("share", "ceiling"), [(1.0, 1.0), (0.5, 0.5), (0.25, 0.5), (0.75, 0.8536)])
def test_repeats_bound_what_can_be_won(share, ceiling):
    asked = [Trial(f"a{n}", n, "p", ("x", "y"), (0, 1), None, "first", 1.0, n + 1) for n in range(4)]
    again = [
        Trial(f"b{n}", n + 4, "p", ("y", "x"), (1, 0), n, "second" if n < 4 * share else "first", 1.0, n + 9)
        for n in range(4)
    ]
    found = consistency([*asked, *again])
    assert (found["same"], found["of"]) == (4 * share, 4)
    assert found["ceiling"] == pytest.approx(ceiling, abs=1e-4)
    assert found["most"] == pytest.approx((1 + max(0.0, 2 * found["interval"][1] - 1) ** 0.5) / 2)
    assert found["most"] >= found["ceiling"] and consistency(asked)["ceiling"] is None


def test_neither_is_no_disagreement_since_win_rates_leave_it_out():
    """Who always prefers one way, and says "neither" at random, wins with it always: the ceiling must be 1."""
    said: list[tuple[Verdict, Verdict]] = [
        ("first", "second"),
        ("first", "second"),
        ("tie", "second"),
        ("first", "tie"),
        ("tie", "tie"),
        ("skip", "tie"),
    ]
    trials = [
        Trial(
            f"{n} {again}", n + 6 * again, "p", ("x", "y"), (1, 0) if again else (0, 1), n if again else None, verdict
        )
        for n, verdicts in enumerate(said)
        for again, verdict in enumerate(verdicts)
    ]
    found = consistency(trials)
    assert (found["same"], found["of"], found["ties"], found["ceiling"]) == (2, 2, 3, 1.0)
    only_ties = consistency([one for one in trials if one.place % 6 in (2, 3, 4)])
    assert (only_ties["of"], only_ties["ties"], only_ties["ceiling"]) == (0, 3, None)


def test_looks_tell_what_was_preferred():
    trials = [
        Trial(str(n), n, "p", ("x", "y"), (0, 1), None, "first" if n % 2 else "second", 1.0, n + 1) for n in range(12)
    ]
    amounts = np.array([[1.0 if n % 2 else -1.0, 0.1, (-1.0) ** (n // 2)] for n in range(12)])
    found = by_look([("warmth", "cool", "warm"), ("blur", "sharp", "soft"), ("size", "small", "big")], amounts, trials)
    assert [(one["look"], one["high_won"], one["of"]) for one in found] == [("warmth", 12, 12), ("size", 6, 12)]
    assert found[0]["p"] == pytest.approx(2 / 2**12)
