"""The federated prior as an app of Flower's: what it needs lies in the pack's folder, which PYTHONPATH names.

A studio's node says where its pairs and its encoder are, and what hides its people: `pairs`, `encoder`, `models`, and
`epsilon`, `delta`, `rounds`, `least`, agreed on beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ppd.federated.flower import client_app, server_app
from ppd.federated.hiding import Hiding
from ppd.federated.prior import FederatedPrior, PriorStudio
from ppd.federated.studio import people_of, public_prior, save_prior
from ppd.privacy import Guarantee


def _hiding(agreed: Mapping[str, Any]) -> Hiding | None:
    epsilon = float(agreed["epsilon"])
    guarantee = None if epsilon == 0 else Guarantee(epsilon, float(agreed["delta"]))
    return None if guarantee is None else Hiding(guarantee, int(agreed["least"]), int(agreed["rounds"]))


def _studio(context: Context) -> PriorStudio:
    node = context.node_config
    people = people_of(Path(str(node["pairs"])), Path(str(node["encoder"])), Path(str(node.get("models", "models"))))
    return PriorStudio(people, _hiding(node))


client = client_app(_studio)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Fit the prior with the studios that are there, and write the taste encoder with it."""
    agreed = context.run_config
    encoder, out, hiding = Path(str(agreed["encoder"])), Path(str(agreed["out"])), _hiding(agreed)
    known, studios = public_prior(encoder), int(agreed["studios"])
    task = FederatedPrior(
        len(known[0]), int(agreed["rounds"]), int(agreed["most-people"]), None if hiding is None else known, hiding
    )

    def done() -> None:
        assert task.prior is not None
        save_prior(task.prior, encoder, out, studios, hiding)

    server_app(task, studios, int(agreed["least"]), done=done)(grid, context)
