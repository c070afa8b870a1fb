"""Many that write one taste store at once, as threads and as processes: each call is one decision."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback

import pytest

from ppd.store import MissingError, Question, StoreError, TasteStore

from .small_stores import ask, picture, stored_pictures

EIGHT = 8


def threads(works):
    answers = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(number, work):
        start.wait()
        answers[number] = answer_of(work)

    running = [threading.Thread(target=run, args=entry) for entry in enumerate(works)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return answers


def processes(works):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    start, pipes, children = time.time() + 0.3, [], []
    for work in works:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                while time.time() < start:
                    pass
                os.write(writing, json.dumps(answer_of(work)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
        children.append(child)
    answers = []
    for reading, child in zip(pipes, children, strict=True):
        with os.fdopen(reading) as pipe:
            answers.append(json.loads(pipe.read()))
        os.waitpid(child, 0)
    return answers


def answer_of(work):
    """What a work returns, as JSON has it, or the sentence that refuses it."""
    try:
        return work()
    except StoreError as error:
        return str(error)
    except BaseException:
        return traceback.format_exc()


def eight(work):
    return [lambda number=number: work(number) for number in range(EIGHT)]


@pytest.fixture(params=[threads, processes], ids=["threads", "processes"])
def at_once(request, store, aki):
    """Runs works at once, each with a store of its own where they are processes; their answers."""
    if request.param is processes:
        store.database.close()  # no way to a file may be carried over a fork
    return request.param


@pytest.fixture
def store_of(store, at_once):
    return (lambda: store) if at_once is threads else (lambda: TasteStore(store.folder))


@pytest.fixture
def a_set(tmp_path):
    """A preference set of four picks, one of them a tie and two of them one choice."""
    other = TasteStore(tmp_path / "other")
    bo = other.add_person("Bo").id
    other.pick(ask(other, bo, 0), "first", "r0")
    other.pick(ask(other, bo, 1), "tie", "r1")
    kept = [other.kept_picture(other.add_picture(bo, "p", picture(number))).digest for number in (7, 8, 9)]
    other.choose(bo, "p", kept, kept[0], "r2")
    other.export(bo, tmp_path / "set")
    other.database.close()
    return tmp_path / "set"


def count_of(store, table):
    return store.database.read(f"SELECT count(*) FROM {table}")[0][0]


def test_eight_imports_of_one_set_are_one(store, aki, at_once, store_of, a_set):
    answers = at_once(eight(lambda _: store_of().add_pairs(aki, a_set)))
    assert sorted(answers) == [0] * 7 + [3]
    assert (store.person(aki).picks, count_of(store, "picks"), count_of(store, "candidates")) == (3, 4, 4)
    assert len(set(store.choices(aki).values())) == 1


def test_eight_copies_of_one_name_are_one(store, aki, at_once, store_of):
    store.pick(ask(store, aki, 0), "first", "r0")
    store.database.close()
    answers = at_once(eight(lambda _: store_of().duplicate(aki, "copy").picks))
    assert sorted(map(str, answers)) == ["1"] + ["There is a person called 'copy' already: choose another name."] * 7
    assert (len(store.people()), count_of(store, "picks")) == (2, 2)


def test_eight_deletions_of_one_person_are_one(store, aki, at_once, store_of):
    bo = store.add_person("Bo").id
    ask(store, bo, 0)
    store.database.close()
    answers = at_once(eight(lambda _: store_of().delete_person(bo)))
    refused = [answer for answer in answers if not isinstance(answer, bool)]
    assert len(refused) == 7 and all("There is no person" in one for one in refused), answers
    assert ([one.id for one in store.people()], stored_pictures(store)) == ([aki], set())


def test_eight_times_the_same_questions_are_filed_once(store, aki, at_once, store_of):
    questions = [Question("p", picture(2 * number), picture(2 * number + 1), key=f"{number}") for number in range(5)]
    answers = at_once(eight(lambda _: len(store_of().add_candidates(aki, questions))))
    assert sorted(answers) == [0] * 7 + [5]
    assert store.person(aki).open == 5


def test_eight_that_skip_answer_once(store, aki, at_once, store_of):
    asked = [ask(store, aki, number) for number in range(3)]
    store.database.close()
    at_once(eight(lambda _: store_of().skip(aki, asked)))
    assert count_of(store, "picks") == 3


def test_one_request_eight_times_is_one(store, aki, at_once, store_of):
    """The choice, the rating and going back, each sent again and again."""
    kept = [store.add_picture(aki, "p", picture(number)) for number in range(4)]
    digests = [store.kept_picture(number).digest for number in kept]
    first = store.pick(ask(store, aki, 9), "first", "r0")
    store.database.close()
    assert len(set(at_once(eight(lambda _: store_of().choose(aki, "p", digests, digests[2], "r1"))))) == 1
    store.database.close()
    assert at_once(eight(lambda _: store_of().rate(aki, kept[0], "keep", "r2"))) == [None] * 8
    assert (count_of(store, "picks"), count_of(store, "ratings")) == (4, 1)
    store.database.close()
    with store.database.writing() as database:
        database.execute("UPDATE picks SET created = '2026-01-05T12:00:00+00:00' WHERE id = ?", (first,))
    store.database.close()
    answers = at_once(eight(lambda _: store_of().go_back(aki, "2026-01-05", "copy", "r3").id))
    assert len(set(answers)) == 1 and answers[0] in {one.id for one in store.people()}, answers
    assert (store.person(aki).picks, store.person(answers[0]).picks, len(store.people())) == (1, 2, 2)


def test_eight_names_for_eight_people_are_each_one_persons(store, aki, at_once, store_of):
    people = [store.add_person(f"n{number}").id for number in range(EIGHT)]
    store.database.close()
    answers = at_once(eight(lambda number: store_of().rename(people[number], "the name")))
    assert answers.count(None) == 1 and sum("called 'the name' already" in str(one) for one in answers) == 7, answers
    assert [one.name for one in store.people()].count("the name") == 1


def test_whoever_is_deleted_while_imports_run_leaves_nothing(store, aki, at_once, store_of, a_set):
    bo = store.add_person("Bo").id
    store.database.close()
    works = [
        *[lambda: store_of().add_pairs(bo, a_set)] * 3,
        *[lambda: store_of().add_pairs(aki, a_set)] * 3,
        lambda: store_of().delete_person(bo),
    ]
    answers = at_once(works)
    assert sorted(answers[3:6]) == [0, 0, 3] and answers[6] is True, answers
    assert all(one in (0, 3) or "There is no person" in str(one) for one in answers[:3]), answers
    assert [one.id for one in TasteStore(store.folder).people()] == [aki]
    assert stored_pictures(store) == store.digests(aki) and len(store.pairs(aki)) == 4


def test_pictures_that_go_while_they_are_taken_over_are_copied_again(store, aki, a_set, monkeypatch):
    """Nothing names them yet, so that another program, which opens the store just then, takes them for orphans."""
    add_answers, times = store._add_answers, []

    def later(*arguments):
        times.append(len(stored_pictures(store)))
        if len(times) < 3:
            TasteStore(store.folder).people()
            assert not stored_pictures(store)
        return add_answers(*arguments)

    monkeypatch.setattr(store, "_add_answers", later)
    assert store.add_pairs(aki, a_set) == 3
    assert times == [7, 7, 7] and len(store.pairs(aki)) == 4 and len(stored_pictures(store)) == 7


def test_an_import_for_whom_is_gone_leaves_no_pictures(store, aki, a_set, monkeypatch):
    add_answers = store._add_answers

    def later(*arguments):
        TasteStore(store.folder).delete_person(aki)
        return add_answers(*arguments)

    monkeypatch.setattr(store, "_add_answers", later)
    with pytest.raises(MissingError, match="There is no person"):
        store.add_pairs(aki, a_set)
    assert not stored_pictures(store)
