"""What threads, processes and sudden ends leave of a taste store: all that was acknowledged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ppd.blind_questions import Matchup
from ppd.pictures import Picture
from ppd.store import TasteStore

from .small_stores import ask, picture, released_store, stored_pictures, told

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PRAGMA journal_mode =", "PRAGMA user_version =", "PRAGMA wal_checkpoint")
"""Pragmas that write."""


def test_threads_lose_and_double_nothing(store, aki):
    """Two tabs that pick the same questions while a queue files new ones."""
    candidates = [ask(store, aki, number) for number in range(12)]

    def pick(tab):
        for candidate in candidates:
            store.pick(candidate, "first", f"{tab}-{candidate}")
            store.pick(candidate, "first", f"{tab}-{candidate}")

    def file():
        for number in range(12, 24):
            ask(store, aki, number)

    threads = [threading.Thread(target=work, args=args) for work, args in ((pick, ("a",)), (pick, ("b",)), (file, ()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((picks,),) = store.database.read("SELECT count(*) FROM picks")
    assert (picks, store.person(aki).picks, store.person(aki).open) == (24, 12, 12)


def the_scenario(store):
    """Whatever can be written, one acknowledged step after the other, in a store where somebody has an export."""
    aki = store.people()[0].id
    bo = store.add_person("Bo").id
    yield
    asked = []
    for number in range(2):
        asked.append(ask(store, aki, number))
        yield
    store.pick(asked[0], "first", "r1")
    yield
    store.pick(asked[1], "second", "r2")
    yield
    store.pick(asked[0], "tie", "r3")
    yield
    store.undo(aki, "u1")
    yield
    kept = []
    for number in range(2):
        kept.append(store.add_picture(aki, "a lake", picture(number)))
        yield
    digests = [store.kept_picture(number).digest for number in kept]
    store.choose(aki, "a lake", [*digests, picture(2).digest], digests[1], "best of three")
    yield
    store.rate(aki, kept[0], "keep", "rated")
    yield
    store.undo(aki, "u2")
    yield
    matchup = Matchup("a test", (picture(50), picture(51)))
    test, _ = store.add_test(aki, ["base", "mine"], [matchup], 4, draw=random.Random(0))
    yield
    store.answer_trial(test, store.test(test).trials[0].id, "first", 1.0, "t1")
    yield
    store.undo_trial(test, "t2")
    yield
    store.delete_test(test)
    yield
    store.duplicate(aki, "Aki 2")
    yield
    with store.database.writing() as database:
        first = "UPDATE picks SET created = '2026-01-05T12:00:00+00:00' WHERE id = ?"
        database.execute(first, (store.history(aki)[-1].pick,))
    yield
    store.go_back(aki, "2026-01-05", "Aki 3", "back")
    yield
    store.rename(bo, "Cy")
    yield
    store.delete_person(bo)
    yield


def content(store):
    """All that a store says, without the ids that are drawn anew each time."""
    told = []
    for person in store.people():
        candidates = store.inbox(person.id) + store.history(person.id)
        kept = store.rated(person.id)
        for digest in store.digests(person.id):
            assert Picture(store.picture(digest)).digest == digest
        told.append(
            (
                person.name,
                [(one.prompt, one.first, one.second, one.verdict) for one in candidates],
                len(store.digests(person.id)),
                list(Counter(store.choices(person.id).values()).values()),
                [(one.prompt, one.digest, one.rating) for one in kept],
                [(one.arms, one.spent, [trial.verdict for trial in one.trials]) for one in store.tests(person.id)],
            )
        )
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("journal", ["wal", "none"])
def test_killed_at_every_write_the_store_is_at_an_acknowledged_step_or_the_next(tmp_path, monkeypatch, journal):
    """A child process is killed before its n-th write (statement, sync, renaming), for every n until one survives."""
    if journal == "none":  # this way to files has no shared memory, as some network drives, so no WAL
        connect = sqlite3.connect
        monkeypatch.setattr(
            sqlite3, "connect", lambda path, **how: connect(f"{path.as_uri()}?vfs=unix-none", uri=True, **how)
        )
    begun = TasteStore(tmp_path / "begun")
    begun.add_person("Aki")
    begun.database.close()
    shutil.copytree(begun.folder, tmp_path / "reference")
    reference = TasteStore(tmp_path / "reference")
    assert reference.database.read("PRAGMA journal_mode") == [({"wal": "wal", "none": "truncate"}[journal],)]
    states = [content(reference), *(content(reference) for _ in the_scenario(reference))]
    for kill_at in range(1, 1000):
        folder = tmp_path / f"killed at {kill_at}"
        shutil.copytree(begun.folder, folder)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                play_until_killed(lambda folder: the_scenario(TasteStore(folder)), folder, kill_at, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as acknowledged:
            steps = len(acknowledged.read())
        _, status = os.waitpid(child, 0)
        store = TasteStore(folder)
        assert store.database.read("PRAGMA integrity_check") == [("ok",)]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0 and steps == len(states) - 1
            assert content(store) == states[-1]
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        named = {digest for person in store.people() for digest in store.digests(person.id)}
        assert stored_pictures(store) == named
        assert content(store) in [states[steps], states[min(steps + 1, len(states) - 1)]]
    assert kill_at > 80


def play_until_killed(play, folder, kill_at, acknowledge):
    """What `play` does in this process, which kills itself at its `kill_at`-th write; exits with 0 if there is none."""
    count = 0

    def step(statement="COMMIT"):
        nonlocal count
        if statement.startswith(("SELECT", "BEGIN", "--")) or (  # -- begins what a trigger does, in a statement's midst
            statement.startswith("PRAGMA") and not statement.startswith(KEPT)
        ):
            return
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    patched: Any = os
    fsync, replace = os.fsync, os.replace
    patched.fsync = lambda *arguments: (step(), fsync(*arguments))
    patched.replace = lambda *arguments: (step(), replace(*arguments))

    def traced(*arguments, **how):
        database = connect(*arguments, **how)
        database.set_trace_callback(step)
        return database

    sqlite3.connect, connect = traced, sqlite3.connect
    for _ in play(folder):
        os.write(acknowledge, b".")
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_migration_killed_at_every_write_loses_nothing(tmp_path, version):
    """Version 0 is a store that is only just made."""
    for kill_at in range(1, 100):
        place = tmp_path / f"killed at {kill_at}"
        folder, said = released_store(place, version) if version else (place / "taste", {})
        said.pop("more", None)  # what version 3 alone has said
        child = os.fork()
        if child == 0:
            try:
                play_until_killed(
                    lambda folder: TasteStore(folder).people()[:1], folder, kill_at, os.open(os.devnull, 1)
                )
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if version:
            with sqlite3.connect(f"{(folder / 'taste.sqlite3').as_uri()}?mode=ro", uri=True) as database:
                assert database.execute("PRAGMA user_version").fetchone()[0] in (version, 5)
        store = TasteStore(folder)
        assert told(store) == said
        assert store.database.read("PRAGMA integrity_check") == [("ok",)]
        backups = {path.name for path in folder.glob("*.v*")}  # and no half one, though it was killed in the middle
        assert backups == ({f"taste.sqlite3.v{version}"} if version else set())
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert kill_at > 10


WRITER = """
import sys
from pathlib import Path
from PIL import Image
from ppd.pictures import Picture
from ppd.store import TasteStore
store, start = TasteStore(sys.argv[1]), int(sys.argv[2])
person = store.people()[0].id
for number in range(start, start + 1000):
    pictures = [Picture.from_image(Image.new("RGB", (8, 8), (number % 256, number // 256, side))) for side in (0, 1)]
    candidate = store.add_candidate(person, f"prompt {number}", *pictures)
    store.pick(candidate, "second", f"request-{number}")
    print(number, flush=True)
    if number % 3 == 0:
        store.undo(person, f"undo-{number}")
        print(-number, flush=True)
"""


def test_acknowledged_picks_survive_kill_9(store, aki):
    """A writer is killed over and over, wherever it is; what it has told stands, and the store opens as before."""
    told = set()
    for attempt in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.folder), str(1000 * attempt + 1)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        told |= {int(writer.stdout.readline()) for _ in range(2)}
        time.sleep(0.01 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        told |= {int(line) for line in writer.stdout.read().split("\n")[:-1]}
        writer.wait()
        reopened = TasteStore(store.folder)
        standing = {int(pair.prompt.split()[1]) for pair in reopened.pairs(aki)}
        assert {number for number in told if number > 0 and -number not in told and number % 3} <= standing
        assert not {-number for number in told if number < 0} & standing
        for pair in reopened.pairs(aki):
            pair.check()
        assert reopened.database.read("PRAGMA integrity_check") == [("ok",)]
