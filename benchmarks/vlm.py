"""`python -m benchmarks.vlm --model FOLDER --people FOLDER`: the paper's way and the linear way, on the same picks.

The linear way: states of a middle layer per picture, whitened, and the posterior over differences behind a person's
first picks. The paper's way: the profile that the model writes of the same picks, whose states are whitened and read as
a taste by ridge regression, its penalty chosen by leave-one-out. All that is fitted is fitted on the first half of the
people; reported is how many of the others' remaining picks come out right, with 95 % bootstrap intervals over people.
Beside them stand nobody's taste (the population's), and the profile of somebody else, which a profile that tells people
apart must beat. Held-out pairs share no picture with the picks that were read; ties are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppd.encoders.features import PictureFeatures
from ppd.encoders.population import fit_population, fit_whitening
from ppd.encoders.posterior import fit_posterior, fit_with_noise
from ppd.encoders.towers.vlm import LocalVLM, TransformersVLMTower
from ppd.encoders.vlm import LONGEST, ProfileEncoder
from ppd.evaluation import Array, bootstrap
from ppd.pairs import PreferencePair, read_pairs

DIMS = 48
PENALTIES = [10.0**power for power in range(-2, 7)]
FEWEST = 4
"""Held-out pairs that a person must have."""


class Person(NamedTuple):
    """Somebody's picks: those that are read, and those that are held out."""

    support: list[PreferencePair]
    query: list[PreferencePair]


def people_in(folder: Path, picks: int, seed: int = 0) -> list[Person]:
    """The people of a preference set, mixed, who have `picks` pairs to read and FEWEST or more besides."""
    pairs: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in read_pairs(folder, check_pictures=False):
        if pair.user is not None and not pair.tie:
            pairs[pair.user].append(pair)
    rng = np.random.default_rng(seed)
    found = []
    for user in sorted(pairs):
        mixed = [pairs[user][place] for place in rng.permutation(len(pairs[user]))]
        seen = {picture.digest for pair in mixed[:picks] for picture in (pair.chosen, pair.rejected)}
        query = [pair for pair in mixed[picks:] if not seen & {pair.chosen.digest, pair.rejected.digest}]
        if len(mixed) > picks and len(query) >= FEWEST:
            found.append(Person(mixed[:picks], query))
    if len(found) < 4:
        raise SystemExit(
            f"Expected four people or more with {picks + FEWEST} pairs each, got {len(found)} in {folder}."
        )
    return [found[place] for place in rng.permutation(len(found))]


def fit_ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Map [d, k] and offset [k] from x [n, d] to y [n, k], and its penalty, the best of PENALTIES by leave-one-out."""
    middle, mean = x.mean(0), y.mean(0)
    u, s, v = torch.linalg.svd(x - middle, full_matrices=False)
    errors = {}
    for penalty in PENALTIES:
        hat = (u * (s.square() / (s.square() + penalty))) @ u.T
        own = hat.diagonal() + 1 / len(x)  # the mean is fitted as well
        errors[penalty] = float((((y - mean) - hat @ (y - mean)) / (1 - own)[:, None]).square().sum())
    best = min(errors, key=lambda penalty: errors[penalty])
    weights = v.T @ torch.diag(s / (s.square() + best)) @ u.T @ (y - mean)
    return weights, mean - middle @ weights, best


def measure(
    vlm: LocalVLM,
    people: list[Person],
    *,
    layer: int | None = None,
    longest: int = LONGEST,
    cache_dir: Path | None = None,
    examples: int = 2,
) -> dict[str, Any]:
    """Held-out accuracy of both ways over the second half of `people`, all that is fitted being of the first half."""
    tower = TransformersVLMTower(vlm, layer=layer)
    features = PictureFeatures(tower, cache_dir=cache_dir)
    half = len(people) // 2
    seen = [tuple(features.pair_features(part) for part in person) for person in tqdm(people, desc="pictures")]
    pictures = torch.cat([x for person in seen[:half] for part in person for x in (part.chosen, part.rejected)])
    center, basis = fit_whitening(pictures, min(DIMS, len(pictures) // 4))

    def differences(part: Any) -> Tensor:
        return ((part.chosen - part.rejected) @ basis).double()

    support, query = ([differences(person[which]) for person in seen] for which in (0, 1))
    everything = [torch.cat(both) for both in zip(support, query, strict=True)]
    mean, covariance = fit_population([(x, torch.ones(len(x))) for x in everything[:half]])
    encoder = ProfileEncoder(vlm, layer=layer, pairs=max(len(person.support) for person in people), longest=longest)
    profiles, texts = [], []
    for person in tqdm(people, desc="profiles"):
        profiles.append(encoder.encode(person.support).u[0].double())
        texts.append(encoder.profile(person.support))
    middle, axes = fit_whitening(torch.stack(profiles[:half]), min(DIMS, half - 1))
    written = (torch.stack(profiles) - middle) @ axes
    known = [fit_posterior(x, torch.ones(len(x)), mean, covariance)[0] for x in everything[:half]]
    weights, offset, penalty = fit_ridge(written[:half], torch.stack(known))
    tastes: dict[str, list[Tensor]] = defaultdict(list)
    for number in range(half, len(people)):
        other = half + (number - half + 1) % (len(people) - half)
        picks = support[number]
        tastes["population"].append(mean)
        tastes["linear"].append(fit_with_noise(picks, torch.ones(len(picks)), mean, covariance)[0])
        tastes["profile"].append(written[number] @ weights + offset)
        tastes["another's profile"].append(written[other] @ weights + offset)
    right: dict[str, Array] = {
        name: np.array([accuracy(x, taste) for x, taste in zip(query[half:], found, strict=True)])
        for name, found in tastes.items()
    }
    return {
        "accuracy": {name: bootstrap(rows) for name, rows in right.items()},
        "linear minus profile": bootstrap(right["linear"] - right["profile"]),
        "profile minus another's": bootstrap(right["profile"] - right["another's profile"]),
        "examples": texts[half : half + examples],
        "settings": {
            "model": vlm.name,
            "layer": tower.layer,
            "people": {"fitted on": half, "reported": len(people) - half},
            "dimensions": {"pictures": basis.shape[1], "profiles": axes.shape[1]},
            "penalty": penalty,
            "longest": longest,
        },
    }


def accuracy(differences: Tensor, taste: Tensor) -> float:
    """How many of the picks, differences [n, d], the taste [d] makes as the person did; undecided ones count half."""
    return float(((differences @ taste).sign() + 1).mean() / 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vlm")
    parser.add_argument("--model", type=Path, required=True, help="folder of a vision-language model")
    parser.add_argument("--people", type=Path, required=True, help="a preference set whose pairs name their users")
    parser.add_argument("--picks", type=int, default=4, help="pairs that are read of each person, in one context")
    parser.add_argument("--limit", type=int, help="people at most")
    parser.add_argument("--layer", type=int, help="from 1 (default: the middle one)")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of a profile at most")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="where features of pictures are kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    people = people_in(arguments.people, arguments.picks, arguments.seed)[: arguments.limit]
    vlm = LocalVLM.from_folder(arguments.model, device=arguments.device)
    found = measure(vlm, people, layer=arguments.layer, longest=arguments.longest, cache_dir=arguments.cache)
    found["settings"] |= {"picks": arguments.picks, "seed": arguments.seed, "device": arguments.device}
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
