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

from ppd.federated.flower import FederatedPrior, client_app, server_app
from ppd.federated.hiding import Hiding
from ppd.federated.studio import people_of, public_prior, save_prior
from ppd.privacy import Guarantee


def _hiding(agreed: Mapping[str, Any]) -> Hiding | None:
    epsilon = float(agreed["epsilon"])
    guarantee = None if epsilon == 0 else Guarantee(epsilon, float(agreed["delta"]))
    return None if guarantee is None else Hiding(guarantee, int(agreed["least"]), int(agreed["rounds"]))


def _people(context: Context) -> Any:
    node = context.node_config
    return people_of(Path(str(node["pairs"])), Path(str(node["encoder"])), Path(str(node.get("models", "models"))))


client = client_app(_people, lambda context: _hiding(context.node_config))
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
    server_app(
        task, studios, int(agreed["least"]), done=lambda prior: save_prior(prior, encoder, out, studios, hiding)
    )(grid, context)
