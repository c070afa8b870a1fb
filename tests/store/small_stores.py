"""Small pictures, and what stores of them hold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from PIL import Image

from ppd.pictures import Picture

HERE = Path(__file__).parent


def picture(number):
    return Picture.from_image(Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 7)))


def ask(store, person, number, prompt="a lake"):
    return store.add_candidate(person, prompt, picture(2 * number), picture(2 * number + 1))


def stored_pictures(store):
    return {path.name for path in store.pictures.folder.glob("*/*")}


def released_store(folder, version=1):
    """A store of an older version in `folder`, written by the code that was released, and what that code said of it."""
    with zipfile.ZipFile(HERE / f"version_{version}.zip") as archive:
        archive.extractall(folder)
    said = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return folder / "taste", said


def told(store):
    """All that a store says of its people, without where it lies."""
    said = {}
    for person in store.people():
        candidates = [*store.inbox(person.id), *store.history(person.id)]
        said[person.id] = {
            "person": [person.name, person.created, person.half_life, person.picks, person.open],
            "candidates": [
                [one.id, one.prompt, one.first, one.second, one.origin, one.created, one.pick, one.verdict]
                for one in candidates
            ],
            "verdicts": [[number, verdict] for number, verdict in store.verdicts(person.id).items()],
            "pairs": [
                [one.id, one.prompt, one.chosen.digest, one.rejected.digest, one.created, one.tie, one.weight]
                for one in store.pairs(person.id)
            ],
        }
    return said
