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
    for module in ("candidates", "ratings", "people"):
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


def test_days_are_those_of_picks_and_ratings_and_count_what_stood(store, aki, week, clock):
    _, kept = week
    days = [("2026-03-01", 2), ("2026-03-02", 3), ("2026-03-05", 3)]
    assert store.days(aki) == days
    clock("2026-03-07T12:00:00+00:00")
    store.rate(aki, kept[2], "keep", "r9")
    assert store.days(aki) == [*days, ("2026-03-07", 3)]
    for number in range(3):  # the skip, the revised pick, the choice
        store.undo(aki, f"u{number}")
    assert store.days(aki) == [("2026-03-01", 2), ("2026-03-02", 2), ("2026-03-05", 2), ("2026-03-07", 2)]
    assert store.days(store.add_person("Bo").id) == []
    with pytest.raises(MissingError, match="There is no person"):
        store.days("nobody")


def test_going_back_keeps_the_present_as_somebody_new(store, aki, week, clock):
    asked, kept = week
    present, days = said(store, aki), store.days(aki)
    clock("2026-03-09T12:00:00+00:00")
    copy = store.go_back(aki, "2026-03-02", "Aki of today", "back")
    assert copy.name == "Aki of today" and said(store, copy.id) == present
    assert store.days(aki) == days[:2]
    assert store.candidate(asked[0]).verdict == "first" and store.candidate(asked[2]).verdict is None
    assert [store.kept_picture(one).rating for one in kept] == ["keep", None, None]
    before = store.revision(aki)
    assert store.go_back(aki, "2026-03-02", "Aki of today", "back") == copy
    assert (store.revision(aki), len(store.people())) == (before, 2)
    store.go_back(aki, "2026-03-01", "Aki of Tuesday", "back again")
    assert store.choices(aki) == {} and store.person(aki).picks == 2 and store.person(aki).ratings == 0
    assert store.days(aki) == days[:1]


def test_ratings_after_a_day_are_taken_back_whenever_picks_were_made(store, aki, clock):
    """Picks on the first and the third day, ratings on the second."""
    kept = [store.add_picture(aki, "a lake", picture(100 + number)) for number in range(2)]
    store.pick(ask(store, aki, 0), "first", "r1")
    clock(DAYS[1])
    for picture_id, rating in zip(kept, ("keep", "not"), strict=True):
        store.rate(aki, picture_id, rating, f"{rating}")
    clock(DAYS[2])
    store.pick(ask(store, aki, 1), "first", "r2")
    copy = store.go_back(aki, "2026-03-01", "Aki of then", "back")
    assert [store.kept_picture(one).rating for one in kept] == [None, None]
    assert (store.days(aki), store.person(aki).picks) == ([("2026-03-01", 1)], 1)
    store.go_back(copy.id, "2026-03-02", "Aki of Monday", "to Monday")
    assert (store.person(copy.id).picks, store.person(copy.id).ratings) == (1, 2)


def test_who_has_only_rated_since_goes_back_too_and_once(store, aki, clock):
    kept = store.add_picture(aki, "a lake", picture(100))
    store.pick(ask(store, aki, 0), "first", "r1")
    store.rate(aki, kept, "keep", "a rating of that second")
    clock(DAYS[1])
    store.rate(aki, kept, "not", "later")
    clock(DAYS[2])
    store.rate(aki, kept, None, "latest")
    copies = [store.go_back(aki, "2026-03-01", "copy", "back") for _ in range(2)]
    assert copies[0] == copies[1] and len(store.people()) == 2
    assert (store.kept_picture(kept).rating, store.days(aki)) == ("keep", [("2026-03-01", 1)])
    with pytest.raises(StoreError, match="There is nothing to take back"):
        store.go_back(aki, "2026-03-01", "copy 2", "back again")
    bo = store.add_person("Bo").id
    with pytest.raises(StoreError, match="has undone another person's rating"):
        store.go_back(bo, "2026-03-01", "copy 2", "back")


def test_no_day_ends_within_a_choice(store, aki, monkeypatch):
    digests = [store.kept_picture(store.add_picture(aki, "a lake", picture(n))).digest for n in range(4)]
    moments = iter(f"2026-03-01T23:59:{second}+00:00" for second in range(58, 99))
    monkeypatch.setattr("ppd.store.candidates.now", lambda: next(moments))
    store.choose(aki, "a lake", digests, digests[0], "r1")
    assert len({one.created for one in store.pairs(aki)}) == 1


def test_where_nothing_is_later_nothing_happens(store, aki, week):
    bo = store.add_person("Bo").id
    with pytest.raises(StoreError, match="There is nothing to take back"):
        store.go_back(aki, "2026-03-05", "copy", "back")
    for person, day in ((bo, "2026-03-05"), (aki, "2026-03-04"), (aki, "yesterday")):
        with pytest.raises(MissingError, match=f"This person has said nothing on '{day[:10]}'"):
            store.go_back(person, day, "copy", "back")
    with pytest.raises(StoreError, match="a person called 'Bo' already"):
        store.go_back(aki, "2026-03-01", "Bo", "back")
    assert (len(store.people()), store.days(aki)[-1]) == (2, ("2026-03-05", 3))
    store.go_back(aki, "2026-03-01", "copy", "back")
    with pytest.raises(StoreError, match="has undone another person's"):
        store.go_back(bo, "2026-03-05", "copy 2", "back")
