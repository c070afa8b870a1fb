"""How `version_1.zip` was made: a taste store by the released code of version 1, and what that code said of it.

    python -m tests.store.make_version_1

takes `ppd/store.py` of the last release with that version out of the repository's history.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from .small_stores import HERE, picture, told

RELEASED = "08e98cf:ppd/store.py"


def fill(store) -> None:
    """People with picks of every kind, revised, taken back, skipped, faded, copied, erased."""
    ann, me = store.add_person("Ann Ågren").id, store.add_person("me").id
    store.add_person("名前だけ")
    asked = [
        store.add_candidate(ann, f"prompt {n} — 湖", picture(2 * n), picture(2 * n + 1), {"prompt": {"1": {"n": n}}})
        for n in range(12)
    ]
    for number, verdict in enumerate(["first", "second", "tie", "skip", "second", "first", "tie", "second"]):
        store.pick(asked[number], verdict, f"request {number}")
    store.pick(asked[1], "first", "revised")
    store.pick(asked[8], "first", "taken back")
    store.undo(ann, "undo 1")
    store.undo(ann, "undo 2")
    store.set_half_life(ann, 7.5)
    for number in range(3):
        store.pick(store.add_candidate(me, "mine", picture(number), picture(99 - number)), "second", f"me {number}")
    store.duplicate(ann, "Ann at night")
    erased = store.add_person("gone").id
    store.add_candidate(erased, "gone", picture(300), picture(301))
    store.delete_person(erased)


def main() -> None:
    source = subprocess.run(["git", "show", RELEASED], capture_output=True, text=True, check=True, cwd=HERE).stdout
    with tempfile.TemporaryDirectory() as name:
        folder, released = Path(name) / "taste", Path(name) / "store.py"
        released.write_text(source, encoding="utf-8")
        spec = spec_from_file_location("ppd.released_store", released)
        assert spec and spec.loader
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        store = module.TasteStore(folder)
        fill(store)
        said = told(store)
        store._connection().close()
        with zipfile.ZipFile(HERE / "version_1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(path, f"taste/{path.relative_to(folder).as_posix()}")
            archive.writestr("told.json", json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
    main()
