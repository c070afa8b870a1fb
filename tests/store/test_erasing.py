"""A person who is erased while another program reads the store: what is said, and when the last traces go."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest

from ppd.store import TasteStore, UnusableError

from .small_stores import ask, picture

NAME, PROMPT = "Ulrike Unverwechselbar", "a prompt that nobody else has"


def traces(folder):
    """The files that hold the person's name or prompt. Another process looks: one that closes a database's file loses
    all of its locks on it (POSIX)."""
    code = (
        "import pathlib, sys\n"
        "for path in pathlib.Path(sys.argv[1]).rglob('*'):\n"
        "    if path.is_file() and any(word.encode() in path.read_bytes() for word in sys.argv[2:]):\n"
        "        print(path.name)"
    )
    command = [sys.executable, "-c", code, str(folder), NAME, PROMPT]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@contextmanager
def reader(path):
    """Another program that has begun to read, and has not ended."""
    code = (
        "import sqlite3, sys\n"
        f"database = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
        "database.execute('BEGIN')\n"
        "print(database.execute('SELECT count(*) FROM people').fetchone(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "(2,)\n"
    try:
        yield
    finally:
        program.communicate()
        assert program.returncode == 0


@pytest.fixture
def erased(store):
    """Somebody with a name and a prompt of their own, beside somebody else."""
    store.add_person("Bo")
    person = store.add_person(NAME).id
    store.pick(ask(store, person, 0, PROMPT), "first", "r1")
    store.add_picture(person, PROMPT, picture(5))
    return person


@pytest.mark.parametrize("call", ["people", "add_person", "opening"])
def test_the_last_traces_go_with_the_first_call_after_the_reader(store, erased, call):
    with reader(store.database.path):
        start = time.monotonic()
        assert store.delete_person(erased) is False
        assert time.monotonic() - start < 5
        assert [one.name for one in store.people()] == ["Bo"]
        store.add_person("Cy")
        assert traces(store.folder)  # the reader must still see it: this is why it is said
    assert traces(store.folder)
    if call == "people":
        store.people()
    elif call == "add_person":
        store.add_person("Di")
    else:  # by another program, as after a restart
        TasteStore(store.folder).people()
    assert not traces(store.folder)


def test_without_a_reader_all_goes_at_once(store, erased):
    assert traces(store.folder)
    assert store.delete_person(erased) is True
    assert not traces(store.folder)


def test_what_a_killed_deletion_left_goes_with_the_next_opening(store, erased):
    """Its rows were gone for good, and the journal was not tidied yet."""
    with store.database.writing() as database:
        database.execute("DELETE FROM people WHERE id = ?", (erased,))
    assert "taste.sqlite3-wal" in traces(store.folder)
    assert [one.name for one in TasteStore(store.folder).people()] == ["Bo"]
    assert not traces(store.folder)


def test_while_another_program_writes_nobody_is_erased(store, erased):
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with store.database.hurried(0.1), pytest.raises(UnusableError, match="is in use by another program"):
            store.delete_person(erased)
        other.execute("ROLLBACK")
    assert (store.person(erased).picks, len(store.pairs(erased))) == (1, 1)
    assert store.delete_person(erased) is True and not traces(store.folder)
