"""`python -m ppd federated-prior SET SET ...`: a rehearsal on one machine, each preference set being a studio."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_federated_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("sets", type=Path, nargs="+", help="one preference set a studio")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the taste encoder that all studios have")
    parser.add_argument("--out", type=Path, required=True, help="folder of the taste encoder with the new prior")
    parser.add_argument("--models", type=Path, default=Path("models"), help="ComfyUI's models, where its tower lies")
    parser.add_argument("--epsilon", type=float, help="hide each person behind noise (docs/privacy.md)")
    parser.add_argument("--delta", type=float, default=1e-5, help="of that privacy (default: 1e-5)")
    parser.add_argument("--rounds", type=int, help="of EM (default: 50, with epsilon 12)")
    parser.add_argument("--secure", action="store_true", help="by Flower's secure aggregation, as between machines")


def command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit the prior of all sets' people by sums, save it, and say what noise costs."""
    from ..privacy import Guarantee
    from . import hiding as hidden
    from .studio import people_of, price, public_prior, save_prior
    from .sums import ROUNDS, added, fit_federated

    studios = [people_of(pairs, arguments.encoder, arguments.models) for pairs in arguments.sets]
    prior, people = public_prior(arguments.encoder), sum(map(len, studios))
    hiding = None
    if arguments.epsilon is not None:
        guarantee = Guarantee(arguments.epsilon, arguments.delta)
        hiding = hidden.Hiding(guarantee, len(studios), arguments.rounds or hidden.ROUNDS)
        print(price(hiding, people, len(prior[0])))
    rounds = arguments.rounds or ROUNDS
    if arguments.secure:
        from .flower import rehearse
        from .prior import FederatedPrior, PriorStudio

        most, first = max(map(len, studios)), None if hiding is None else prior
        task = FederatedPrior(len(prior[0]), hiding.rounds if hiding else rounds, most, first, hiding)
        rehearse([PriorStudio(some, hiding) for some in studios], task, len(studios))
        assert task.prior is not None
        fitted = task.prior
    elif hiding is None:
        fitted = fit_federated(studios, rounds)
    else:
        fitted = prior
        for _ in range(hiding.rounds):
            fitted = hiding.updated(added([hiding.answer(some, fitted) for some in studios]), fitted)
    save_prior(fitted, arguments.encoder, arguments.out, len(studios), hiding)
    print(f"{arguments.out}: the prior of {people} people in {len(studios)} studios, by their sums")
    return {"folder": str(arguments.out), "people": people, "studios": len(studios)}
