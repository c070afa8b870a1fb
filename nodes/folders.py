"""Where the nodes find files and put them: ComfyUI's own folders, and what this pack ships in `weights`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..ppd.pairs import PAIRS_FILE
from ..ppd.pictures import EXTENSIONS, Picture
from ..ppd.store import TasteStore

WEIGHTS = Path(__file__).parent.parent / "weights"
POCKET = "pocket"
"""What the shipped model, encoder and adapter are called where a file of the user's could stand as well."""
ME = "me"
"""Who is there without having been made."""
LONGEST = 60
"""Letters of a person's name in the name of a folder, which file systems count in bytes."""
DEEPEST = 3
"""Folders below input and datasets that are looked into for preference sets."""


PICTURE_ENDINGS = (*EXTENSIONS.values(), ".jpeg", ".tiff")


def register_folder(name: str) -> None:
    """Make models/<name> a model folder for .safetensors, beside those that extra_model_paths.yaml names for it."""
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, {".safetensors"})


register_folder("user_adapters")
register_folder("user_embeddings")


# Another pack's folder as well: its endings stay as they are
folder_paths.add_model_folder_path("ipadapter", os.path.join(folder_paths.models_dir, "ipadapter"))


def shipped_file(name: str) -> Path:
    """A file of the pack's `weights`."""
    path = WEIGHTS / name
    if not path.is_file() or not folder_paths.is_within_directory(str(WEIGHTS), str(path)):
        raise ValueError(
            f"The pack has no {name} in its folder weights: install the pack again, or make it with "
            "`python -m ppd train pocket`."
        )
    return path


def model_file(folder: str, name: str) -> Path:
    """A file of one of ComfyUI's model folders by the name that its list shows."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def feature_cache() -> Path:
    """What encoders saw in pictures, in a system user's folder, which ComfyUI does not serve: it tells of them."""
    return Path(folder_paths.get_system_user_directory("ppd")) / "features"


def forget_features(digest: str) -> None:
    """Erase what any encoder saw in the picture of this hash."""
    for path in feature_cache().glob(f"*/{digest[:2]}/{digest}.npy"):
        path.unlink()


def taste_store() -> TasteStore:
    """The store of people and their picks, in a system user's folder, which ComfyUI does not serve over HTTP."""
    return _store(Path(folder_paths.get_system_user_directory("ppd")) / "taste")


@lru_cache(maxsize=1)
def _store(path: Path) -> TasteStore:
    return TasteStore(path, on_erase=forget_features)


def people() -> list[str]:
    """Names of the people in the store; somebody called "me" can always be chosen."""
    names = [person.name for person in taste_store().people()]
    return names if ME.casefold() in map(str.casefold, names) else [ME, *names]


def preference_roots() -> dict[str, list[str]]:
    """Where preference sets may lie, by the word that their names begin with."""
    return {
        "example": [str(WEIGHTS / "examples")],
        "input": [folder_paths.get_input_directory()],
        "datasets": folder_paths.get_folder_paths("datasets"),
    }


def preference_sets() -> list[str]:
    """Names of all preference sets, such as "example: warm" or "input: my picks"; the shipped examples first."""
    return [
        f"{word}: {name}"
        for word, roots in preference_roots().items()
        for name in sorted({name for root in roots for name in _sets_below(Path(root))})
    ]


def preference_set(name: str) -> Path:
    """The path of a preference set by its name; nothing outside of the folders it may lie in."""
    word, _, relative = name.partition(": ")
    for root in preference_roots().get(word, []):
        path = os.path.join(root, relative)
        if relative and folder_paths.is_within_directory(root, path) and os.path.exists(path):
            return Path(path)
    raise ValueError(
        f"There is no preference set {name!r}: choose one of the list, or put a folder with {PAIRS_FILE} and its "
        "pictures into ComfyUI's input or datasets folder."
    )


def new_preference_set(name: str) -> Path:
    """A folder to be, of the datasets folder, named after somebody and the time."""
    plain = "".join(letter if letter.isalnum() or letter in " -_" else "-" for letter in name[:LONGEST])
    plain = plain.strip() or "person"
    return Path(folder_paths.get_folder_paths("datasets")[0]) / f"{plain} {datetime.now():%Y-%m-%d %H-%M-%S}"


def picture_folders() -> list[str]:
    """Names of folders of pictures: ComfyUI's output and input, and those of datasets, such as "datasets: studies"."""
    found = set()
    for root in folder_paths.get_folder_paths("datasets"):
        if os.path.isdir(root):
            with os.scandir(root) as entries:
                found |= {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    return ["output", "input", *(f"datasets: {name}" for name in sorted(found))]


def pictures_in(name: str, most: int) -> list[Picture]:
    """The pictures in a folder that `picture_folders` names and below it, by their paths; `most` of them, evenly."""
    word, _, folder = name.partition(": ")
    if word == "datasets":
        roots = [(root, os.path.join(root, folder)) for root in folder_paths.get_folder_paths("datasets")]
    else:
        root = folder_paths.get_output_directory() if word == "output" else folder_paths.get_input_directory()
        roots = [(root, root)]
    if name not in picture_folders():
        raise ValueError(f"There is no folder of pictures {name!r}: choose one of the list (R renews it).")
    paths = sorted(
        os.path.join(place, file)
        for root, top in roots
        if folder_paths.is_within_directory(root, top)
        for place, _, files in os.walk(top)
        for file in files
        if file.lower().endswith(PICTURE_ENDINGS)
    )
    step = max(1.0, len(paths) / most)
    return [Picture(Path(paths[int(index * step)])) for index in range(min(most, len(paths)))]


def _sets_below(root: Path, depth: int = 0) -> Iterator[str]:
    """Paths below `root` of folders with a pairs.jsonl or parquet shards, and of single files at the top."""
    if not root.is_dir():
        return
    with os.scandir(root) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    if depth and (PAIRS_FILE in names or any(name.endswith(".parquet") for name in names)):
        yield "."
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and depth < DEEPEST:
            yield from (os.path.normpath(f"{entry.name}/{name}") for name in _sets_below(root / entry.name, depth + 1))
        elif entry.name.endswith((".jsonl", ".parquet")) and entry.is_file():
            yield entry.name
