"""Taste stores that cannot be used as they are: what is told, in whose words, and that nothing good is lost."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ppd.pictures import PreferenceError
from ppd.store import StoreError, TasteStore, UnusableError

from .small_stores import ask, picture, released_store, stored_pictures, told

ROOT = Path(__file__).resolve().parents[2]
SQLITES_WORDS = ("malformed", "not a database", "no such", "unable to open", "locked", "sqlite error", "disk image")


def use(store):
    """Whatever nodes and routes ask of a store."""
    for person in store.people():
        told(store)
        candidates = store.inbox(person.id)
        store.pictures_of(person.id)
        store.choices(person.id)
        store.days(person.id)
        for kept in [*store.rated(person.id), *store.moodboard(person.id)]:
            store.rate(person.id, kept.id, "not", f"rating of {kept.id} anew")
        store.fingerprint(person.id)
        store.undo(person.id, f"undo of {person.id}")
        if candidates:
            store.pick(candidates[0].id, "tie", f"tie of {person.id}")
        store.skip(person.id, [one.id for one in candidates[1:]])
        store.rename(person.id, f"{person.name[:40]} 2")
    store.delete_person(store.duplicate(store.person_called("Bo", make=True).id, "copy").id)


def check_the_answer(error, folder):
    """One sentence that names what is meant and the way out."""
    message = str(error)
    assert not any(word in message.lower() for word in SQLITES_WORDS), message
    assert "\n" not in message and message.endswith("."), message
    if isinstance(error, UnusableError):
        assert str(folder) in message and any(word in message for word in ("move", "update", "right to write")), message


def mutated(original, folder, number):
    """A copy of a store in which a few bytes, or a run of them, are others."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder, copy_function=os.link)
    path = folder / "taste.sqlite3"
    data, luck = bytearray(path.read_bytes()), random.Random(number)
    kind = luck.randrange(4)
    if kind == 0:  # single bytes anywhere
        for _ in range(luck.choice([1, 3, 30])):
            data[luck.randrange(len(data))] = luck.randrange(256)
    elif kind == 1:  # a run of noise
        start, length = luck.randrange(len(data)), luck.choice([16, 512, 4096])
        data[start : start + length] = luck.randbytes(len(data[start : start + length]))
    elif kind == 2:  # the file's header, where version and kind stand
        for _ in range(3):
            data[luck.randrange(100)] = luck.randrange(256)
    else:  # cut short
        del data[luck.randrange(len(data)) :]
    path.unlink()
    path.write_bytes(data)


def answers_to_mutations(original, folder, count):
    """How often a mutated store was refused, and how often used."""
    refused = 0
    for number in range(count):
        mutated(original, folder, number)
        try:
            use(TasteStore(folder))
        except (StoreError, PreferenceError) as error:
            check_the_answer(error, folder)
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}") from error
    return refused, count - refused


@pytest.mark.parametrize("version", [1, 2, 3])
def test_mutated_stores_answer_in_our_words(tmp_path, version):
    original, _ = released_store(tmp_path, min(version, 2))
    if version == 3:
        store = TasteStore(original)
        for person in store.people():
            pictures = [store.add_picture(person.id, "a lake", picture(number)) for number in range(3)]
            digests = [store.kept_picture(number).digest for number in pictures]
            store.choose(person.id, "a lake", digests, digests[1], f"choice of {person.id}")
            for number in pictures:
                store.rate(person.id, number, "keep" if number == pictures[0] else "not", f"rating of {number}")
        store.database.close()
        (original / "taste.sqlite3.v2").unlink()
    refused, used = answers_to_mutations(original, tmp_path / "mutated", 40)
    assert refused > 5 and used > 5


def test_good_stores_stay_good(tmp_path):
    folder, said = released_store(tmp_path)
    before = stored_pictures(TasteStore(folder))
    for _ in range(3):
        store = TasteStore(folder)
        assert told(store) == said
    assert stored_pictures(store) == before


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, random.Random(0).randbytes(4096), b"SQLite format 3\0"])
def test_a_database_that_is_none_erases_no_pictures(tmp_path, data):
    folder, said = released_store(tmp_path)
    path, good = folder / "taste.sqlite3", (folder / "taste.sqlite3").read_bytes()
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    path.write_bytes(data)
    store = TasteStore(folder)
    for _ in range(2):
        with pytest.raises(UnusableError, match=f"taste.sqlite3.* move the folder {folder} away"):
            store.people()
    path.write_bytes(good)  # and what is mended goes on without a restart
    assert told(store) == said
    assert set(before) <= set(folder.rglob("*"))


def test_a_lost_row_erases_no_pictures(tmp_path):
    """A damaged page looks like pictures that nobody has any more."""
    folder, _ = released_store(tmp_path)
    TasteStore(folder).people()
    before = stored_pictures(TasteStore(folder))
    path = folder / "taste.sqlite3"
    data, digest = path.read_bytes(), sorted(before)[0].encode()
    assert data.count(digest) > 1
    at = data.index(digest)
    path.write_bytes(data[:at] + b"f" * 64 + data[at + 64 :])
    for _ in range(2):
        try:
            TasteStore(folder).people()
        except UnusableError as error:
            check_the_answer(error, folder)
    assert stored_pictures(TasteStore(folder)) == before


def test_the_way_out_works(tmp_path):
    folder, said = released_store(tmp_path)
    store = TasteStore(folder)
    store.people()
    store.database.close()
    (folder / "taste.sqlite3").write_bytes(b"noise" * 999)
    with pytest.raises(UnusableError, match=r"what stood in the backup taste\.sqlite3\.v1, move taste\.sqlite3, "):
        store.people()
    for name in ("taste.sqlite3", "taste.sqlite3-wal", "taste.sqlite3-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "taste.sqlite3.v1").rename(folder / "taste.sqlite3")
    assert told(store) == said
    folder.rename(tmp_path / "away")
    assert store.people() == []


def test_a_locked_store_says_so_soon(store, aki):
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        store.database.close()
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE people SET half_life = 1")
        for someone in (TasteStore(store.folder), store):
            start = time.monotonic()
            with pytest.raises(UnusableError, match="is in use by another program"), someone.database.hurried():
                someone.people()
            assert time.monotonic() - start < 5
        other.execute("ROLLBACK")
    assert [one.name for one in store.people()] == ["Aki"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "ppd").write_text("")
    with pytest.raises(UnusableError, match="expected a file in a folder that you may read and write"):
        TasteStore(tmp_path / "ppd" / "taste").people()


def without_shared_memory(folder):
    """SQLite answers wal there, and its next statement fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "taste.sqlite3-shm").symlink_to("/nowhere/at/all")


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_drive_that_promises_shared_memory_and_has_none(tmp_path):
    folder = tmp_path / "store"
    without_shared_memory(folder)
    store = TasteStore(folder)
    aki = store.add_person("Aki").id
    store.pick(ask(store, aki, 0), "first", "r1")
    again = TasteStore(folder)
    assert again.database.read("PRAGMA journal_mode") == [("truncate",)]
    assert again.person(aki).picks == 1


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_store_that_is_moved_to_such_a_drive(store, aki, tmp_path):
    store.pick(ask(store, aki, 0), "first", "r1")
    store.database.close()
    folder = tmp_path / "there"
    shutil.copytree(store.folder, folder)
    (folder / "taste.sqlite3-shm").unlink(missing_ok=True)
    without_shared_memory(folder)
    moved = TasteStore(folder)
    assert moved.person(aki).picks == 1
    moved.pick(ask(moved, aki, 1), "first", "r2")
    assert moved.database.read("PRAGMA journal_mode") == [("truncate",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("has_shared_memory", [True, False])
def test_six_processes_open_a_fresh_folder_at_once(tmp_path, has_shared_memory):
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        if not has_shared_memory:
            without_shared_memory(folder)
        reading, writing = os.pipe()
        start, children = time.time() + 0.3, []
        for number in range(6):
            children.append(os.fork())
            if children[-1] == 0:
                open_at(start, folder, number, writing)
        os.close(writing)
        with os.fdopen(reading) as answers:
            said = answers.read().split()
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6, said
        assert (len(said), len(set(said))) == (6, 1)
        assert len(TasteStore(folder).people()) == 7


def open_at(start, folder, number, writing):
    """In a process of its own: make the same person as the others, and another one."""
    try:
        while time.time() < start:
            pass
        store = TasteStore(folder)
        os.write(writing, f"{store.person_called('ME' if number % 2 else 'me', make=True).id}\n".encode())
        store.add_person(f"own {number}")
        os._exit(0)
    except BaseException as error:
        os.write(writing, f"{error}\n".encode())
    finally:
        os._exit(1)


def test_threads_make_a_person_once(store):
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.person_called("me", make=True).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8


def test_what_a_cut_writing_left_goes_with_the_next_opening(store, aki):
    candidate = store.candidate(ask(store, aki, 0))
    store.thumbnail(candidate.first)
    for folder in (store.pictures.folder, store.pictures.thumbnails):
        (folder / candidate.first[:2] / f".{candidate.first}.0123.part").write_bytes(b"half a picture")
    TasteStore(store.folder).people()
    assert not list(store.folder.rglob("*.part"))
    assert store.thumbnail(candidate.first).is_file()


@pytest.fixture
def small_drive(tmp_path):
    """A drive of 2 MB."""
    place = tmp_path / "drive"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a drive in memory")
    yield place
    subprocess.run([shutil.which("umount"), "-l", place], check=True)


def fill(drive):
    """Leave no byte free."""
    with (drive / "ballast").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_a_full_drive_lets_people_go(small_drive, journal):
    folder = small_drive / "store"
    if journal == "truncate":
        without_shared_memory(folder)
    store = TasteStore(folder)
    aki, bo = store.add_person("Aki").id, store.add_person("Bo").id
    for number in range(20):
        candidate = ask(store, aki, number)
        store.pick(candidate, "first", f"r{number}")
    ask(store, bo, 0)
    store.thumbnail(picture(0).digest)
    (store.pictures.folder / "ab").mkdir(exist_ok=True)
    fill(small_drive)
    with pytest.raises(UnusableError, match="The drive of the taste store .* is full: free some space"):
        for number in range(20, 60):
            store.add_candidate(bo, "more " * 999, picture(500 + number), picture(700 + number))
    fill(small_drive)
    store.delete_person(aki)
    assert [one.name for one in store.people()] == ["Bo"]
    assert not list(folder.rglob("*.part"))
    assert store.database.is_whole()
    named = {digest for _, *pair in store.pictures_of(bo) for digest in pair}
    assert stored_pictures(store) == named
