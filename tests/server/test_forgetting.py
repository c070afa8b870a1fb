"""Somebody who used all there is, and was deleted: all bytes in ComfyUI's folders are searched for them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from PIL import Image

from ppd.pictures import Picture

from .test_checkpoints import node
from .test_library import rate
from .test_routes import told

pytestmark = pytest.mark.comfyui
SECRET = "onyx xylophone"
"""Words of every prompt of theirs."""


def colour(number):
    return (240 - number, 11 * number % 256, 7 + number)


def picture(number):
    return Picture.from_image(Image.new("RGB", (96, 64), colour(number)))


@pytest.fixture
def theirs(server, store):
    """A person who did everything that leaves something on the drive: the id, and what must be gone after them."""
    name, later = (f"Quirina {uuid4().hex[:8]}" for _ in range(2))
    person = told(server, "people", {"name": name, "request": "r"})["id"]
    words = [name, SECRET]
    for number in range(0, 12, 2):  # asked, answered in every way, taken back
        store.add_candidate(person, f"{SECRET} {number}", picture(number), picture(number + 1), {"prompt": SECRET})
    for candidate, verdict in zip(store.inbox(person), ("first", "second", "tie", "skip"), strict=False):
        told(
            server,
            f"people/{person}/picks",
            {"candidate": candidate.id, "verdict": verdict, "request": f"{name} {candidate.id}"},
        )
    told(server, f"people/{person}/undo", {"request": f"{name} back"})
    told(server, f"people/{person}/half_life", {"picks": 9, "request": "r"})
    told(server, f"people/{person}/guide", {"guide": "example: sea.brand.json", "request": "r"})
    told(server, f"people/{person}/rename", {"name": later, "request": "r"})
    told(server, f"people/{person}/question")  # which the encoder looks at their pictures for
    copy = told(server, f"people/{person}/duplicate", {"name": f"{later} copy", "request": "r"})["id"]

    folder = server.base / "output" / f"Quirina's {uuid4().hex[:8]}"
    folder.mkdir()
    for number in range(20, 24):  # loved pictures of no prompt: a moodboard, and a background beside them
        picture(number).open().save(folder / f"{number}.png")
    for number in (20, 21):
        rate(server, person, folder.name, f"{number}.png", "keep")
    told(server, f"people/{person}/question")

    graph = {  # a question of a workflow that keeps the workflow, and a node that reads them all
        "1": node("EmptyImage", width=64, height=64, batch_size=2, color=0x123456),
        "2": node(
            "PPD_PreferenceCollector", images=["1", 0], person=later, prompt=f"{SECRET} of a graph", wait_seconds=0
        ),
        "3": node("PPD_SortByTaste", images=["1", 0], person=later, keep=0, save_scores=False),
        "4": node("PreviewAny", source=["3", 2]),
    }
    server.run(graph)
    words += [later, folder.name]
    digests = sorted(store.digests(person))
    assert len(digests) > 10
    yield person, copy, words, digests
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def holding(server, needles):
    """Files below ComfyUI's folder, and its log, that hold one of these in their bytes or names. What the artist's own
    programs saved in output stays theirs, and temp is ComfyUI's, which empties it."""
    found = {}
    for path in [*server.base.rglob("*"), server.log]:
        below = path.relative_to(server.base).parts if path != server.log else ("log",)
        if below[0] in ("output", "temp") or not path.is_file():
            continue
        data = path.read_bytes() + str(path.name).encode()
        if hit := [needle for needle in needles if needle in data]:
            found["/".join(below)] = hit
    return found


def test_nothing_of_a_person_is_left_in_any_file(server, store, theirs):
    person, copy, words, digests = theirs
    pictures = [picture(number).read() for number in range(0, 12)]
    needles = [word.encode() for word in (person, copy, *words, *digests)] + pictures
    before = holding(server, needles)
    assert any("taste.sqlite3" in path for path in before)  # the search finds what is there
    assert sum(path.endswith(".npy") for path in before) > 5 and sum("pictures" in path for path in before) > 10
    assert "user/__ppd/backgrounds/" + person in before
    for one in (person, copy):
        assert told(server, f"people/{one}", {"request": "r"}, method="DELETE")
    assert holding(server, needles) == {}


def test_an_export_and_a_taste_file_stay_since_they_were_asked_for(server, store, theirs):
    """By design, and docs/privacy.md says so: the export has the prompts and the pictures, the taste file neither."""
    person, copy, words, digests = theirs
    export = told(server, f"people/{person}/export", {"request": "r"})["path"]
    code = told(server, f"people/{person}/code")["code"]
    kept = told(server, "tastes/code", {"code": code, "name": "shared", "request": "r"})["file"]
    for one in (person, copy):
        told(server, f"people/{one}", {"request": "r"}, method="DELETE")
    left = holding(server, [word.encode() for word in (*words, *digests)])
    assert left and all(path.startswith("datasets/") for path in left)
    assert SECRET.encode() in (server.base / "datasets" / export / "pairs.jsonl").read_bytes()
    file = server.base / "models" / "user_embeddings" / kept
    assert file.stat().st_size < 1000
    file.unlink()
    for path in sorted((server.base / "datasets" / export).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (server.base / "datasets" / export).rmdir()
