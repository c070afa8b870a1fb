"""Requests while another program holds the taste store: ComfyUI goes on, ours are answered in time, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest
from PIL import Image

pytestmark = pytest.mark.comfyui

DOZEN = 12
HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(sys.argv[2])
if len(sys.argv) > 3:
    database.execute(sys.argv[3]).fetchall()
print("holds", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_program(store, *statements):
    """Another program that has begun something with the store, and goes when this ends."""
    command = [sys.executable, "-c", HOLD, str(store.database.path), *statements]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "holds\n"
    try:
        yield
    finally:
        program.communicate()
        assert program.returncode == 0


def call(server, path, body=None, method=None):
    """Status, answer and seconds of a request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    start = time.monotonic()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(server.url + path, data, headers, method=method), timeout=60
        ) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, text, time.monotonic() - start


@contextmanager
def picking(server, person, asked):
    """A dozen picks on their way, of four requests each of three questions; their answers, once they are there."""
    answers = []
    body = {"verdict": "first"}
    bodies = [{**body, "candidate": asked[n % len(asked)], "request": f"{person} {n}"} for n in range(DOZEN)]

    def pick(body):
        answers.append(call(server, f"/ppd/people/{person}/picks", body))

    running = [threading.Thread(target=pick, args=(body,)) for body in bodies]
    for thread in running:
        thread.start()
    try:
        yield answers, bodies
    finally:
        for thread in running:
            thread.join()


def test_comfyui_goes_on_while_our_requests_wait(server, store, somebody):
    person, asked = somebody
    Image.new("RGB", (8, 8), (1, 2, 3)).save(server.base / "output" / "seen.png")
    for path in ("/system_stats", "/view?filename=seen.png", f"/ppd/people/{person}/question"):
        assert call(server, path)[0] == 200  # once, so that nothing is loaded later
    with another_program(store, "BEGIN IMMEDIATE"), picking(server, person, asked) as (answers, bodies):
        time.sleep(1)
        for path in ("/system_stats", "/view?filename=seen.png"):
            status, _, seconds = call(server, path)
            assert status == 200 and seconds < 2, (path, seconds)
        assert not answers
        while len(answers) < DOZEN:
            time.sleep(0.1)
    assert {status for status, *_ in answers} == {503}
    assert max(seconds for *_, seconds in answers) < 13
    sentences = {json.loads(text)["error"] for _, text, _ in answers}
    assert all("in use by another program" in one or "is busy: another program" in one for one in sentences), sentences
    assert all(one.endswith("try again.") for one in sentences)
    assert store.history(person) == []
    for body in bodies:  # what was refused has not been done, and can be sent again
        assert call(server, f"/ppd/people/{person}/picks", body)[0] == 200
    assert store.person(person).picks == 3
    assert len(store.database.read("SELECT id FROM picks WHERE request LIKE ?", (f"{person} %",))) == DOZEN


def test_a_store_that_is_let_go_in_time_takes_all_that_waited(server, store, somebody):
    person, asked = somebody
    assert call(server, f"/ppd/people/{person}/question")[0] == 200
    with ExitStack() as lock:
        lock.enter_context(another_program(store, "BEGIN IMMEDIATE"))
        with picking(server, person, asked) as (answers, _):
            time.sleep(2)
            lock.close()
    assert [status for status, *_ in answers] == [200] * DOZEN
    assert len(store.database.read("SELECT id FROM picks WHERE request LIKE ?", (f"{person} %",))) == DOZEN


def test_who_is_deleted_while_another_program_reads_is_said_to_leave_traces(server, store, somebody):
    person, _ = somebody
    with another_program(store, "BEGIN", "SELECT count(*) FROM people"):
        status, text, seconds = call(server, f"/ppd/people/{person}?request=mine", method="DELETE")
        assert status == 200 and seconds < 10
        answer = json.loads(text)
        assert answer["finished"] is False and answer["note"].startswith("The last traces go once another program")
    assert call(server, "/ppd/people")[0] == 200
    look = "import pathlib, sys; print(sys.argv[2].encode() in pathlib.Path(sys.argv[1]).read_bytes())"
    for path in store.folder.glob("taste.sqlite3*"):
        found = subprocess.run([sys.executable, "-c", look, str(path), person], capture_output=True, text=True)
        assert found.stdout == "False\n", path
    other = store.add_person("gone at once").id
    assert json.loads(call(server, f"/ppd/people/{other}", method="DELETE")[1]) == {"finished": True}
