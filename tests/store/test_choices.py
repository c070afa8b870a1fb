"""The best of several pictures: one choice of all its pairs, made, taken back, exported and faded as one."""

from __future__ import annotations

import json

import pytest

from ppd.pairs import PreferencePair, read_pairs, write_pairs
from ppd.store import MissingError, StoreError

from .small_stores import ask, picture


@pytest.fixture
def grid(store, aki):
    """Four kept pictures of one prompt, by their hashes."""
    kept = [store.add_picture(aki, "a lake", picture(number)) for number in range(4)]
    return [store.kept_picture(number).digest for number in kept]


def said(store, person):
    return [(one.chosen.digest, one.rejected.digest, one.choice) for one in store.pairs(person)]


def test_the_best_wins_against_each_of_the_others(store, aki, grid):
    choice = store.choose(aki, "a lake", grid, grid[2], "r1")
    assert said(store, aki) == [(grid[2], other, choice) for other in (grid[0], grid[1], grid[3])]
    assert list(store.choices(aki).values()) == [choice] * 3
    assert list(store.choices(aki)) == list(store.verdicts(aki))
    assert (store.person(aki).picks, store.person(aki).open, store.days(aki)[0][1]) == (1, 0, 1)
    one = store.history(aki)[0]
    assert (one.prompt, {one.first, one.second}) == ("a lake", {grid[2], grid[3]})


def test_a_choice_that_comes_twice_counts_once(store, aki, grid):
    before = store.choose(aki, "a lake", grid, grid[0], "r1"), store.revision(aki)
    assert (store.choose(aki, "a lake", grid, grid[0], "r1"), store.revision(aki)) == before
    bo = store.add_person("Bo").id
    for person, pictures in ((bo, grid), (aki, grid[:3])):
        with pytest.raises(StoreError, match="The request has answered another question"):
            store.choose(person, "a lake", pictures, grid[0], "r1")
    assert store.person(bo).picks == 0


def test_questions_are_found_whichever_picture_is_first_in_them(store, aki, grid):
    asked = [store.add_candidate(aki, "a lake", picture(a), picture(b)) for a, b in ((0, 1), (2, 0))]
    other_prompt = store.add_candidate(aki, "a hill", picture(0), picture(3))
    store.choose(aki, "a lake", grid, grid[0], "r1")
    assert [store.candidate(number).verdict for number in (*asked, other_prompt)] == ["first", "second", None]
    assert store.person(aki).picks == 1
    assert [(one[0], one[1]) for one in said(store, aki)] == [(grid[0], other) for other in grid[1:]]


def test_the_side_in_a_filed_pair_tells_nothing(store, aki, grid):
    store.choose(aki, "a lake", grid, sorted(grid)[1], "r1")
    assert sorted(one.verdict for one in store.history(aki)) == ["first", "first", "second"]


def test_a_choice_is_taken_back_as_one(store, aki, grid):
    earlier = ask(store, aki, 9)
    store.pick(earlier, "first", "r0")
    store.choose(aki, "a lake", grid, grid[1], "r1")
    store.pick(list(store.choices(aki))[0], "tie", "r2")
    assert len(store.choices(aki)) == 2  # what was revised later is no part any more
    store.undo(aki, "u1")
    assert len(store.choices(aki)) == 3
    undone = store.undo(aki, "u2")
    assert undone == store.undo(aki, "u2") and undone.verdict is None
    assert (store.choices(aki), store.verdicts(aki), store.person(aki).open) == ({}, {earlier: "first"}, 3)


def test_a_second_choice_of_the_same_pictures_is_the_one_that_stands(store, aki, grid):
    store.choose(aki, "a lake", grid, grid[0], "r1")
    later = store.choose(aki, "a lake", grid, grid[3], "r2")
    assert [one for one in said(store, aki) if one[2] == later] == [(grid[3], other, later) for other in grid[:3]]
    assert {one[0] for one in said(store, aki) if one[2] != later} == {grid[0]}
    store.undo(aki, "u1")
    assert {one[0] for one in said(store, aki)} == {grid[0]} and len(said(store, aki)) == 3


@pytest.mark.parametrize(("count", "best"), [(1, 0), (17, 0), (3, 3)])
def test_what_is_no_choice_is_refused(store, aki, count, best):
    kept = [store.kept_picture(store.add_picture(aki, "p", picture(n))).digest for n in range(count + 1)]
    with pytest.raises(StoreError, match=f"one of {count} pictures: expected 2 to 16, all different"):
        store.choose(aki, "p", kept[:count], kept[best] if best < count else "0" * 64, "r1")
    with pytest.raises(StoreError, match="expected 2 to 16, all different"):
        store.choose(aki, "p", [kept[0], kept[0], kept[1]], kept[0], "r1")
    with pytest.raises(MissingError, match="There is no picture"):
        store.choose(aki, "p", [kept[0], "0" * 64], kept[0], "r1")
    assert store.pairs(aki) == [] and store.inbox(aki) == []


def test_another_persons_pictures_cannot_be_chosen_and_go_with_their_person(store, aki, grid):
    bo = store.add_person("Bo").id
    own = store.kept_picture(store.add_picture(bo, "a lake", picture(9))).digest
    for pictures in (grid, [own, grid[0]]):
        with pytest.raises(MissingError, match="There is no picture .* of this person"):
            store.choose(bo, "a lake", pictures, pictures[0], "r1")
    assert store.digests(bo) == {own} and store.verdicts(bo) == {}
    store.delete_person(aki)
    assert [store.has_picture(digest) for digest in (*grid, own)] == [False] * 4 + [True]


def test_an_exported_choice_comes_back_as_one(store, aki, grid, tmp_path):
    store.choose(aki, "a lake", grid, grid[2], "r1")
    store.pick(ask(store, aki, 9), "first", "r2")
    store.export(aki, tmp_path / "set")
    rows = [json.loads(line) for line in (tmp_path / "set" / "pairs.jsonl").read_text("utf-8").splitlines()]
    assert [row.get("choice") for row in rows] == [one[2] for one in said(store, aki)]
    assert len({one.choice for one in read_pairs(tmp_path / "set")}) == 2
    bo = store.add_person("Bo").id
    assert [store.add_pairs(bo, tmp_path / "set") for _ in range(2)] == [2, 0]
    assert store.add_pairs(aki, tmp_path / "set") == 0
    ((first, *others), own) = (list(store.choices(person).values()) for person in (bo, aki))
    assert others == [first] * 2 and first not in own  # a choice is one person's
    store.undo(bo, "u1")
    store.undo(bo, "u2")
    assert store.pairs(bo) == []


def test_two_peoples_choices_of_one_name_stay_two(store, aki, tmp_path):
    pictures = [picture(number) for number in range(4)]
    pairs = [
        PreferencePair("a lake", pictures[0], pictures[number], f"{user} {number}", user=user, choice="1")
        for user, others in (("x", (1, 2)), ("y", (2, 3)))
        for number in others
    ]
    write_pairs(tmp_path / "set", pairs)
    assert store.add_pairs(aki, tmp_path / "set") == 2 == store.person(aki).picks
    names = list(store.choices(aki).values())
    assert names[0] == names[1] != names[2] == names[3]


def test_a_choice_fades_as_one_answer(store, aki, grid):
    store.pick(ask(store, aki, 9), "first", "r0")
    store.choose(aki, "a lake", grid, grid[2], "r1")
    store.pick(ask(store, aki, 8), "first", "r2")
    store.set_half_life(aki, 1)
    assert [one.weight for one in store.pairs(aki)] == [0.25, 0.5, 0.5, 0.5, 1]


def test_a_lost_picture_leaves_the_rest_of_a_choice(store, aki, grid):
    choice = store.choose(aki, "a lake", grid, grid[2], "r1")
    store.picture(grid[1]).unlink()
    skipped = []
    assert [(one.rejected.digest, one.choice) for one in store.pairs(aki, skipped)] == [
        (grid[0], choice),
        (grid[3], choice),
    ]
    assert len(skipped) == 1 and skipped[0].pair_id.startswith("pick-")


def test_the_fingerprint_knows_choices(store, aki, grid):
    bo = store.duplicate(aki, "Bo").id
    seen = [store.fingerprint(aki)]
    store.choose(aki, "a lake", grid, grid[2], "r1")
    seen.append(store.fingerprint(aki))
    store.choose(bo, "a lake", grid, grid[2], "r2")
    assert store.fingerprint(aki) == seen[1] != seen[0]
    store.undo(aki, "u1")
    assert store.fingerprint(aki) == seen[0]
