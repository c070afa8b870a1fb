"""Single pictures: kept once, rated, and what their ratings say together."""

from __future__ import annotations

import time

import pytest

from ppd.pictures import Picture, PreferenceError
from ppd.store import Found, MissingError, StoreError, TasteStore
from tests.slowness import slowness

from .small_stores import ask, picture, stored_pictures


def rate(store, person, number, rating, prompt="a lake"):
    """A picture kept and rated; its id."""
    kept = store.add_picture(person, prompt, picture(number))
    store.rate(person, kept, rating, f"{rating} {prompt} {number}")
    return kept


def test_a_picture_of_a_prompt_is_kept_once(store, aki):
    bo = store.add_person("Bo").id
    one = store.add_picture(aki, "a lake", picture(0), {"model": "mine"})
    assert store.add_picture(aki, "a lake", picture(0), {"model": "other"}) == one
    assert len({one, store.add_picture(aki, "a hill", picture(0)), store.add_picture(bo, "a lake", picture(0))}) == 3
    kept = store.kept_picture(one)
    assert (kept.person, kept.digest, kept.prompt, kept.rating) == (aki, picture(0).digest, "a lake", None)
    assert kept.origin == {"model": "mine"}
    assert store.picture(kept.digest).read_bytes() == picture(0).read()
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        store.add_picture(aki, "a lake", Picture(data=b"none"))
    with pytest.raises(MissingError, match="There is no picture 99"):
        store.kept_picture(99)


def test_the_latest_picture_is_the_one_kept_last(store, aki):
    assert store.latest_picture(aki) is None
    kept = [store.add_picture(aki, "a lake", picture(number)) for number in (5, 3)]
    store.add_picture(store.add_person("Bo").id, "a lake", picture(9))
    assert store.latest_picture(aki) == store.kept_picture(kept[1])
    store.add_picture(aki, "a hare", picture(7), {"folder": "output", "picture": "7.png"})
    assert store.latest_picture(aki) == store.kept_picture(kept[1])
    hill = store.add_picture(aki, "a hill", picture(8))
    assert store.latest_picture(aki) == store.latest_picture(aki, prompt="a hill") == store.kept_picture(hill)
    assert store.latest_picture(aki, prompt="a lake") == store.kept_picture(kept[1])
    assert store.latest_picture(aki, prompt="a hare") is None


def test_ratings_are_revised_taken_back_and_counted_once(store, aki):
    kept = rate(store, aki, 0, "keep")
    store.rate(aki, kept, "not", "r2")
    store.rate(aki, kept, "not", "r2")
    assert (store.kept_picture(kept).rating, store.person(aki).ratings) == ("not", 1)
    assert store.database.read("SELECT rating FROM ratings ORDER BY id") == [("keep",), ("not",)]
    store.rate(aki, kept, None, "r3")
    assert (store.kept_picture(kept).rating, store.person(aki).ratings, store.rated(aki)) == (None, 0, [])


def test_foreign_and_unknown_ratings_are_refused(store, aki):
    bo, kept, other = store.add_person("Bo").id, rate(store, aki, 0, "keep"), store.add_picture(aki, "p", picture(1))
    with pytest.raises(StoreError, match="The rating is 'love': use one of keep, not, or none"):
        store.rate(aki, kept, "love", "r1")
    with pytest.raises(MissingError, match=f"Picture {kept} was not kept for this person"):
        store.rate(bo, kept, "not", "r2")
    with pytest.raises(StoreError, match="has rated another picture"):
        store.rate(aki, other, "not", "keep a lake 0")
    assert [(one.id, one.rating) for one in store.rated(aki)] == [(kept, "keep")]


def test_rated_pictures_come_in_pages(store, aki):
    kept = [rate(store, aki, number, "keep") for number in range(7)]
    store.add_picture(aki, "not rated", picture(9))
    page = store.rated(aki, limit=3)
    assert [one.id for one in page] == kept[:3:-1]
    assert [one.id for one in store.rated(aki, before=page[-1].id)] == kept[3::-1]


def test_what_is_kept_beats_what_is_not_of_the_same_prompt(store, aki):
    keeps = [rate(store, aki, number, "keep") for number in (0, 1)]
    nots = [rate(store, aki, number, "not") for number in (2, 3)]
    rate(store, aki, 4, "keep", "another prompt")
    rate(store, aki, 5, "not", "a third prompt")
    for rating, number in (("keep", 6), ("not", 7)):
        rate(store, aki, number, rating, "")  # nobody knows what these were painted for
    pairs = store.pairs(aki)
    assert [(one.id, one.choice) for one in pairs] == [
        (f"keep-{keep}-{other}", f"keep-{keep}") for keep in keeps for other in nots
    ]
    assert [(one.chosen.digest, one.rejected.digest, one.prompt) for one in pairs] == [
        (picture(keep).digest, picture(other).digest, "a lake") for keep in (0, 1) for other in (2, 3)
    ]
    assert [one.digest for one in store.moodboard(aki)] == [picture(4).digest, picture(6).digest]
    for number in nots:
        store.rate(aki, number, None, f"back {number}")
    assert store.pairs(aki) == [] and len(store.moodboard(aki)) == 4


def test_ratings_stand_among_picks_by_their_time(store, aki, monkeypatch):
    times = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 9))
    at = next(times)
    for module in ("candidates", "ratings"):
        monkeypatch.setattr(f"ppd.store.{module}.now", lambda: at)
    asked = [ask(store, aki, number) for number in (10, 11)]
    kept = [store.add_picture(aki, "a lake", picture(number)) for number in (0, 1, 2)]
    at = next(times)
    store.pick(asked[0], "first", "r1")
    at = next(times)
    for number, rating in zip(kept, ("keep", "not", "not"), strict=True):
        store.rate(aki, number, rating, f"rating {number}")
    at = next(times)
    store.pick(asked[1], "first", "r2")
    store.set_half_life(aki, 1)
    assert [(one.id.partition("-")[0], one.weight) for one in store.pairs(aki)] == [
        ("pick", 0.25),
        ("keep", 0.5),
        ("keep", 0.5),
        ("pick", 1),
    ]


def test_exported_ratings_come_back_as_choices(store, aki, tmp_path):
    for number, rating in enumerate(("keep", "not", "not")):
        rate(store, aki, number, rating)
    store.export(aki, tmp_path / "set")
    bo = store.add_person("Bo").id
    assert [store.add_pairs(one, tmp_path / "set") for one in (bo, bo, aki)] == [1, 0, 0]
    assert len(set(store.choices(bo).values())) == 1 and store.person(bo).picks == 1


def test_the_fingerprint_and_the_revision_know_ratings(store, aki):
    kept = store.add_picture(aki, "a lake", picture(0))
    seen = [(store.fingerprint(aki), store.revision(aki))]
    for number, rating in enumerate(("keep", "not", None)):
        store.rate(aki, kept, rating, f"r{number}")
        seen.append((store.fingerprint(aki), store.revision(aki)))
    prints, revisions = zip(*seen, strict=True)
    assert prints[0] == prints[3] and len(set(prints)) == 3
    assert list(revisions) == sorted(set(revisions))


def test_pictures_go_with_their_person_and_stay_with_others(store, aki):
    bo = store.add_person("Bo").id
    rate(store, aki, 0, "keep")
    rate(store, aki, 1, "not", "a prompt that nobody else has")
    rate(store, bo, 0, "not")
    ask(store, bo, 1)  # pictures 2 and 3
    assert store.digests(bo) == {picture(number).digest for number in (0, 2, 3)}
    TasteStore(store.folder).people()  # whoever opens it looks for pictures of nobody
    assert len(stored_pictures(store)) == 4
    erased = []
    TasteStore(store.folder, on_erase=erased.append).delete_person(aki)
    assert (stored_pictures(store), erased) == (store.digests(bo), [picture(1).digest])
    assert store.database.read("SELECT count(*) FROM ratings") == [(1,)]
    for file in store.folder.glob("taste.sqlite3*"):
        assert b"a prompt that nobody else has" not in file.read_bytes()


def test_the_revision_grows_with_every_change(store, aki):
    bo = store.add_person("Bo").id
    revisions = [store.revision(aki)]
    candidate = ask(store, aki, 0)
    early = store.add_picture(aki, "a hill", picture(9))
    with store.database.writing() as database:
        store._insert_rating(database, early, "keep", "2026-01-05T12:00:00+00:00", "early")
    changes = [
        lambda: store.add_candidate(aki, "another", picture(5), picture(6)),
        lambda: store.pick(candidate, "first", "r1"),
        lambda: store.pick(candidate, "second", "r2"),
        lambda: store.undo(aki, "u1"),
        lambda: store.skip(aki, [one.id for one in store.inbox(aki)]),
        lambda: store.rename(aki, "Aki 2"),
        lambda: store.set_half_life(aki, 5),
        lambda: store.set_encoder(aki, "mine"),
        lambda: store.add_picture(aki, "a lake", picture(0)),
        lambda: store.choose(aki, "a lake", [picture(0).digest, picture(1).digest], picture(0).digest, "c1"),
        lambda: store.go_back(aki, "2026-01-05", "Aki 3", "g1"),
    ]
    for change in changes:
        change()
        revisions.append(store.revision(aki))
    assert revisions == sorted(set(revisions))
    ask(store, bo, 3)
    store.duplicate(aki, "Aki 4")
    assert store.revision(aki) == revisions[-1]
    with pytest.raises(MissingError, match="There is no person 'nobody'"):
        store.revision("nobody")


def test_ten_thousand_ratings_stay_fast(store, aki):
    digest = store.pictures.keep(picture(0))
    with store.database.writing() as database:
        for number in range(10_000):
            kept = store._insert_picture(database, aki, digest, f"{number}", "{}", "2026-01-01")
            store._insert_rating(database, kept, "keep", "2026-01-01", f"r{number}")
    for ask_for in (store.rated, store.person, store.fingerprint, store.revision, store.latest_picture):
        seconds = []
        for _ in range(3):
            start = time.process_time()
            ask_for(aki)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.05 * slowness(), ask_for


def test_many_are_rated_in_one_transaction_but_for_damaged_ones(store, aki):
    found = [Found("a lake", picture(number), {"picture": f"{number}.png"}) for number in range(20)]
    starts = []
    store.database._connection().set_trace_callback(lambda sql: starts.append(sql) if "BEGIN" in sql else None)
    for _ in range(2):
        store.rate_all(aki, found, "not", "rest")
    store.database._connection().set_trace_callback(None)
    assert len(starts) == 2
    assert [(one.rating, one.prompt, one.origin) for one in reversed(store.rated(aki))] == [
        ("not", "a lake", one.origin) for one in found
    ]
    assert store.database.read("SELECT count(*) FROM ratings") == [(20,)]
    mixed = [Found("", picture(90), {}), Found("", Picture(data=b"no picture"), {})]
    assert store.rate_all(aki, mixed, "keep", "bad") == mixed[:1]
    before = store.revision(aki)
    with pytest.raises(StoreError, match="The rating is 'love'"):
        store.rate_all(aki, found, "love", "love")
    with pytest.raises(MissingError, match="There is no person"):
        store.rate_all("nobody", found, "keep", "nobody")
    assert store.revision(aki) == before
