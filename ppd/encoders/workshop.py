"""The workshop: a taste encoder out of what an artist has, studies, folders of pictures and pairs of many people.

Features are kept by content (features.py), so that work that was cancelled goes on where it stopped, and a second
encoder of the same pictures takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import write_file
from ..pairs import PreferencePair, counted
from ..pictures import Picture, PreferenceError
from ..studies import StudyPair, StudySet
from .choices import numbered
from .encoder import TasteEncoder
from .features import PictureFeatures, text_side_of
from .looks import FOLDS, Looks
from .making import LEAST_PEOPLE, MOST_DIMS, Picks, choose_dims, prior_of_looks, prior_of_people
from .population import PopulationPrior, fit_whitening
from .simulated import SIMULATED
from .towers import TOWER_FILE, complete

if TYPE_CHECKING:
    from .towers.open_clip import TextSide

LEAST_PAIRS = 5
"""Fewer study pairs of a look cannot say whether the model obeys it."""
MOST_PROMPTS = 20
"""That the words of a look are read with."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Materials:
    """What a taste encoder is made of; any part may be missing, but not all pictures."""

    studies: StudySet | None = None
    pictures: Sequence[Picture] = ()
    pairs: Sequence[PreferencePair] = ()


@dataclass
class _Seen:
    """Features of all pictures by content: `rows` [n, f], and each content's row; `broken` ones by content."""

    rows: Tensor
    index: dict[str, int]
    broken: list[PreferenceError] = field(default_factory=list)

    def has(self, *pictures: Picture) -> bool:
        return all(picture.digest in self.index for picture in pictures)

    def of(self, pictures: Sequence[Picture]) -> Tensor:
        return torch.tensor([self.index[picture.digest] for picture in pictures], dtype=torch.long)


def make_encoder(
    features: PictureFeatures,
    reference: Mapping[str, Any],
    materials: Materials,
    *,
    most_dims: int = MOST_DIMS,
    progress: Progress | None = None,
) -> TasteEncoder:
    """A taste encoder whose tower is `reference` (encoders/towers) and looks at pictures by `features`.

    Pictures that cannot be read are left out and counted. `progress(pictures done, of)` may raise to cancel.
    """
    if not 1 <= most_dims <= MOST_DIMS:
        raise ValueError(f"Expected 1 to {MOST_DIMS} dimensions, got {most_dims}.")
    seen = _look(features, materials, progress)
    dims = choose_dims(seen.rows, most_dims)
    name, tower_hash = features.name, features.weight_hash
    people = _people(materials.pairs, seen)
    real = len(people) >= LEAST_PEOPLE
    if real:
        prior = prior_of_people(seen.rows, list(people.values()), dims, encoder=name, encoder_hash=tower_hash)
        center, basis = prior.center, prior.basis
    else:
        center, basis = fit_whitening(seen.rows, dims)
    looks, dropped = _looks(materials.studies, seen, basis)
    if not real:
        prior = prior_of_looks(
            center, basis, None if looks is None else looks.readings, encoder=name, encoder_hash=tower_hash
        )
    made: dict[str, Any] = {
        "date": date.today().isoformat(),
        "pictures": len(seen.rows),
        "pictures_left_out": len(seen.broken),
        "dimensions": prior.dim,
        "variance_explained": round(_explained(seen.rows, prior), 3),
        "people": len(people) if real else SIMULATED,
        "people_are": "real" if real else "simulated",
        "picks": sum(map(len, people.values())) if real else 0,
        "real_people_too_few": 0 if real else len(people),
        "study_pairs": 0 if materials.studies is None else sum(1 for _ in materials.studies.pairs()),
        "painted_by": None if materials.studies is None else materials.studies.model,
        "dropped_looks": list(dropped),
    }
    text_side = text_side_of(features)
    if text_side is not None and looks is not None and materials.studies is not None:
        made["words_agree"] = _agreement(looks, materials.studies, text_side, basis)
    tower = complete(reference, features.tower)
    return TasteEncoder(tower, prior, looks, made)


def save_encoder(encoder: TasteEncoder, folder: Path, tower_folder: Path | None = None) -> None:
    """Write a new taste encoder's folder, with the tower that lies in the folder of another one, if it does."""
    if encoder.tower["kind"] == "folder":
        assert tower_folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / TOWER_FILE, (tower_folder / TOWER_FILE).read_bytes())
    encoder.save(folder)


def report_of(encoder: TasteEncoder) -> str:
    """How a taste encoder was made, in lines for people."""
    made = encoder.made
    lines = [
        f"{counted(made['pictures'], 'picture')} seen by {encoder.tower['name']}; {made['dimensions']} dimensions, in "
        f"which held-out pictures are likeliest, hold {made['variance_explained']:.0%} of how they differ."
    ]
    if made["pictures_left_out"]:
        lines.append(f"Left out {counted(made['pictures_left_out'], 'picture')} that cannot be read.")
    if made["people_are"] == "real":
        lines.append(f"What people are like: {made['people']} real people with {made['picks']} picks.")
    else:
        lines.append(f"What people are like: {made['people']} simulated people, who like {_liked(encoder)}.")
    if made["real_people_too_few"]:
        count = made["real_people_too_few"]
        lines.append(f"The pairs are of {count} {'person' if count == 1 else 'people'}, fewer than {LEAST_PEOPLE}.")
    if isinstance(encoder.looks, Looks):
        order = encoder.looks.reliability.argsort(descending=True).tolist()
        told = (f"{encoder.looks.low[i]} / {encoder.looks.high[i]} {encoder.looks.reliability[i]:.2f}" for i in order)
        lines.append(
            f"{counted(len(order), 'look')}, told on held-out studies, with correlations of: {', '.join(told)}."
        )
    if made.get("words_agree"):
        agree = made["words_agree"]
        least = min(agree, key=agree.__getitem__)
        lines.append(
            f"What was painted and what the tower makes of the words alone: cosine {median(agree.values()):.2f} in the "
            f"median of the looks, least {agree[least]:.2f} of {least}."
        )
    if made["dropped_looks"]:
        lines.append(f"Dropped, since these studies do not show them reliably: {', '.join(made['dropped_looks'])}.")
    return "\n".join(lines)


def _liked(encoder: TasteEncoder) -> str:
    if encoder.looks is None:
        return "some of what the pictures vary most in, since there are no looks"
    return "one to three of the looks, and a little of anything"


def _look(features: PictureFeatures, materials: Materials, progress: Progress | None) -> _Seen:
    """Features of every content once."""
    everything = [entry.picture for entry in materials.studies.pictures] if materials.studies is not None else []
    everything += [*materials.pictures, *(side for pair in materials.pairs for side in (pair.chosen, pair.rejected))]
    broken: dict[int, PreferenceError] = {}
    rows = features.picture_features(everything, broken=broken, progress=progress)
    index: dict[str, int] = {}
    kept: list[int] = []
    for number, picture in enumerate(everything):
        if number not in broken and picture.digest not in index:
            index[picture.digest] = len(kept)
            kept.append(number)
    return _Seen(rows[kept], index, list(broken.values()))


def _people(pairs: Sequence[PreferencePair], seen: _Seen) -> dict[str | None, Picks]:
    """Everybody's picks by user; pairs without a user are one person's."""
    own: dict[str | None, list[PreferencePair]] = {}
    for pair in pairs:
        if seen.has(pair.chosen, pair.rejected):
            own.setdefault(pair.user, []).append(pair)
    return {
        user: Picks(
            seen.of([pair.chosen for pair in theirs]),
            seen.of([pair.rejected for pair in theirs]),
            torch.tensor([pair.outcome for pair in theirs]),
            numbered([pair.choice for pair in theirs]),
        )
        for user, theirs in own.items()
    }


def _looks(studies: StudySet | None, seen: _Seen, basis: Tensor) -> tuple[Looks | None, tuple[str, ...]]:
    """Looks as the model painted them, and the names of those that it does not obey or painted too seldom."""
    if studies is None:
        return None, ()
    by_look: dict[str, list[StudyPair]] = {}
    for pair in studies.pairs():
        if seen.has(pair.low.picture, pair.high.picture):
            by_look.setdefault(pair.look, []).append(pair)
    seldom = tuple(f"{look} (fewer than {LEAST_PAIRS} pairs)" for look in by_look if len(by_look[look]) < LEAST_PAIRS)
    ids = [look for look, pairs in by_look.items() if len(pairs) >= LEAST_PAIRS]
    if not ids:
        most = max(map(len, by_look.values()), default=0)
        raise ValueError(
            f"The studies {studies.name!r} have no look with {LEAST_PAIRS} pairs, at most {most} of one: "
            f"let Paint Studies go on to a count of {LEAST_PAIRS * len(studies.looks)}, or paint fewer looks."
        )
    pairs = [pair for look in ids for pair in by_look[look]]
    rows = [seen.rows[seen.of([getattr(pair, side).picture for pair in pairs])] for side in ("low", "high")]
    told = [pair.prompt for pair in pairs]
    if len(set(told)) < FOLDS:  # finished pictures, of which nobody said what they show: held out pair by pair
        told = [pair.study for pair in pairs]
    groups = {group: number for number, group in enumerate(dict.fromkeys(told))}
    named = [(look, studies.looks[look].low.name, studies.looks[look].high.name) for look in ids]
    looks, dropped = Looks.from_differences(
        (rows[1] - rows[0]) @ basis,
        [ids.index(pair.look) for pair in pairs],
        named,
        prompt=[groups[group] for group in told],
        japanese=[(studies.looks[look].low.name_ja, studies.looks[look].high.name_ja) for look in ids],
    )
    return looks, (*dropped, *seldom)


def _agreement(looks: Looks, studies: StudySet, text_side: TextSide, basis: Tensor) -> dict[str, float]:
    """By look the cosine, whitened, of its step as painted with the one that the tower's text side makes of its words:
    the mean over prompts of text(high) - text(low), each of length 1 (prompt ensembling: Radford et al. 2021, 3.1.4).
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in studies.pairs()))[:MOST_PROMPTS]
    asked = [studies.looks[name] for name in looks.names]
    texts = [side.on(prompt) for look in asked for side in (look.low, look.high) for prompt in prompts]
    low, high = F.normalize(text_side(texts).double(), dim=-1).unflatten(0, (len(asked), 2, len(prompts))).unbind(1)
    cosines = F.cosine_similarity((high - low).mean(1) @ basis.double(), looks.steps.double())
    return {name: round(float(cosine), 3) for name, cosine in zip(looks.names, cosines, strict=True)}


def _explained(rows: Tensor, prior: PopulationPrior) -> float:
    """The share of the features' variance that the whitened directions hold."""
    x = rows.double() - rows.double().mean(0)
    span, _ = torch.linalg.qr(prior.basis.double())
    return float((x @ span).square().sum() / x.square().sum())
