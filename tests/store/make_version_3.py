"""How `version_3.zip` was made: a taste store by the released code of version 3, and what that code said of it.

    python -m tests.store.make_version_3

takes `ppd` of the last release with that version out of the repository's history.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RELEASED = "cf314e3"


def make(version: int, released: str, more: Callable[[Any, str], None] = lambda store, person: None) -> None:
    """`version_<version>.zip` by the code of a commit; `more` adds to the store, for one of its people."""
    with tempfile.TemporaryDirectory() as name:
        source = subprocess.run(
            ["git", "archive", released, "ppd"], capture_output=True, check=True, cwd=HERE.parents[1]
        )
        with tarfile.open(fileobj=io.BytesIO(source.stdout)) as archive:
            archive.extractall(name)
        sys.path.insert(0, name)
        from ppd.store import TasteStore

        from .make_version_1 import fill
        from .small_stores import picture, told

        folder = Path(name) / "taste"
        store = TasteStore(folder)
        assert Path(sys.modules["ppd.store"].__file__ or "").is_relative_to(name)
        fill(store)
        ann = store.person_called("Ann Ågren").id
        store.rename(ann, "Ann B. Ågren")
        store.set_encoder(ann, "my model")
        kept = [store.kept_picture(store.add_picture(ann, "a hill", picture(number))) for number in (100, 101, 102)]
        store.choose(ann, "a hill", [one.digest for one in kept], kept[2].digest, "choice")
        store.rate(ann, kept[0].id, "keep", "rated")
        more(store, ann)
        someone = store.person(ann)
        said = told(store)
        said["more"] = [someone.ratings, someone.revision, list(store.choices(ann).values())]
        store.database.close()
        with zipfile.ZipFile(HERE / f"version_{version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(path, f"taste/{path.relative_to(folder).as_posix()}")
            archive.writestr("told.json", json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
    make(3, RELEASED)
