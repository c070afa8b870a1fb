"""A studio's files: its people's picks as its taste encoder reads them, and the taste encoder with the prior of all."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from math import ceil
from pathlib import Path

from ..encoders.encoder import TasteEncoder
from ..encoders.population import Said
from ..encoders.towers import TOWER_FILE, open_tower
from ..files import write_file
from ..pairs import PreferencePair, read_pairs
from .hiding import Hiding
from .sums import Prior

NOTHING_LEFT = 0.3
"""Noise on the mean taste, beyond which held-out accuracy is that of the public prior (benchmarks/federated.py)."""


def people_of(pairs: Path, encoder: Path, models: Path) -> list[Said]:
    """What each user of a preference set picked, in the encoder's coordinates; pairs without a user are one person's.

    `models` is ComfyUI's folder of models, where the encoder's tower lies if its own folder does not have it.
    """
    own: dict[str | None, list[PreferencePair]] = {}
    for pair in read_pairs(pairs):
        own.setdefault(pair.user, []).append(pair)
    if not own:
        raise ValueError(f"There are no preference pairs in {pairs}: a studio takes part with one person at least.")
    made = TasteEncoder.load(encoder)
    reader = made.open(open_tower(made.tower, encoder, find=lambda kind, name: models / kind / name))
    told = [reader.read(theirs) for theirs in own.values()]
    return [(one.differences.double(), one.outcomes.double(), one.choices) for one in told]


def public_prior(encoder: Path) -> Prior:
    """The mean [d] and covariance [d, d] that a taste encoder came with."""
    prior = TasteEncoder.load(encoder).prior
    return prior.mean.double(), prior.covariance.double()


def save_prior(prior: Prior, encoder: Path, out: Path, studios: int, hiding: Hiding | None) -> None:
    """The taste encoder with another prior as a new folder: u keeps its coordinates, so adapters go on working."""
    if out.exists():
        raise ValueError(f"There is a folder {out.name} already: choose another name as --out.")
    made = TasteEncoder.load(encoder)
    if (encoder / TOWER_FILE).is_file():
        out.mkdir(parents=True)
        write_file(out / TOWER_FILE, (encoder / TOWER_FILE).read_bytes())
    told = {"date": date.today().isoformat(), "people_are": "real", "studios": studios}
    if hiding is not None:
        told |= {"epsilon": hiding.guarantee.epsilon, "delta": hiding.guarantee.delta, "hides": "each person"}
    fitted = replace(made.prior, mean=prior[0], covariance=prior[1])
    replace(made, prior=fitted, made=made.made | told).save(out)


def price(hiding: Hiding, people: int, d: int) -> str:
    """For people to read: what is left of the mean of so many people behind the noise."""
    error = hiding.sigma * d**0.5 / people
    told = (
        f"{people} people at epsilon {hiding.guarantee.epsilon:g}, delta {hiding.guarantee.delta:g}, for each person "
        f"over {hiding.rounds} rounds: each round's noise on the mean taste is {error:.2f} long, where one person's "
        f"own counts {hiding.clip:g} at most"
    )
    if error > NOTHING_LEFT:
        needed = 10 * ceil(hiding.sigma * d**0.5 / NOTHING_LEFT / 10)
        return f"{told}. That leaves next to nothing of what they agree on: bring {needed} people, or a larger epsilon."
    return f"{told}."
