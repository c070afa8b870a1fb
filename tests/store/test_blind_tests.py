"""Blind tests in the store: what they ask is never a taste's, and nothing answered is lost."""

from __future__ import annotations

import pytest

from ppd.blind_questions import Matchup
from ppd.store import MissingError, StoreError, TasteStore

from .small_stores import ask, picture, stored_pictures


def matchups(count=4, start=1000, prompt="a test {}"):
    return [Matchup(prompt.format(n), (picture(start + 2 * n), picture(start + 2 * n + 1))) for n in range(count)]


@pytest.fixture
def blind(store, aki):
    return store.add_test(aki, ["base", "mine"], matchups(), 20, {"picks": 0})[0]


def of_taste(store, person):
    """All that is read of a person's taste."""
    who = store.person(person)
    return (
        *(who.picks, who.open, who.ratings, who.revision),
        *(
            store.answers(person),
            store.inbox(person),
            store.history(person),
            store.verdicts(person),
            store.keys(person),
        ),
        *(store.days(person), store.moodboard(person), store.fingerprint(person), store.pictures_of(person)),
    )


def test_answers_of_a_test_are_no_picks(store, aki, blind, tmp_path):
    store.pick(ask(store, aki, 1), "first", "taste")
    before = of_taste(store, aki)
    for number, one in enumerate(store.test(blind).trials):
        store.answer_trial(blind, one.id, "first", 1.5, f"request {number}")
    assert of_taste(store, aki) == before
    store.export(aki, tmp_path / "set")
    assert len(list((tmp_path / "set").rglob("*.png"))) == 2
    copy = store.duplicate(aki, "copy").id
    assert store.tests(copy) == [] and len(store.pairs(copy)) == 1
    with pytest.raises(MissingError, match="There is no picture"):  # nor can they be made picks by hand
        store.choose(aki, "x", list(store.test(blind).trials[0].pictures), store.test(blind).trials[0].pictures[0], "r")


def test_it_is_continued_where_it_was_left_also_by_another_program(store, aki, blind):
    trials = store.test(blind).trials
    assert [one.repeats is None for one in trials].count(False) == 1 and len(trials) == 5
    store.answer_trial(blind, trials[0].id, "second", 2.0, "one")
    store.answer_trial(blind, trials[0].id, "second", 2.0, "one")  # the network's repetition
    store.answer_trial(blind, trials[0].id, "first", 9.0, "late")  # a second press
    store.answer_trial(blind, trials[1].id, "tie", 3.0, "two")
    again = TasteStore(store.folder).test(blind)
    assert [one.verdict for one in again.trials] == ["second", "tie", None, None, None]
    assert (again.answered, again.spent, again.is_over, again.finished) == (2, 5.0, False, None)


def test_undo_takes_back_one_by_one_and_keeps_the_time(store, aki, blind):
    trials = store.test(blind).trials
    for number in range(3):
        store.answer_trial(blind, trials[number].id, "first", 2.0, f"r{number}")
    store.undo_trial(blind, "u1")
    store.undo_trial(blind, "u1")
    assert store.test(blind).answered == 2
    store.undo_trial(blind, "u2")
    store.answer_trial(blind, trials[1].id, "second", 2.0, "anew")
    found = store.test(blind)
    assert [one.verdict for one in found.trials][:3] == ["first", "second", None]
    assert found.spent == 8.0
    store.undo_trial(blind, "u3")
    store.undo_trial(blind, "u4")
    store.undo_trial(blind, "u5")
    assert store.test(blind).answered == 0


def test_once_the_result_is_shown_nothing_is_blind(store, aki, blind):
    with pytest.raises(StoreError, match="Nothing has been answered yet"):
        store.finish_test(blind)
    trial = store.test(blind).trials[0]
    store.answer_trial(blind, trial.id, "first", 1.0, "r")
    finished = store.finish_test(blind).finished
    assert finished and store.finish_test(blind).finished == finished
    with pytest.raises(StoreError, match="not blind any more: make another"):
        store.answer_trial(blind, store.test(blind).trials[1].id, "first", 1.0, "r2")
    with pytest.raises(StoreError, match="not blind any more"):
        store.undo_trial(blind, "u")


def test_the_same_pictures_are_one_test(store, aki, blind):
    assert store.add_test(aki, ["base", "mine"], matchups(), 20) == (blind, False)
    assert store.add_test(aki, ["base", "mine"], matchups(), 3) == (blind, False)
    assert store.add_test(aki, ["renamed", "mine"], matchups(), 20) == (blind, False)
    exchanged = [Matchup(f"other words {one.prompt}", one.pictures[::-1]) for one in reversed(matchups())]
    assert store.add_test(aki, ["mine", "base"], exchanged, 20) == (blind, False)
    other, is_new = store.add_test(aki, ["base", "mine"], matchups(5), 20)
    assert is_new and [one.id for one in store.tests(aki)] == [other, blind]


def test_after_the_result_no_other_name_asks_the_same_again(store, aki, blind):
    store.answer_trial(blind, store.test(blind).trials[0].id, "first", 1.0, "r")
    store.finish_test(blind)
    assert store.add_test(aki, ["base", "yours"], matchups(), 20) == (blind, False)
    assert [one.finished is not None for one in store.tests(aki)] == [True]


def test_pictures_are_kept_with_the_lock_free_between_them(store, aki, monkeypatch):
    """Another program files a pick while a test's pictures are kept, and one that was erased is kept again."""
    keep, kept = store.pictures.keep, []
    other = TasteStore(store.folder)

    def kept_slowly(one):
        kept.append(keep(one))
        return kept[-1]

    has, asked = store.pictures.has, []

    def erased_once(digest):
        if len(kept) == 3 and not asked:
            asked.append(ask(other, aki, 1))  # would wait for the lock in vain
            other._erase_orphans()
        return has(digest)

    monkeypatch.setattr(store.pictures, "keep", kept_slowly)
    monkeypatch.setattr(store.pictures, "has", erased_once)
    test, is_new = store.add_test(aki, ["base", "mine"], matchups(), 20)
    assert is_new and asked and len(kept) == 11
    assert {digest for one in store.test(test).trials for digest in one.pictures} <= stored_pictures(store)


def test_a_test_that_cannot_be_filed_leaves_no_picture(store, aki, monkeypatch):
    keep = store.pictures.keep

    def fails_late(one):
        if len(stored_pictures(store)) == 5:
            raise OSError(28, "No space left on device")
        return keep(one)

    monkeypatch.setattr(store.pictures, "keep", fails_late)
    with pytest.raises((StoreError, OSError), match="full|No space"):
        store.add_test(aki, ["base", "mine"], matchups(), 20)
    assert stored_pictures(store) == set() and store.tests(aki) == []


@pytest.mark.parametrize("said", ["pick", "tie", "rating"])
def test_what_has_made_the_taste_is_not_tested(store, aki, said):
    if said == "rating":
        store.rate(aki, store.add_picture(aki, "A  lake", picture(40)), "keep", "r")
    else:
        candidate = store.add_candidate(aki, "A  lake", picture(40), picture(41))
        store.pick(candidate, "tie" if said == "tie" else "second", "r")
    with pytest.raises(StoreError, match="Prompt 1 was answered .* test by other prompts") as refused:
        store.add_test(aki, ["base", "mine"], matchups(prompt="a lake"), 20)
    assert vars(refused.value)["prompt"] == "a lake"
    with pytest.raises(StoreError, match="paint it by another seed"):
        store.add_test(aki, ["base", "mine"], matchups(start=40), 20)
    with pytest.raises(StoreError, match="Prompt 2 was .* test by other prompts"):
        store.check_apart(aki, [("a hill", ()), ("a lake", ())])
    assert store.tests(aki) == [] and store.digests(aki) <= {picture(40).digest, picture(41).digest}


def test_what_was_skipped_or_waits_may_be_tested(store, aki):
    store.pick(ask(store, aki, 20, "a lake"), "skip", "r")
    ask(store, aki, 30, "a lake")
    assert store.add_test(aki, ["base", "mine"], matchups(prompt="a lake", start=40), 20)[1]


@pytest.mark.parametrize("arms", [["base"], ["base", "Base "], ["a", "b", "c", "d"], ["", "b"], ["x" * 41, "b"]])
def test_names_of_arms_that_say_nothing_are_refused(store, aki, arms):
    with pytest.raises(StoreError, match="give"):
        store.add_test(aki, arms, matchups(), 20)


def test_a_deleted_test_and_an_erased_person_leave_nothing(store, aki, blind):
    kept = ask(store, aki, 1)
    assert len(stored_pictures(store)) == 10
    store.answer_trial(blind, store.test(blind).trials[0].id, "first", 1.0, "r")
    assert store.delete_test(blind) is True
    assert stored_pictures(store) == {store.candidate(kept).first, store.candidate(kept).second}
    with pytest.raises(MissingError, match="blind test is not there any more"):
        store.test(blind)
    store.add_test(aki, ["base", "secret arm"], matchups(prompt="secret {}"), 20)
    store.delete_person(aki)
    left = [path for path in store.folder.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert stored_pictures(store) == set() and left == []


def test_questions_of_another_test_are_refused(store, aki, blind):
    other, _ = store.add_test(aki, ["base", "yours"], matchups(start=2000), 20)
    trial = store.test(other).trials[0]
    with pytest.raises(MissingError, match="not of this blind test"):
        store.answer_trial(blind, trial.id, "first", 1.0, "r")
    assert store.trial_picture(trial.id, 0) == trial.pictures[0]
    with pytest.raises(MissingError, match="question is not there"):
        store.trial_picture("x", 0)
    with pytest.raises(StoreError, match="The verdict is 'best'"):
        store.answer_trial(other, trial.id, "best", 1.0, "r")


def test_arms_that_paint_the_same_are_refused(store, aki):
    with pytest.raises(StoreError, match="^All ways have painted the same pictures"):
        store.add_test(aki, ["base", "mine"], [Matchup("x", (picture(1), picture(1)))], 20)
