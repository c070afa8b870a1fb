"""Copies of a person, and going back to an earlier day."""

from __future__ import annotations

import time

import pytest

from ppd.store import MissingError, StoreError

from .small_stores import ask, picture

DAYS = [f"2026-03-0{day}T12:00:00+00:00" for day in (1, 2, 5)]


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that the store reads, in a place on the UTC meridian."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    at = [DAYS[0]]
    for module in ("candidates", "ratings", "versions", "people"):
        monkeypatch.setattr(f"ppd.store.{module}.now", lambda: at[0])
    yield lambda moment: at.__setitem__(0, moment)
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def week(store, aki, clock):
    """Three days: picks, then a choice and a rating, then a revised pick, a skip and the rating anew."""
    kept = [store.add_picture(aki, "a lake", picture(100 + number)) for number in range(3)]
    asked = [ask(store, aki, number) for number in range(3)]
    store.pick(asked[0], "first", "r1")
    store.pick(asked[1], "tie", "r2")
    clock(DAYS[1])
    store.choose(aki, "a lake", [store.kept_picture(one).digest for one in kept], picture(101).digest, "r3")
    store.rate(aki, kept[0], "keep", "r4")
    clock(DAYS[2])
    store.pick(asked[0], "second", "r5")
    store.rate(aki, kept[0], "not", "r6")
    store.rate(aki, kept[1], "keep", "r7")
    store.pick(asked[2], "skip", "r8")
    return asked, kept


def said(store, person):
    """All that stands, without ids."""
    return (
        [(one.prompt, one.chosen.digest, one.rejected.digest, one.tie, one.created) for one in store.pairs(person)],
        [(one.digest, one.prompt, one.rating, one.origin, one.created) for one in store.rated(person)],
        sorted(list(store.choices(person).values()).count(choice) for choice in set(store.choices(person).values())),
        (store.person(person).picks, store.person(person).open, store.person(person).ratings),
    )


def test_a_copy_has_everything_and_goes_its_own_way(store, aki, week):
    store.set_half_life(aki, 9)
    copy = store.duplicate(aki, "Aki at night").id
    assert said(store, copy) == said(store, aki)
    assert store.digests(copy) == store.digests(aki)
    assert not set(store.choices(copy).values()) & set(store.choices(aki).values())
    before = said(store, aki)
    for number in range(5):
        store.undo(copy, f"u{number}")
    store.rate(copy, store.rated(copy)[0].id, None, "back")
    assert said(store, aki) == before and store.choices(copy) == {}


def test_days_end_with_their_last_pick_and_count(store, aki, week):
    picks = [pick for (pick,) in store.database.read("SELECT id FROM picks ORDER BY id")]
    assert store.days(aki) == [("2026-03-01", picks[1], 2), ("2026-03-02", picks[3], 4), ("2026-03-05", picks[5], 4)]
    store.undo(aki, "u1")
    assert store.days(aki)[-1] == ("2026-03-05", picks[4], 4)
    assert store.days(store.add_person("Bo").id) == []
    with pytest.raises(MissingError, match="There is no person"):
        store.days("nobody")


def test_going_back_keeps_the_present_as_somebody_new(store, aki, week, clock):
    asked, kept = week
    present, days = said(store, aki), store.days(aki)
    clock("2026-03-09T12:00:00+00:00")
    copy = store.go_back(aki, days[1][1], "Aki of today", "back")
    assert copy.name == "Aki of today" and said(store, copy.id) == present
    assert store.days(aki) == days[:2]
    assert store.candidate(asked[0]).verdict == "first" and store.candidate(asked[2]).verdict is None
    assert [store.kept_picture(one).rating for one in kept] == ["keep", None, None]
    before = store.revision(aki)
    assert store.go_back(aki, days[1][1], "Aki of today", "back") == copy
    assert (store.revision(aki), len(store.people())) == (before, 2)
    store.go_back(aki, days[0][1], "Aki of Tuesday", "back again")
    assert store.choices(aki) == {} and store.person(aki).picks == 2 and store.person(aki).ratings == 0


def test_a_day_in_the_midst_of_a_choice_keeps_it_whole(store, aki, week):
    choice = store.database.read("SELECT id FROM picks WHERE choice IS NOT NULL ORDER BY id")
    store.go_back(aki, choice[0][0], "copy", "back")
    assert len(store.choices(aki)) == len(choice) == 2


def test_where_nothing_is_later_nothing_happens(store, aki, week):
    last, bo = store.days(aki)[-1][1], store.add_person("Bo").id
    with pytest.raises(StoreError, match="There is nothing to take back"):
        store.go_back(aki, last, "copy", "back")
    with pytest.raises(MissingError, match=f"There is no pick {last} of this person"):
        store.go_back(bo, last, "copy", "back")
    first = store.days(aki)[0][1]
    with pytest.raises(StoreError, match="a person called 'Bo' already"):
        store.go_back(aki, first, "Bo", "back")
    assert (len(store.people()), store.days(aki)[-1][1]) == (2, last)
    store.go_back(aki, first, "copy", "back")
    with pytest.raises(StoreError, match="has undone another person's pick"):
        store.go_back(bo, last, "copy 2", "back")
