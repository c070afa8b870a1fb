"""Studies: pictures that a checkpoint painted of neutral prompts in many looks, both sides of a look from one seed.

A set of studies is a folder:

    studies.json     format, version, the painting model's signature, sampler settings, the looks
    studies.jsonl    one line for each picture, only ever appended to: study, prompt, look, side, seed, text, files
    pictures/<look>/<study>-<side>.png
    latents/<look>/<study>-<side>.safetensors    "latent" float16 [1, C, ...] as the VAE decodes it

A row is appended after its files are on the disk, so that a kill keeps everything painted before, and a second run goes
on. A study whose picture was deleted is painted again. Pictures that were not painted here have no latent.

The noise that a picture was painted from is `noise_of` its seed and its latent's shape; where the host made another, it
lies as "noise" beside the latent, and the row's `noise` says "stored" instead of "seed".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import gcd
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .files import read_tensors, write_synced
from .lexicon import Look, look_of
from .limits import parsed
from .messages import quoted
from .pairs import counted
from .pictures import Picture

FORMAT, VERSION = "ppd-studies", 1
STUDIES_FILE, ROWS_FILE = "studies.json", "studies.jsonl"
LATENT_FORMAT, LATENT_VERSION = "ppd-study-latent", "1"
SIDES = ("low", "high", "none")
"""Of a look; "none" is the prompt by itself."""
FROM_SEED, STORED = "seed", "stored"
BYTES_A_PIXEL = 1.8
"""Of a painted picture as PNG, about."""
_GOLDEN = 0.618
_SEED_BYTES = 6
"""So that a seed fits the widgets of browsers, whose numbers are exact up to 53 bits."""
_FIELDS = {"study": str, "prompt": str, "look": str, "side": str, "picture": str}


@dataclass(frozen=True)
class Cell:
    """What a study is to show: a prompt in a look, from a seed."""

    look: Look
    prompt: str
    seed: int

    @property
    def study(self) -> str:
        """The study's id."""
        return _digest([self.look.id, self.prompt, self.seed])


def plan(looks: Sequence[Look], prompts: Sequence[str], count: int, seed: int) -> list[Cell]:
    """The first `count` cells of an order in which any prefix has every look as often as any other, give or take one,
    and prompts spread as evenly over each look.

    A look meets every prompt before it meets one again, then from another seed. The same arguments give the same cells.
    """
    if not looks or not prompts:
        raise ValueError("Studies need at least one look and one prompt: name some.")
    look_stride, prompt_stride = _stride(len(looks)), _stride(len(prompts))
    cells = []
    for number in range(count):
        turn, position = divmod(number, len(looks))
        look = looks[position * look_stride % len(looks)]
        prompt = prompts[(position + turn * prompt_stride) % len(prompts)]
        cells.append(Cell(look, prompt, _seed(seed, look.id, prompt, turn // len(prompts))))
    return cells


def _stride(length: int) -> int:
    """A step that visits all of `length` places, each far from the last: coprime, and near the golden section."""
    return next(step for step in range(max(1, round(_GOLDEN * length)), 2 * length + 2) if gcd(step, length) == 1)


def _seed(seed: int, look: str, prompt: str, again: int) -> int:
    total = hashlib.sha256(json.dumps([seed, look, prompt, again]).encode())
    return int.from_bytes(total.digest()[:_SEED_BYTES], "big")


def noise_of(seed: int, shape: Sequence[int]) -> Tensor:
    """The noise of a seed, float32 [shape], on the CPU: what ComfyUI's samplers start from for that seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def disk_use(pictures: int, width: int, height: int, latent_numbers: int) -> int:
    """Bytes, about, of so many pictures of width x height pixels with latents of so many numbers each."""
    return round(pictures * (BYTES_A_PIXEL * width * height + 2 * latent_numbers))


@dataclass(frozen=True)
class StudyPicture:
    """One picture of a set, and how it was made.

    `side` one of SIDES · `seed` None where nobody said · `text` the prompt with the look's words · `latent_file` None
    for pictures that were not painted here · `noise_from` FROM_SEED, STORED, or None.
    """

    study: str
    prompt: str
    look: str
    side: str
    seed: int | None
    text: str
    picture: Picture
    latent_file: Path | None
    noise_from: str | None

    def latent(self) -> Tensor:
        """The latent [1, C, ...] float32, as the VAE decodes it; ValueError where there is none."""
        return self._latent_file()["latent"].float()

    def noise(self) -> Tensor | None:
        """The noise [1, C, ...] float32 that the picture was painted from; None where it is not known."""
        if self.noise_from is None:
            return None
        tensors = self._latent_file()
        if self.noise_from == STORED:
            return tensors["noise"]
        assert self.seed is not None
        return noise_of(self.seed, tensors["latent"].shape)

    def _latent_file(self) -> dict[str, Tensor]:
        if self.latent_file is None:
            raise ValueError(f"The study {self.study} was not painted here and has no latent: use painted ones.")
        names = ("latent", "noise") if self.noise_from == STORED else ("latent",)
        return read_tensors(self.latent_file, LATENT_FORMAT, LATENT_VERSION, names, (), "study's latent")[0]


@dataclass(frozen=True)
class StudyPair:
    """Both sides of a look from one seed, and the picture without the look where it was painted too."""

    study: str
    prompt: str
    look: str
    seed: int | None
    low: StudyPicture
    high: StudyPicture
    plain: StudyPicture | None = None

    def alike(self) -> bool:
        """Whether both pictures are the same to the byte: the model paid the look no heed."""
        return self.low.picture.digest == self.high.picture.digest


@dataclass(frozen=True)
class StudySet:
    """A set of studies as its folder holds it.

    `model` the signature of the model that painted, and `sampling` its settings, both None while nothing is painted ·
    `looks` by id · `pictures` in the order they were made · `missing` rows whose files are gone.
    """

    folder: Path
    model: dict[str, str] | None
    sampling: dict[str, Any] | None
    looks: dict[str, Look]
    pictures: tuple[StudyPicture, ...]
    missing: int
    created: str

    @property
    def name(self) -> str:
        return self.folder.name

    def pairs(self, look: str | None = None) -> Iterator[StudyPair]:
        """Complete pairs in the order they were begun, of one look or of all."""
        studies: dict[str, dict[str, StudyPicture]] = {}
        for picture in self.pictures:
            if look is None or picture.look == look:
                studies.setdefault(picture.study, {})[picture.side] = picture
        for study, sides in studies.items():
            if "low" in sides and "high" in sides:
                low = sides["low"]
                yield StudyPair(study, low.prompt, low.look, low.seed, low, sides["high"], sides.get("none"))

    def by_look(self) -> dict[str, list[StudyPair]]:
        """Complete pairs by look; looks without any are left out."""
        found: dict[str, list[StudyPair]] = {}
        for pair in self.pairs():
            found.setdefault(pair.look, []).append(pair)
        return found

    def report(self) -> str:
        """What the set holds, in lines for people."""
        looks = self.by_look()
        pairs = [pair for found in looks.values() for pair in found]
        prompts = len({pair.prompt for pair in pairs})
        lines = [
            f"{self.name}: {counted(len(pairs), 'pair')} of {counted(len(looks), 'look')} on "
            f"{counted(prompts, 'prompt')}, {counted(len(self.pictures), 'picture')}."
        ]
        if self.model is not None and self.sampling is not None:
            settings = ", ".join(f"{key} {value}" for key, value in self.sampling.items() if value != "")
            lines.append(f"Painted by {model_name(self.model)}: {settings}.")
        same = [self.looks[look] for look, found in looks.items() if all(pair.alike() for pair in found)]
        if same:
            names = ", ".join(f"{look.low.name} / {look.high.name}" for look in same)
            lines.append(f"The model paints both sides of these looks the same: {names}.")
        if self.missing:
            lines.append(f"Files of {counted(self.missing, 'picture')} are gone; another run paints them again.")
        return "\n".join(lines)

    def holds(self) -> set[tuple[str, str]]:
        """Study and side of every picture that is there."""
        return {(picture.study, picture.side) for picture in self.pictures}


def open_studies(folder: Path) -> StudySet:
    """Read a set; ValueError in one sentence where there is none, or it is damaged."""
    return _study_set(folder, _description(folder))


class StudyWriter:
    """A set that pictures are added to."""

    def __init__(self, folder: Path, known: set[tuple[str, str]]) -> None:
        self.folder, self.known = folder, known

    def holds(self, study: str, side: str) -> bool:
        """Whether that picture is there already."""
        return (study, side) in self.known

    def add(self, cell: Cell, side: str, picture: Picture, latent: Tensor, noise: Tensor) -> None:
        """Add a painted picture: latent and noise [1, C, ...] as the host had them. OSError where the disk is full."""
        same = torch.equal(noise, noise_of(cell.seed, noise.shape))
        tensors = {"latent": latent.detach().to("cpu", torch.float16).contiguous()}
        if not same:
            tensors["noise"] = noise.detach().to("cpu", torch.float32).contiguous()
        name = f"latents/{cell.look.id}/{cell.study}-{side}.safetensors"
        self._write(name, save(tensors, {"format": LATENT_FORMAT, "version": LATENT_VERSION}))
        asked = cell.look.side(side)
        text = cell.prompt if asked is None else asked.on(cell.prompt)
        made = {"seed": cell.seed, "text": text, "latent": name, "noise": FROM_SEED if same else STORED}
        self._add(cell.study, cell.prompt, cell.look.id, side, picture, made)

    def add_finished(self, look: Look, prompt: str, seed: int | None, low: Picture, high: Picture) -> bool:
        """Add a pair of pictures that were made elsewhere; False where the set holds it already."""
        study = _digest([look.id, prompt, low.digest, high.digest])
        if self.holds(study, "low") and self.holds(study, "high"):
            return False
        for side, picture in (("low", low), ("high", high)):
            self._add(study, prompt, look.id, side, picture, {"seed": seed, "text": prompt})
        return True

    def _add(self, study: str, prompt: str, look: str, side: str, picture: Picture, made: dict[str, Any]) -> None:
        name = f"pictures/{look}/{study}-{side}{picture.extension()}"
        self._write(name, picture.read())
        row = {"study": study, "prompt": prompt, "look": look, "side": side, "picture": name, **made}
        with (self.folder / ROWS_FILE).open("ab") as rows:
            rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            rows.flush()
            os.fsync(rows.fileno())
        self.known.add((study, side))

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, data)


def continue_studies(
    folder: Path,
    looks: Iterable[Look],
    model: dict[str, str] | None = None,
    sampling: dict[str, Any] | None = None,
) -> StudyWriter:
    """Begin a set, or go on with one; without model and sampling for pictures that were made elsewhere.

    ValueError where another model painted the set, by other settings, or where a look there asks by other words.
    """
    if (folder / STUDIES_FILE).exists():
        before = _description(folder)
        found = _study_set(folder, before)
        _check_same(found, looks, model, sampling)
        description = {**before, "model": found.model or model, "sampling": found.sampling or sampling}
        known = found.holds()
        _drop_torn_row(folder / ROWS_FILE)
    else:
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ValueError(f"The folder {folder.name!r} holds other things than studies: choose another name.")
        before, known = {}, set()
        now = datetime.now().isoformat(timespec="seconds")
        description = {"format": FORMAT, "version": VERSION, "created": now, "model": model, "sampling": sampling}
        description |= {"noise": "of the seed, on the CPU (noise_of)", "latents": "float16, as the VAE decodes them"}
    held = {entry["id"]: entry for entry in before.get("looks", [])} | {look.id: look.as_json() for look in looks}
    description["looks"] = list(held.values())
    if description != before:
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(folder / STUDIES_FILE, json.dumps(description, ensure_ascii=False, indent=1).encode())
    for unfinished in folder.rglob(".*.part"):  # of a run that was killed
        unfinished.unlink()
    return StudyWriter(folder, known)


def model_name(model: dict[str, str]) -> str:
    """A model's signature in words."""
    return f"{model['class']} with the weights {model['weights'][:8]}"


def _check_same(
    found: StudySet, looks: Iterable[Look], model: dict[str, str] | None, sampling: dict[str, Any] | None
) -> None:
    if model is not None and found.model is not None and model != found.model:
        raise ValueError(
            f"The studies {found.name!r} were painted by {model_name(found.model)}, and this MODEL is "
            f"{model_name(model)}: choose another name, or load that model."
        )
    if sampling is not None and found.sampling is not None and sampling != found.sampling:
        differing = [key for key in sampling if sampling[key] != found.sampling.get(key)]
        there, here = (
            ", ".join(f"{key} {values.get(key)!r}" for key in differing) for values in (found.sampling, sampling)
        )
        raise ValueError(
            f"The studies {found.name!r} were painted with {there}, and now it is {here}: choose another name, or "
            "those settings."
        )
    for look in looks:
        held = found.looks.get(look.id)
        if held is not None and not held.asks_as(look):
            raise ValueError(
                f"The studies {found.name!r} hold the look {look.id!r} in other words ({held.low.words} / "
                f"{held.high.words}): choose another name for the studies, or another id for the look."
            )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / STUDIES_FILE
    if not path.is_file():
        raise ValueError(f"There are no studies in {folder.resolve().name!r}: expected a folder with {STUDIES_FILE}.")
    try:
        data = parsed(STUDIES_FILE, path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{folder.name}/{STUDIES_FILE} is damaged ({error}): restore it from a copy.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{folder.name}/{STUDIES_FILE} describes no studies: expected the format {FORMAT!r}.")
    if data.get("version") != VERSION:
        raise ValueError(
            f"The studies {folder.name!r} are of version {quoted(data.get('version'))}, expected {VERSION}: update "
            "this software, or paint them again."
        )
    kinds = {"model": (dict, NoneType), "sampling": (dict, NoneType), "looks": (list,)}
    wrong = [name for name, kind in kinds.items() if not isinstance(data.get(name), kind)]
    model = data.get("model")
    if isinstance(model, dict) and not all(isinstance(model.get(name), str) for name in ("class", "weights")):
        wrong.append("model")
    if wrong:
        raise ValueError(f"{folder.name}/{STUDIES_FILE} is damaged (its {wrong[0]}): restore it from a copy.")
    return data


def _study_set(folder: Path, data: dict[str, Any]) -> StudySet:
    looks = {look.id: look for look in (look_of(entry, STUDIES_FILE) for entry in data.get("looks", []))}
    root = folder.resolve()
    rows = [_picture(row, number, root, looks) for number, row in _rows(folder / ROWS_FILE)]
    pictures = {(row.study, row.side): row for row in rows if _is_there(row)}
    missing = len({(row.study, row.side) for row in rows}) - len(pictures)
    created = str(data.get("created", ""))
    return StudySet(folder, data.get("model"), data.get("sampling"), looks, tuple(pictures.values()), missing, created)


def _is_there(row: StudyPicture) -> bool:
    assert row.picture.path is not None
    files = [row.picture.path, *([] if row.latent_file is None else [row.latent_file])]
    return all(map(os.path.isfile, files))  # unlike pathlib's it takes any name for one that is not there


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows; the last is passed over while its line has no end, since writing it was cut short."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = parsed("a study", line)
                valid = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in _FIELDS.items())
            except ValueError:
                valid = False
            if not valid or row["side"] not in SIDES:
                raise ValueError(f"Line {number} of {path.parent.name}/{ROWS_FILE} is no study: remove that line.")
            yield number, row


def _picture(row: dict[str, Any], number: int, folder: Path, looks: dict[str, Look]) -> StudyPicture:
    if row["look"] not in looks:
        raise ValueError(
            f"Line {number} of {folder.name}/{ROWS_FILE} shows the look {row['look'][:60]!r}, which {STUDIES_FILE} "
            "does not describe: remove that line."
        )
    seed, latent = row.get("seed"), row.get("latent")
    return StudyPicture(
        study=row["study"],
        prompt=row["prompt"],
        look=row["look"],
        side=row["side"],
        seed=seed if isinstance(seed, int) else None,
        text=str(row.get("text", row["prompt"])),
        picture=Picture(_inside(folder, row["picture"], number)),
        latent_file=None if latent is None else _inside(folder, str(latent), number),
        noise_from=row.get("noise"),
    )


def _inside(folder: Path, name: str, number: int) -> Path:
    """The path of a file of the set in the resolved `folder`; ValueError where it leads out of it."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError):  # letters that no file name has, or too many
        path = folder
    if path == folder or not path.is_relative_to(folder):
        raise ValueError(
            f"Line {number} of {folder.name}/{ROWS_FILE} names a file outside of the set ({name[:60]!r}): remove it."
        )
    return path


def _drop_torn_row(path: Path) -> None:
    """Cut off a last line without an end, so that the next row begins one of its own."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
