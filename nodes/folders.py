"""Where the nodes find files and put them: ComfyUI's own folders, and what this pack ships in `weights`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..ppd.files import stamp
from ..ppd.pair_files import HPDV2_FILES, PAIRS_FILE
from ..ppd.pictures import ENDINGS, Picture, pictures_below
from ..ppd.store import MissingError, TasteStore
from ..ppd.studies import ROWS_FILE, STUDIES_FILE

WEIGHTS = Path(__file__).parent.parent / "weights"
POCKET = "pocket"
"""What the shipped model, encoder and adapter are called where a file of the user's could stand as well."""
LONGEST = 120
"""Bytes of a person's name in the name of a folder; file systems take 255 in all."""
DEEPEST = 3
"""Folders below input and datasets that are looked into for preference sets."""
LEXICON_ENDING = ".looks.json"
"""Of an artist's own lexicon."""
GUIDE_ENDING = ".brand.json"
"""Of a brand guide."""
MOST = 5000
"""How many folders of a root are looked into at most: a list of choices must not take long."""


def register_folder(name: str) -> None:
    """Make models/<name> a model folder for .safetensors, beside those that extra_model_paths.yaml names for it."""
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, {".safetensors"})


register_folder("user_adapters")
register_folder("user_embeddings")
register_folder("open_clip")
# Folders of whole vision-language models; LLM is where other packs keep theirs
for _name in ("vlm", "LLM"):
    folder_paths.add_model_folder_path("vlm", os.path.join(folder_paths.models_dir, _name))


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
    for path in feature_cache().glob(f"*/{digest[:2]}/*{digest}.npy*"):  # also what a kill left half-written
        path.unlink(missing_ok=True)


def training_folder(name: str) -> Path:
    """What a training of this name keeps, in the same folder; ValueError where it is no name of a file."""
    return trainings_folder() / plain_or_refused(name, "models/user_adapters")


def trainings_folder() -> Path:
    """What all trainings keep."""
    return Path(folder_paths.get_system_user_directory("ppd")) / "trainings"


def plain_or_refused(name: str, place: str) -> str:
    """A name that any file system takes for a new file or folder in `place`, or ValueError."""
    plain = name.strip()
    if not re.fullmatch(r"[^\W_][\w .()+-]{0,63}", plain) or plain.endswith("."):
        raise ValueError(
            f"Expected a name of letters, digits, spaces, - and _, got {name[:80]!r}: it is what it will be called in "
            f"{place}."
        )
    return plain


def note_background(person: str, digests: Iterable[str]) -> None:
    """Note whose features are about to be kept for the person's sake, of pictures that are not in the taste store."""
    path = _background(person)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = set(digests) - _noted(path)
    with path.open("a") as notes:
        notes.writelines(f"{digest}\n" for digest in sorted(new))


def forget_background(person: str) -> None:
    """Erase what any encoder saw in the noted pictures of a person, unless the taste store has them for others."""
    path = _background(person)
    for digest in _noted(path):
        if not taste_store().has_picture(digest):
            forget_features(digest)
    path.unlink(missing_ok=True)


def _background(person: str) -> Path:
    return Path(folder_paths.get_system_user_directory("ppd")) / "backgrounds" / person


def _noted(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.is_file() else set()


def taste_store() -> TasteStore:
    """The store of people and their picks, in a system user's folder, which ComfyUI does not serve over HTTP."""
    return _store(Path(folder_paths.get_system_user_directory("ppd")) / "taste")


@lru_cache(maxsize=1)
def _store(path: Path) -> TasteStore:
    return TasteStore(path, on_erase=forget_features)


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
        for name in sorted({name for root in roots for name in _sets_in(Path(root))})
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


def plain_name(name: str) -> str:
    """A name as every file system takes it, as part of a file's or folder's."""
    plain = "".join(letter if letter.isalnum() or letter in " -_" else "-" for letter in name)
    return plain.encode()[:LONGEST].decode(errors="ignore").strip()


def new_taste_file(name: str) -> Path:
    """A new, empty file of models/user_embeddings, named after a taste; none that is there is overwritten."""
    root = Path(folder_paths.get_folder_paths("user_embeddings")[0])
    root.mkdir(parents=True, exist_ok=True)
    stem, number = plain_name(name) or "taste", 1
    while True:
        path = root / f"{stem if number == 1 else f'{stem} ({number})'}.safetensors"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


def new_preference_set(name: str) -> Path:
    """A new folder of the datasets folder, named after somebody and the time."""
    root = Path(folder_paths.get_folder_paths("datasets")[0])
    stem, number = f"{plain_name(name) or 'person'} {datetime.now():%Y-%m-%d %H-%M-%S}", 1
    while True:
        path = root / (stem if number == 1 else f"{stem} ({number})")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # somebody whose name looks the same, in the same second
            number += 1


def picture_folders() -> list[str]:
    """Names of folders of pictures: ComfyUI's output and input, and those of datasets, such as "datasets: studies"."""
    found = set()
    for root in folder_paths.get_folder_paths("datasets"):
        with suppress(OSError), os.scandir(root) as entries:  # data must not take the nodes away
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
    tops = [Path(top) for root, top in roots if folder_paths.is_within_directory(root, top) and os.path.isdir(top)]
    found = [picture for top in tops for picture in pictures_below(top)]
    step = max(1.0, len(found) / most)
    return [found[int(index * step)] for index in range(min(most, len(found)))]


def finished_folders() -> list[str]:
    """Names of folders with finished pictures: ComfyUI's output and input, and those in them, such as "input: old"."""
    names = []
    for word in ("output", "input"):
        with suppress(OSError), os.scandir(_root_of(word)) as entries:
            inside = [one.name for one in entries if one.is_dir(follow_symlinks=False) and one.name.isprintable()]
            names += [word, *(f"{word}: {name}" for name in sorted(inside) if not name.startswith("."))]
    return names


def finished_folder(name: str) -> tuple[str, Path, str]:
    """Of a folder that `finished_folders` names, or of "temp", which has what is only previewed: the word for the root,
    its path, and the folder's path inside."""
    word, _, below = name.partition(": ")
    if name not in ("temp", *finished_folders()):
        raise MissingError(f"There is no folder of pictures {name!r}: choose one of the list.")
    return word, _root_of(word), below


def finished_file(word: str, name: str) -> Path:
    """A picture by its path inside of output, input or temp; nothing outside."""
    root = _root_of(word)
    path = root / name
    if not (
        name.lower().endswith(ENDINGS) and folder_paths.is_within_directory(str(root), str(path)) and path.is_file()
    ):
        raise MissingError(f"There is no picture {name!r} in ComfyUI's folder {word} any more: reload the list.")
    return path


def _root_of(word: str) -> Path:
    root = folder_paths.get_directory_by_type(word)
    if root is None:
        raise MissingError(f"There is no folder of pictures {word!r}: use output, input or temp.")
    return Path(root)


def _sets_in(root: Path) -> list[str]:
    """Names of a root's preference sets; none where it cannot be read."""
    real = os.path.realpath(root)
    return list(_sets_below(real, real, 0, set()))


def _sets_below(folder: str, root: str, depth: int, seen: set[str]) -> Iterator[str]:
    """Paths below `folder` of folders with a pairs.jsonl or parquet shards, and of single files at the top.

    Links are followed within `root`, and every folder is looked into once. What cannot be read is passed over: data
    must not take the nodes away.
    """
    real = os.path.realpath(folder)
    if real in seen or len(seen) >= MOST or not folder_paths.is_within_directory(root, real):
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in entries}
    if STUDIES_FILE in names:
        return
    if depth and (names & {PAIRS_FILE, *HPDV2_FILES} or any(name.endswith(".parquet") for name in names)):
        yield "."
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if depth < DEEPEST and os.path.isdir(entry.path):
            below = _sets_below(entry.path, root, depth + 1, seen)
            yield from (os.path.normpath(f"{entry.name}/{name}") for name in below)
        elif entry.name.endswith((".jsonl", ".parquet")) and os.path.isfile(entry.path):
            yield entry.name


def studies_folder(name: str) -> Path:
    """The folder of a set of studies, which need not be there yet; ValueError unless it is inside datasets."""
    name = name.strip()
    roots = folder_paths.get_folder_paths("datasets")
    paths = [os.path.join(root, name) for root in roots]
    if not name or any(
        not folder_paths.is_within_directory(root, path) or os.path.realpath(root) == os.path.realpath(path)
        for root, path in zip(roots, paths, strict=True)
    ):
        raise ValueError(f"Expected the name of a folder in ComfyUI's datasets folder for the studies, got {name!r}.")
    return Path(next((path for path in paths if os.path.exists(path)), paths[0]))


def studies_stamp(folder: Path) -> str:
    """What tells whether a set of studies has changed; empty where there is none."""
    rows = folder / ROWS_FILE
    return repr(stamp(rows)) if rows.is_file() else ""


def study_sets() -> list[str]:
    """Names of all sets of studies."""
    roots = map(Path, folder_paths.get_folder_paths("datasets"))
    return sorted({path.parent.name for root in roots for path in root.glob(f"*/{STUDIES_FILE}")})


def lexicons() -> list[str]:
    """Names of the artist's own lexicons, such as "input: mine.looks.json"."""
    return _named_files(lexicon_roots(), LEXICON_ENDING)


def lexicon_file(name: str) -> Path:
    """The file of an own lexicon by its name."""
    return _named_file("lexicon", name, lexicon_roots(), LEXICON_ENDING)


def brand_guides() -> list[str]:
    """Names of all brand guides, such as "input: ours.brand.json"; the shipped example first."""
    return _named_files(preference_roots(), GUIDE_ENDING)


def brand_guide_file(name: str) -> Path:
    """The file of a brand guide by its name."""
    return _named_file("brand guide", name, preference_roots(), GUIDE_ENDING)


def _named_files(folders: dict[str, list[str]], ending: str) -> list[str]:
    return [
        f"{word}: {path.name}"
        for word, roots in folders.items()
        for root in roots
        for path in sorted(Path(root).glob(f"*{ending}"))
    ]


def _named_file(what: str, name: str, folders: dict[str, list[str]], ending: str) -> Path:
    word, _, file = name.partition(": ")
    for root in folders.get(word, []):
        path = os.path.join(root, file)
        if file.endswith(ending) and folder_paths.is_within_directory(root, path) and os.path.isfile(path):
            return Path(path)
    raise ValueError(
        f"There is no {what} {name!r}: choose one of the list, or put a file that ends in {ending} into ComfyUI's "
        "input or datasets folder."
    )


def lexicon_roots() -> dict[str, list[str]]:
    """Where own lexicons may lie, by the word that their names begin with."""
    return {name: roots for name, roots in preference_roots().items() if name in ("input", "datasets")}
