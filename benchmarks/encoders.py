"""`python -m benchmarks.encoders --people FOLDER --tower NAME`: how well a taste encoder reads people it never met.

FOLDER is a preference set of many people, each with 20 picks or more. Whitening is fitted to all pictures, the prior to
other people: people are in folds, and each fold is read by what the others taught. A person's decided pairs, each once,
are drawn in random order; the first 4, 8 and 16 make the posterior, and the figure is the share of the pairs beyond the
16th on which it prefers what they chose, over draws. Half of the people, "tuning", were looked at while the method was
chosen; what is reported is of the others.

Beside it stand: how often somebody asked twice answers the same; the ranking of the pictures by all others' picks,
which knows these pictures and nothing else; and plain EM in 32 directions, the first try.

`--people pocket-kind` simulates people instead, who like hidden statistics of pixels (ppd/pocket/people.py), on
pictures of other models: those in the packages of ComfyUI's workflow templates, or of the folder `--pictures`. One half
of the pictures makes encoder and prior, the other is asked about; looks are measured on edits (edits.py), since nothing
paints studies here. Simulated and real people are not to be compared.

Means are over people, with 95 % bootstrap intervals over people.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.features import PictureFeatures, Tower
from ppd.encoders.looks import Looks
from ppd.encoders.making import Picks, choose_dims, prior_of_looks, prior_of_people
from ppd.encoders.population import PopulationPrior, fit_population, fit_whitening
from ppd.encoders.posterior import fit_posterior, fit_posteriors
from ppd.encoders.towers import open_tower
from ppd.evaluation import Array, bootstrap
from ppd.pairs import read_pairs
from ppd.pictures import Picture, pictures_below
from ppd.pocket.studio import ENCODER, WEIGHTS

COUNTS = (0, 4, 8, 16)
LEAST_QUERIES = 4
FOLDS = 8
SEED = 10
FIRST_TRY_DIMS = 32
TOWERS = ("pocket", "efficientnet-lite0")
POCKET_KIND = "pocket-kind"
EDITED, EDIT = 24, 0.7
"""Pictures that are edited to measure looks, and how strongly."""
TEMPLATES = "comfyui_workflow_templates_media_*"


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody's pairs, each once: `picks` by picture number; how many they were asked `twice`, and answered the `same`
    way, of pairs decided both times."""

    picks: Picks
    twice: int = 0
    same: int = 0

    @property
    def decided(self) -> np.ndarray:
        """Which of the pairs are no ties."""
        return np.flatnonzero(self.picks.outcomes.numpy() == 1)


def open_benchmark_tower(name: str, weights: str | None) -> Tower:
    """A tower by its name: one of TOWERS, or an open_clip model with a weights file or tag."""
    if name == "pocket":
        return open_tower({"kind": "folder"}, WEIGHTS / ENCODER)
    if name == "efficientnet-lite0":
        from .efficientnet import EfficientNetLite0

        return EfficientNetLite0()
    if weights is None:
        raise ValueError(f"Expected a tower {', '.join(TOWERS)}, or an open_clip model with --weights, got {name!r}.")
    return open_tower(
        {"kind": "open_clip", "model": name, "file" if Path(weights).is_file() else "pretrained": weights}
    )


def read_people(folder: Path) -> tuple[list[Picture], list[Person]]:
    """All pictures of a preference set, and everybody's pairs in the order they were asked."""
    pictures: dict[str, tuple[int, Picture]] = {}
    asked: dict[str | None, list[tuple[int, int, float]]] = {}
    for pair in read_pairs(folder, check_pictures=False):
        for picture in (pair.chosen, pair.rejected):
            pictures.setdefault(picture.digest, (len(pictures), picture))
        chosen, rejected = (pictures[picture.digest][0] for picture in (pair.chosen, pair.rejected))
        asked.setdefault(pair.user, []).append((chosen, rejected, pair.outcome))
    return [picture for _, picture in pictures.values()], [_person(rows) for rows in asked.values()]


def _person(rows: Sequence[tuple[int, int, float]]) -> Person:
    first: dict[frozenset[int], tuple[int, int, float]] = {}
    twice = same = 0
    for row in rows:
        key = frozenset(row[:2])
        if key in first and first[key][2] == row[2] == 1:
            twice, same = twice + 1, same + (first[key][0] == row[0])
        first.setdefault(key, row)
    chosen, rejected, outcomes = zip(*first.values(), strict=True)
    return Person(Picks(torch.tensor(chosen), torch.tensor(rejected), torch.tensor(outcomes)), twice, same)


def read_by(prior: PopulationPrior, features: Tensor, person: Person, orders: np.ndarray) -> Array:
    """For each of COUNTS the share of held-out picks that the posterior gets right; orders [draws, decided pairs]."""
    coordinates = prior.whiten(features).double() / prior.noise
    x = person.picks.differences(coordinates)[0]
    held_out, right = x[orders[:, max(COUNTS) :]], []
    for count in COUNTS:
        support = x[orders[:, :count]]
        ones = torch.ones(support.shape[:2])
        mean, covariance = prior.mean.double(), prior.covariance.double()
        u = fit_posteriors(support, ones, ones, mean, covariance)[0] if count else mean.expand(len(orders), -1)
        right.append(_right(torch.einsum("kqd,kd->kq", held_out, u)))
    return np.array(right)


def _right(logits: Tensor) -> float:
    return float(((logits > 0) + 0.5 * (logits == 0)).mean())


def first_try(features: Tensor, people: Sequence[Picks]) -> PopulationPrior:
    """Plain EM in FIRST_TRY_DIMS directions."""
    center, basis = fit_whitening(features, FIRST_TRY_DIMS)
    coordinates = ((features - center) @ basis).double()
    return PopulationPrior(*fit_population([picks.differences(coordinates) for picks in people]), center, basis, "", "")


def ranking(pictures: int, people: Sequence[Picks]) -> Tensor:
    """Scores [pictures] by the picks of all these people together: Bradley-Terry with a unit normal prior."""
    each = [picks.differences(torch.eye(pictures, dtype=torch.float64)) for picks in people]
    differences, outcomes, _ = (torch.cat(part) for part in zip(*each, strict=True))
    zero, one = torch.zeros(pictures, dtype=torch.float64), torch.eye(pictures, dtype=torch.float64)
    return fit_posterior(differences, outcomes, zero, one)[0]


def real_people(features: Tensor, people: list[Person], draws: int, folds: int) -> dict[str, Any]:
    """All figures of real people by features [N, f] of their pictures."""
    able = [n for n, person in enumerate(people) if len(person.decided) >= max(COUNTS) + LEAST_QUERIES]
    if len(able) < 2 * folds:
        raise ValueError(
            f"Expected at least {2 * folds} people with {max(COUNTS) + LEAST_QUERIES} decided pairs, got {len(able)}."
        )
    dims = choose_dims(features)
    arms: dict[str, Callable[[list[Picks]], PopulationPrior]] = {
        "taste encoder": lambda picks: prior_of_people(features, picks, dims, encoder="", encoder_hash=""),
        "plain EM": lambda picks: first_try(features, picks),
    }
    shuffled = np.random.default_rng(SEED).permutation(len(people))
    tuning = set(shuffled[: len(people) // 2].tolist())
    right: dict[str, dict[int, Array]] = {arm: {} for arm in (*arms, "ranking")}
    for fold in range(folds):
        out = set(shuffled[fold::folds].tolist())
        others = [person.picks for n, person in enumerate(people) if n not in out]
        priors = {arm: fit(others) for arm, fit in arms.items()}
        scores = ranking(len(features), others)
        for n in sorted(out & set(able)):
            rng = np.random.default_rng([SEED, n])
            orders = np.array([rng.permutation(people[n].decided) for _ in range(draws)])
            for arm, prior in priors.items():
                right[arm][n] = read_by(prior, features, people[n], orders)
            x = people[n].picks.differences(scores[:, None])[0][:, 0]
            right["ranking"][n] = np.array([_right(x[orders[:, max(COUNTS) :]])])
        print(f"fold {fold + 1} of {folds}", flush=True)
    twice, same = (sum(getattr(person, what) for person in people) for what in ("twice", "same"))
    report: dict[str, Any] = {"people": len(people), "pictures": len(features), "dimensions": dims}
    report["repeat"] = {"mean": same / twice, "n": twice} if twice else None
    for part, chosen in (("reporting", [n for n in able if n not in tuning]), ("tuning", sorted(tuning & set(able)))):
        rows = {arm: np.stack([found[n] for n in chosen]) for arm, found in right.items()}
        report[part] = {arm: _by_count(rows[arm]) for arm in arms}
        report[part]["others' ranking"] = bootstrap(rows["ranking"][:, 0])
    return report


def _by_count(rows: Array) -> dict[str, Any]:
    found: dict[str, Any] = {str(count): bootstrap(rows[:, index]) for index, count in enumerate(COUNTS)}
    return found | {"gained": bootstrap(rows[:, -1] - rows[:, 0])}


def template_pictures() -> list[Picture]:
    """Pictures that other models painted, in the packages of ComfyUI's workflow templates."""
    import comfyui_workflow_templates

    site = Path(comfyui_workflow_templates.__file__).parents[1]
    folders = sorted(site.glob(f"{TEMPLATES}/templates"))
    return [p for folder in folders for p in pictures_below(folder) if p.path and p.path.parent == folder.resolve()]


def edited_readings(reader: PictureFeatures, pictures: Sequence[Picture], basis: Tensor) -> Tensor:
    """Readings [k, d] of the looks that edits give to pictures (edits.py), in place of studies that a model paints."""
    from .edits import SIZE, WORDS, edited

    sides: dict[int, list[Picture]] = {-1: [], 1: []}
    for picture in pictures:
        small = picture.open().convert("RGB").resize((SIZE, SIZE))
        for strengths in np.eye(len(WORDS)):
            for side, found in sides.items():
                found.append(Picture.from_image(edited(small, EDIT * side * strengths, np.random.default_rng(SEED))))
    low, high = (reader.picture_features(sides[side]) for side in (-1, 1))
    named = [(name, *words) for name, words in WORDS.items()]
    look, prompt = (np.arange(len(low)) % len(WORDS), np.arange(len(low)) // len(WORDS))
    return Looks.from_differences((high - low) @ basis, look.tolist(), named, prompt=prompt.tolist())[0].readings


def pocket_kind(
    reader: PictureFeatures, pictures: Sequence[Picture], shipped: PopulationPrior | None, people: int, training: int
) -> dict[str, Any]:
    """All figures of simulated people on any pictures by a tower; `shipped` is the pocket's own prior."""
    from ppd.pocket.people import People, pick, sample_weights
    from ppd.pocket.statistics import Whitening, picture_statistics, reward_statistics

    features = reader.picture_features(pictures)
    side = (128, 128)
    pixels = (np.asarray(picture.open().convert("RGB").resize(side)) for picture in pictures)
    raw = torch.cat([picture_statistics(torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255) for x in pixels])
    statistics = reward_statistics(Whitening.fit(raw), raw)
    rng = np.random.default_rng(SEED)
    known, asked = np.array_split(rng.permutation(len(pictures)), 2)

    def simulate(count: int, pairs: int, among: np.ndarray) -> list[Picks]:
        weights, types = sample_weights(torch.cov(statistics.T), rng, count)
        drawn = np.stack([np.stack([rng.choice(among, 2, replace=False) for _ in range(pairs)]) for _ in range(count)])
        rewards = People(weights, types).rewards(statistics[drawn])
        first = pick(rewards[..., 0], rewards[..., 1], rng)
        chosen, rejected = (
            torch.where(first, torch.tensor(drawn[..., a]), torch.tensor(drawn[..., 1 - a])) for a in (0, 1)
        )
        return [Picks(*both, torch.ones(pairs)) for both in zip(chosen, rejected, strict=True)]

    taught, met = simulate(training, max(COUNTS), known), simulate(people, max(COUNTS) + 100, asked)
    own = features[torch.tensor(known)]
    dims = choose_dims(own)
    center, basis = fit_whitening(own, dims)
    place = torch.zeros(len(features), dtype=torch.long)
    place[torch.tensor(known)] = torch.arange(len(known))
    taught = [Picks(place[picks.chosen], place[picks.rejected], picks.outcomes) for picks in taught]
    arms = {} if shipped is None else {"the pocket's own whitening and prior": shipped}
    arms["whitening refitted, people of directions"] = prior_of_looks(center, basis, None, encoder="", encoder_hash="")
    readings = edited_readings(reader, [pictures[n] for n in known[:EDITED]], basis)
    arms["whitening refitted, people of looks"] = prior_of_looks(center, basis, readings, encoder="", encoder_hash="")
    arms[f"refitted, and {training} people of their kind"] = prior_of_people(
        own, taught, dims, encoder="", encoder_hash=""
    )
    order = np.arange(max(COUNTS) + 100)[None]
    report: dict[str, Any] = {"people": people, "pictures": len(pictures), "dimensions": dims}
    for arm, prior in arms.items():
        report[arm] = _by_count(np.stack([read_by(prior, features, Person(picks), order) for picks in met]))
    ideal = simulated_ideal(statistics, taught, met, torch.tensor(known), order)
    return report | {"ideal reader, who sees the statistics": ideal}


def simulated_ideal(
    statistics: Tensor, taught: Sequence[Picks], met: Sequence[Picks], known: Tensor, order: np.ndarray
) -> dict[str, Any]:
    """The same by somebody who sees the hidden statistics themselves, with the prior of the same people."""
    own = statistics[known].double()
    prior = fit_population([picks.differences(own) for picks in taught])
    one = torch.eye(statistics.shape[1])
    seen = PopulationPrior(*prior, torch.zeros(len(one)), one, "", "")
    return _by_count(np.stack([read_by(seen, statistics, Person(picks), order) for picks in met]))


def table(report: dict[str, Any]) -> str:
    """The figures as lines to read."""
    settings = report["settings"]
    counts = (f"{report[what]} {what}" for what in ("people", "pictures", "dimensions"))
    lines = [", ".join((settings["tower"], *counts))]
    for part in ("reporting", "tuning"):
        if part in report:
            lines.append(f"real people, {part}: share of held-out picks")
            lines += _rows(report[part])
    if "reporting" not in report:
        lines.append("simulated people of hidden statistics: share of held-out picks")
        lines += _rows({arm: found for arm, found in report.items() if isinstance(found, dict) and "16" in found})
    if report.get("repeat"):
        lines.append(f"asked twice, the same answer: {report['repeat']['mean']:.3f} of {report['repeat']['n']} pairs")
    return "\n".join(lines)


def _rows(arms: dict[str, Any]) -> list[str]:
    lines = []
    for arm, found in arms.items():
        if "mean" in found:
            lines.append(f"  {arm:40} {_figure(found)}")
        else:
            lines.append(f"  {arm:40} " + "  ".join(f"{key}: {_figure(value)}" for key, value in found.items()))
    return lines


def _figure(found: dict[str, float]) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders")
    parser.add_argument("--people", required=True, help=f"a preference set of many people, or {POCKET_KIND}")
    parser.add_argument("--tower", default="efficientnet-lite0", help=f"{', '.join(TOWERS)}, or an open_clip model")
    parser.add_argument("--weights", help="of an open_clip model: a .safetensors file or a tag")
    parser.add_argument("--pictures", type=Path, help=f"with {POCKET_KIND}: a folder of pictures")
    parser.add_argument("--draws", type=int, default=20, help="orders of each person's pairs (default: 20)")
    parser.add_argument("--simulated", type=int, nargs=2, default=[200, 400], metavar=("ASKED", "TEACHING"))
    parser.add_argument("--work", type=Path, default=Path(".work"), help="folder that keeps what towers saw")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    features = PictureFeatures(open_benchmark_tower(arguments.tower, arguments.weights), cache_dir=arguments.work)
    if arguments.people == POCKET_KIND:
        pictures = pictures_below(arguments.pictures) if arguments.pictures else template_pictures()
        pictures = list({picture.digest: picture for picture in pictures}.values())
        shipped = TasteEncoder.load(WEIGHTS / ENCODER).prior if arguments.tower == "pocket" else None
        report = pocket_kind(features, pictures, shipped, *arguments.simulated)
    else:
        pictures, people = read_people(Path(arguments.people))
        report = real_people(features.picture_features(pictures), people, arguments.draws, FOLDS)
    report["settings"] = {"tower": features.name, "seed": SEED, "draws": arguments.draws, "folds": FOLDS}
    print(table(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
