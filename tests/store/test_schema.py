"""Versions of the taste store: a real one of the released pack becomes one of this pack, with a copy kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from ppd.store import StoreError, TasteStore, UnusableError

from .small_stores import ask, picture, released_store, stored_pictures, told


def versions(folder):
    found = {}
    for path in (folder / "taste.sqlite3", *folder.glob("taste.sqlite3.v*")):
        with closing(sqlite3.connect(path)) as database:
            found[path.name] = database.execute("PRAGMA user_version").fetchone()[0]
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_a_released_store_says_the_same_afterwards(tmp_path, version):
    folder, said = released_store(tmp_path, version)
    before = stored_pictures(TasteStore(folder))
    store = TasteStore(folder)
    assert told(store) == said
    assert sorted(one.encoder for one in store.people()) == [*["my model"] * (version - 1), *["pocket"] * (5 - version)]
    assert {(one.ratings, store.revision(one.id)) for one in store.people()} == {(0, 0)}
    assert stored_pictures(store) == before
    assert (len(said), sum(len(one["pairs"]) for one in said.values())) == (4, 17)
    assert versions(folder) == {"taste.sqlite3": 5, f"taste.sqlite3.v{version}": version}


@pytest.mark.parametrize("version", [1, 2])
def test_picks_go_on_in_a_migrated_store(tmp_path, version):
    folder, said = released_store(tmp_path, version)
    store = TasteStore(folder)
    ann = store.person_called("ann ågren")
    assert store.undo(ann.id, "undo 3").verdict is None  # what was undone before is not undone again
    with pytest.raises(StoreError, match="has answered another question"):
        store.pick(store.inbox(ann.id)[0].id, "first", "request 0")
    store.set_encoder(ann.id, "my model")
    assert store.person(ann.id).encoder == "my model"
    store.pick(ask(store, ann.id, 50), "first", "new")
    kept = [store.kept_picture(store.add_picture(ann.id, "a lake", picture(number))) for number in (100, 101, 70)]
    digests = [one.digest for one in kept]
    store.choose(ann.id, "a lake", digests, digests[2], "choice")
    store.rate(ann.id, kept[0].id, "keep", "rated")
    again = TasteStore(folder)
    assert (again.person(ann.id).picks, again.person(ann.id).ratings) == (
        said[ann.id]["person"][3] + 1,
        1,
    )  # the choice has revised a pick
    assert len(again.choices(ann.id)) == 2


@pytest.mark.parametrize("version", [3, 4])
def test_a_store_of_version_3_or_4_keeps_choices_ratings_and_revisions(tmp_path, version):
    folder, said = released_store(tmp_path, version)
    store = TasteStore(folder)
    ann = store.person_called("Ann Ågren")
    more = said.pop("more")
    assert told(store) == said
    assert [ann.ratings, ann.revision, list(store.choices(ann.id).values())] == more
    assert versions(folder) == {"taste.sqlite3": 5, f"taste.sqlite3.v{version}": version}
    assert [test.arms for test in store.tests(ann.id)] == ([] if version == 3 else [("plain", "mine")])
    assert {one.guide for one in store.people()} == {None}
    store.set_guide(ann.id, "input: sea.brand.json", "a" * 64)
    assert store.revision(ann.id) == more[1] + 1


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_the_backup_is_the_store_as_it_was(tmp_path, version):
    folder, _ = released_store(tmp_path, version)
    with closing(sqlite3.connect(folder / "taste.sqlite3")) as database:
        dump = list(database.iterdump())
    store = TasteStore(folder)
    store.add_person("new")
    with closing(sqlite3.connect(folder / f"taste.sqlite3.v{version}")) as database:
        assert list(database.iterdump()) == dump


def test_deleting_a_person_erases_them_from_the_backup_too(tmp_path):
    """A copy without them would be none, so it goes as a whole."""
    folder, _ = released_store(tmp_path)
    store = TasteStore(folder)
    ann = store.person_called("Ann Ågren").id
    with pytest.raises(StoreError, match="There is no person 'nobody'"):
        store.delete_person("nobody")
    assert (folder / "taste.sqlite3.v1").exists()
    store.delete_person(ann)
    assert versions(folder) == {"taste.sqlite3": 5}
    assert not [path for path in folder.rglob("*") if path.is_file() and "Ågren".encode() in path.read_bytes()]


def test_a_migration_that_fails_leaves_all_as_it_was(tmp_path):
    """The folder of the backup cannot be written: its name is taken by a folder."""
    folder, said = released_store(tmp_path)
    (folder / "taste.sqlite3.v1").mkdir()
    with pytest.raises(UnusableError, match="taste.sqlite3 cannot be opened"):
        TasteStore(folder).people()
    with closing(sqlite3.connect(folder / "taste.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
    assert not list(folder.glob(".*"))
    (folder / "taste.sqlite3.v1").rmdir()
    assert told(TasteStore(folder)) == said


def test_a_store_of_a_newer_pack_is_refused(store):
    store.people()
    with closing(sqlite3.connect(store.folder / "taste.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="taste.sqlite3 is of version 99, this pack reads 5: update the pack"):
        TasteStore(store.folder).people()


def test_writes_are_synced(store):
    store.people()
    database = store.database._connection()
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
