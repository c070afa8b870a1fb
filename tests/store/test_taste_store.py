"""The taste store: what is kept, in which order, what survives, and what is gone."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from ppd.pairs import PreferencePair, read_pairs, write_pairs
from ppd.pictures import Picture, PreferenceError
from ppd.store import StoreError, TasteStore
from tests.slowness import slowness

from .small_stores import ask, picture, stored_pictures


def test_people_are_named_once_and_counted(store):
    aki, bo = store.add_person("  Aki  Ito "), store.add_person("bo")
    assert [person.name for person in store.people()] == ["Aki Ito", "bo"]
    with pytest.raises(StoreError, match="a person called 'aki ito' already"):
        store.add_person("aki ito")
    with pytest.raises(StoreError, match="a person called 'Bo' already"):
        store.rename(aki.id, "Bo")
    with pytest.raises(StoreError, match="The name has 0 characters"):
        store.add_person("   ")
    store.rename(bo.id, "Bo")
    ask(store, aki.id, 0)
    store.pick(ask(store, aki.id, 1), "tie", "r1")
    store.pick(ask(store, aki.id, 2), "skip", "r2")
    assert [(one.name, one.picks, one.open) for one in store.people()] == [("Aki Ito", 1, 1), ("Bo", 0, 0)]
    with pytest.raises(StoreError, match="no person 'nobody'"):
        store.rename("nobody", "x")


def test_pairs_come_in_the_order_of_their_picks(store, aki):
    first, second, third, fourth = (ask(store, aki, number, f"prompt {number}") for number in range(4))
    store.pick(third, "second", "r1")
    store.pick(first, "first", "r2")
    store.pick(second, "skip", "r3")
    store.pick(fourth, "tie", "r4")
    pairs = store.pairs(aki)
    assert [(pair.prompt, pair.tie) for pair in pairs] == [("prompt 2", False), ("prompt 0", False), ("prompt 3", True)]
    assert pairs[0].chosen.read() == picture(5).read()
    assert pairs[0].rejected.read() == picture(4).read()
    assert pairs[1].chosen.read() == picture(0).read()


def test_a_pick_is_revised_and_taken_back_step_by_step(store, aki):
    first, second = ask(store, aki, 0), ask(store, aki, 1)
    store.pick(first, "first", "r1")
    store.pick(second, "first", "r2")
    store.pick(first, "second", "r3")
    assert [(one.id, one.verdict) for one in store.history(aki)] == [(first, "second"), (second, "first")]
    undone = [store.undo(aki, f"u{number}") for number in range(4)]
    assert [one and (one.id, one.verdict) for one in undone] == [(first, "first"), (second, None), (first, None), None]
    assert store.pairs(aki) == []
    assert [one.id for one in store.inbox(aki)] == [second, first]


def test_a_request_that_comes_twice_counts_once(store, aki):
    first, second = ask(store, aki, 0), ask(store, aki, 1)
    assert store.pick(first, "first", "r1") == store.pick(first, "first", "r1")
    store.pick(second, "first", "r2")
    assert store.undo(aki, "u1").id == store.undo(aki, "u1").id == second
    assert [one.id for one in store.history(aki)] == [first]
    assert ask(store, aki, 0) == first
    assert store.people()[0].open == 1


def test_a_request_for_something_else_is_refused(store, aki):
    bo = store.add_person("Bo").id
    first, second = ask(store, aki, 0), ask(store, bo, 1)
    store.pick(first, "first", "1")
    store.undo(aki, "2")
    with pytest.raises(StoreError, match="has answered another question"):
        store.pick(second, "first", "1")
    store.pick(second, "first", "3")
    with pytest.raises(StoreError, match="has undone another person's pick"):
        store.undo(bo, "2")
    assert [len(store.pairs(person)) for person in (aki, bo)] == [0, 1]


def test_what_was_imported_and_undone_can_be_imported_again(store, aki, tmp_path):
    store.pick(ask(store, aki, 0), "first", "r1")
    store.export(aki, tmp_path / "set")
    bo = store.add_person("Bo").id
    for _ in range(2):
        assert store.add_pairs(bo, tmp_path / "set") == 1 == store.person(bo).picks
        store.undo(bo, str(_))


def test_ones_own_export_brings_nothing_new(store, aki, tmp_path):
    for number, verdict in enumerate(["first", "second", "tie"]):
        store.pick(ask(store, aki, number), verdict, f"r{number}")
    store.export(aki, tmp_path / "set")
    assert store.add_pairs(aki, tmp_path / "set") == 0
    store.pick(ask(store, aki, 9), "first", "later")
    store.export(aki, tmp_path / "longer")
    bo = store.add_person("Bo").id
    assert [store.add_pairs(bo, tmp_path / name) for name in ("set", "longer")] == [3, 1]
    assert store.person(bo).picks == 4


def test_only_what_is_open_is_skipped(store, aki):
    """Somebody may have answered meanwhile."""
    asked = [ask(store, aki, number) for number in range(3)]
    foreign = ask(store, store.add_person("Bo").id, 3)
    store.pick(asked[1], "second", "r1")
    store.skip(aki, [*asked, foreign])
    assert store.verdicts(aki) == {asked[1]: "second", asked[0]: "skip", asked[2]: "skip"}
    assert store.candidate(foreign).verdict is None


def test_undo_is_the_persons_own(store, aki):
    bo = store.add_person("Bo").id
    store.pick(ask(store, aki, 0), "first", "r1")
    store.pick(ask(store, bo, 0), "second", "r2")
    store.undo(aki, "u1")
    assert (store.pairs(aki), len(store.pairs(bo))) == ([], 1)


def test_pages(store, aki):
    candidates = [ask(store, aki, number) for number in range(7)]
    page = store.inbox(aki, limit=3)
    assert [one.id for one in page] == candidates[:3:-1]
    assert [one.id for one in store.inbox(aki, before=page[-1].id, limit=3)] == candidates[3:0:-1]
    for number, candidate in enumerate(candidates):
        store.pick(candidate, "first", f"r{number}")
    page = store.history(aki, limit=3)
    assert [one.id for one in page] == candidates[:3:-1]
    assert [one.id for one in store.history(aki, before=page[-1].pick, limit=9)] == candidates[3::-1]


@pytest.mark.parametrize("verdict", ["left", "", "FIRST"])
def test_unknown_verdicts_are_refused(store, aki, verdict):
    with pytest.raises(StoreError, match="use one of first, second, tie, skip"):
        store.pick(ask(store, aki, 0), verdict, "r1")
    with pytest.raises(StoreError, match="no candidate pair 99"):
        store.pick(99, "first", "r1")


@pytest.mark.parametrize("digest", ["", "../../../etc/passwd", "0" * 64, "0" * 63 + "G"])
def test_pictures_are_found_by_their_hash_only(store, digest):
    with pytest.raises(StoreError, match="There is no picture"):
        store.picture(digest)


def test_a_broken_picture_is_refused_and_leaves_nothing(store, aki):
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        store.add_candidate(aki, "a lake", picture(0), Picture(data=b"not a picture"))
    assert store.inbox(aki) == [] and not stored_pictures(store)


def test_exported_and_imported_pairs_are_the_same(store, aki, tmp_path):
    for number, verdict in enumerate(["first", "second", "tie", "skip", "second"]):
        store.pick(ask(store, aki, number, f"prompt {number}"), verdict, f"r{number}")
    store.export(aki, tmp_path / "set")
    bo = store.add_person("Bo").id
    assert store.add_pairs(bo, tmp_path / "set") == 4
    assert store.add_pairs(bo, tmp_path / "set") == 0

    def content(pairs):
        return [(pair.prompt, pair.chosen.digest, pair.rejected.digest, pair.tie) for pair in pairs]

    assert content(store.pairs(bo)) == content(store.pairs(aki)) == content(read_pairs(tmp_path / "set"))


def test_votes_of_several_people_are_nobodys_picks(store, aki, tmp_path):
    votes = PreferencePair("a lake", picture(0), picture(1), "votes", probability=0.7)
    write_pairs(tmp_path / "set", [votes, PreferencePair("a lake", picture(2), picture(3), "pick")])
    with pytest.raises(ValueError, match=r"Pair 'votes' has a probability of 0.7, the votes of several people"):
        store.add_pairs(aki, tmp_path / "set")
    assert store.pairs(aki) == []
    skipped = []
    assert store.add_pairs(aki, tmp_path / "set", skip_bad=True, skipped=skipped) == 1
    assert [error.pair_id for error in skipped] == ["votes"]


def test_a_copy_has_the_picks_and_goes_its_own_way(store, aki):
    for number, verdict in enumerate(["first", "second", "first"]):
        store.pick(ask(store, aki, number), verdict, f"r{number}")
    store.pick(store.history(aki)[-1].id, "second", "again")
    ask(store, aki, 9)
    store.set_half_life(aki, 20)
    before = store.fingerprint(aki)
    store.set_guide(aki, "input: sea.brand.json", "a" * 64)
    assert store.fingerprint(aki) != before
    copy = store.duplicate(aki, "Aki at night")
    assert (copy.picks, copy.open, copy.half_life) == (3, 1, 20)
    assert (copy.guide, copy.guide_digest) == ("input: sea.brand.json", "a" * 64)
    store.set_guide(aki, None, None)
    assert (store.person(aki).guide, store.fingerprint(aki)) == (None, before)
    told = [[(pair.chosen.digest, pair.rejected.digest) for pair in store.pairs(one)] for one in (aki, copy.id)]
    assert told[0] == told[1]
    store.undo(copy.id, "u1")
    assert (len(store.pairs(aki)), len(store.pairs(copy.id))) == (3, 2)


def test_deleting_a_person_erases_rows_and_pictures(store, aki):
    bo = store.add_person("Bo").id
    secret = "a prompt that nobody else has"
    store.pick(ask(store, aki, 0), "first", "r1")
    store.pick(ask(store, aki, 1, secret), "first", "r2")
    store.pick(ask(store, bo, 0), "second", "r3")
    store.delete_person(aki)
    assert [person.name for person in store.people()] == ["Bo"]
    assert stored_pictures(store) == {picture(0).digest, picture(1).digest}
    assert len(store.pairs(bo)) == 1
    for file in store.folder.glob("taste.sqlite3*"):
        assert secret.encode() not in file.read_bytes()


def test_the_fingerprint_changes_with_the_pairs_only(store, aki):
    seen = [store.fingerprint(aki)]
    candidate = ask(store, aki, 0)
    assert store.fingerprint(aki) == seen[0]
    for verdict in ("first", "second"):
        store.pick(candidate, verdict, f"r-{verdict}")
        seen.append(store.fingerprint(aki))
    store.undo(aki, "u1")
    assert store.fingerprint(aki) == seen[1]
    assert len(set(seen)) == 3


def test_thumbnails_are_small_made_once_and_erased_with_their_picture(store, aki):
    large = Picture.from_image(Image.new("RGB", (800, 400), (250, 10, 10)))
    store.add_candidate(aki, "a lake", large, picture(1))
    path = store.thumbnail(large.digest)
    with Image.open(path) as image:
        assert (image.size, image.format) == ((192, 96), "JPEG")
    made = path.stat().st_mtime_ns
    assert store.thumbnail(large.digest) == path and path.stat().st_mtime_ns == made
    with pytest.raises(StoreError, match="There is no picture"):
        store.thumbnail("0" * 64)
    erased = []
    TasteStore(store.folder, on_erase=erased.append).delete_person(aki)
    assert set(erased) == {large.digest, picture(1).digest}
    assert not path.exists()


def test_picks_fade_by_the_persons_half_life(store, aki):
    for number in range(3):
        store.pick(ask(store, aki, number), "first", f"r{number}")
    assert [pair.weight for pair in store.pairs(aki)] == [1, 1, 1]
    before = store.fingerprint(aki)
    store.set_half_life(aki, 2)
    assert [pair.weight for pair in store.pairs(aki)] == [0.5, 0.5**0.5, 1]
    assert store.fingerprint(aki) != before
    with pytest.raises(StoreError, match="The half-life is 0 picks"):
        store.set_half_life(aki, 0)


def test_a_set_with_a_bad_picture_leaves_nothing(store, aki, tmp_path):
    store.pick(ask(store, aki, 0), "first", "r1")
    store.pick(ask(store, aki, 1), "first", "r2")
    store.export(aki, tmp_path / "set")
    (tmp_path / "set" / "images" / f"{picture(3).digest}.png").write_bytes(b"broken")
    bo = store.add_person("Bo").id
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        store.add_pairs(bo, tmp_path / "set")
    assert (store.person(bo).picks, store.person(bo).open) == (0, 0)


def test_ten_thousand_pairs_stay_fast(store, aki):
    """Pages and counts in processor time, which other programs disturb less than the clock's."""
    one, other = (store.pictures.keep(picture(number)) for number in (0, 1))
    with store.database.writing() as database:
        for number in range(10_000):
            candidate = store._insert_candidate(database, aki, f"{number}", "a lake", one, other, "{}", "2026-01-01")
            if number % 2:
                store._insert_pick(database, candidate, "first", "2026-01-01", f"r{number}")
    for ask_for in (store.inbox, store.history, store.person, store.fingerprint, store.verdicts, store.pictures_of):
        seconds = []
        for _ in range(3):
            start = time.process_time()
            ask_for(aki)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.05 * slowness()
    assert (store.person(aki).picks, store.person(aki).open) == (5000, 5000)


def test_an_accent_is_a_sign_of_its_own_to_nobody_and_an_id_is_no_name(store):
    composed = store.add_person("Zo\u00eb")
    assert store.person_called("Zoe\u0308") == composed
    with pytest.raises(StoreError, match="There is a person called"):
        store.add_person("zoe\u0308")
    with pytest.raises(StoreError, match="looks like the id that workflows name people by"):
        store.add_person(composed.id)
