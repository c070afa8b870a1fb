"""`python -m benchmarks.tilting`: which way a taste points in what an IP-Adapter sees, by tilting and by averaging.

In features alone, on the still pictures of ComfyUI's workflow templates: the taste encoder's tower is the pocket's, the
IP-Adapter's eyes are efficientnet-lite0 (no picture of either's training is among them). Simulated people reward eight
statistics of the pixels that neither of them is; they pick between two pictures, and a shifted mean picture is judged
by the person's rewards of the ten held-out pictures that lie most its way, against all held-out ones. Whitening, prior
and covariance are of one third of the pictures, picks of another, held-out ones the last. The rival is what this pack
did before: each pick weighed by its dual coefficient in a posterior on the eyes' own normalised features.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ppd.encoders.image_prompt import fit_directions
from ppd.encoders.population import fit_population, fit_whitening
from ppd.encoders.posterior import fit_posterior
from ppd.evaluation import bootstrap
from ppd.pocket.studio import WEIGHTS, load_encoder

from .edits import template_pictures
from .efficientnet import EfficientNetLite0
from .preference_judge import TASTE_SCALE

PICKS = (4, 8, 16)
NEAREST = 10
TEMPERATURE = 0.38


def pixel_statistics(pictures: list[Image.Image]) -> Tensor:
    """Standardised statistics [n, 8] of pixels: what people look at."""
    rows = []
    for picture in pictures:
        x = torch.from_numpy(np.array(picture.resize((128, 128)))).float().div(255)
        luma = x @ torch.tensor([0.299, 0.587, 0.114])
        coarse = F.avg_pool2d(luma[None], 8)[0]
        edges = (luma[1:, :-1] - luma[:-1, :-1]).abs() + (luma[:-1, 1:] - luma[:-1, :-1]).abs()
        middle = luma[32:96, 32:96].mean() - luma.mean()
        rows.append(
            [
                (x[..., 0] - x[..., 2]).mean(),
                (x.amax(-1) - x.amin(-1)).mean(),
                luma.mean(),
                coarse.std(),
                edges.mean(),
                (x[..., 1] - x[..., ::2].mean(-1)).mean(),
                middle,
                luma.flatten().quantile(0.05),
            ]
        )
    x = torch.tensor(rows)
    return ((x - x.mean(0)) / x.std(0)).clamp(-2, 2)


def middle(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """The rival's shift [f], picks' half differences weighed by dual coefficients, times confidence; and the pictures'
    weighted mean [f]."""
    d = F.normalize(chosen.double(), dim=1) - F.normalize(rejected.double(), dim=1)
    span, coordinates = torch.linalg.qr(d.T)
    eye, ones = torch.eye(span.shape[1], dtype=torch.float64), torch.ones(len(d))
    mean, covariance = fit_posterior(coordinates.T, ones, eye.new_zeros(len(eye)), eye * TASTE_SCALE**2)
    dual = 1 - torch.sigmoid(coordinates.T @ mean)
    weights, along = dual / dual.abs().sum(), mean / mean.norm()
    confidence = mean.norm() / (mean.norm().square() + along @ covariance @ along).sqrt()
    center = weights @ (chosen + rejected).double() / 2
    return (confidence * (weights @ (chosen - rejected).double()) / 2).float(), center.float()


def measure(people: int, seed: int) -> dict[str, Any]:
    """Share of held-out pictures that the nearest ones beat, by way and number of picks, with intervals over people."""
    pictures, rng = template_pictures(most=900), np.random.default_rng(seed)
    order = rng.permutation(len(pictures))
    taste = load_encoder(WEIGHTS).features.tower
    statistics = pixel_statistics(pictures)
    eyes, mind = (
        torch.cat([tower.features([tower.prepare(picture)]) for picture in pictures])
        for tower in (EfficientNetLite0(), taste)
    )
    fitted, picked, held = (torch.from_numpy(part) for part in np.array_split(order, 3))
    center, basis = fit_whitening(mind[fitted], dims=32)
    phi = (mind - center) @ basis
    directions = fit_directions(phi[fitted], eyes[fitted])[1]
    weights = torch.from_numpy(rng.normal(size=(400 + people, statistics.shape[1]))).float()
    rewards = statistics @ weights.T
    rewards = rewards / rewards.std(0)

    def picks(person: int, pool: Tensor, count: int) -> tuple[Tensor, Tensor]:
        a, b = (pool[torch.from_numpy(rng.integers(len(pool), size=count))] for _ in range(2))
        better = torch.from_numpy(rng.random(count)) < torch.sigmoid(
            (rewards[a, person] - rewards[b, person]) / TEMPERATURE
        )
        return torch.where(better, a, b), torch.where(better, b, a)

    population = []
    for person in range(400):
        chosen, rejected = picks(person, fitted, 16)
        population.append((phi[chosen] - phi[rejected], torch.ones(16)))
    prior = fit_population(population, rounds=20)
    scale = eyes[fitted].std(0).clamp_min(1e-6)
    spread = ((eyes[held] - eyes[fitted].mean(0)) / scale).float()

    def share(shift: Tensor, person: int) -> float:
        """Share of pairs (nearest, any held-out) that the nearest picture wins."""
        along = F.normalize(spread, dim=1) @ F.normalize(shift / scale, dim=0)
        best = rewards[held[along.topk(NEAREST).indices], person]
        return float((best[:, None] > rewards[held, person][None]).float().mean())

    found: dict[str, dict[int, list[float]]] = {"tilting": {}, "averaging": {}}
    for person in range(400, 400 + people):
        chosen, rejected = picks(person, picked, max(PICKS))
        for count in PICKS:
            d = phi[chosen[:count]] - phi[rejected[:count]]
            u = fit_posterior(d, torch.ones(count), *prior)[0].float()
            shifts = {"tilting": u @ directions, "averaging": middle(eyes[chosen[:count]], eyes[rejected[:count]])[0]}
            for way, shift in shifts.items():
                found[way].setdefault(count, []).append(share(shift, person))
    report: dict[str, Any] = {
        way: {str(count): bootstrap(np.array(shares)) for count, shares in counts.items()}
        for way, counts in found.items()
    }
    report["tilting minus averaging"] = {
        str(count): bootstrap(np.array(found["tilting"][count]) - np.array(found["averaging"][count]))
        for count in PICKS
    }
    return report | {"settings": {"pictures": len(pictures), "people": people, "seed": seed, "nearest": NEAREST}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tilting")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments.people, arguments.seed)
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
