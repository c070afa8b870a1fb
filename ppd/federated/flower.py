"""Sums of studios over Flower, with secure aggregation: the server learns the sum over studios, and no studio's.

SecAgg+ (Bell et al. 2020) as Flower's modifier and workflow. A studio's numbers are masked by keys that pairs of
studios agree on; the masks cancel in the sum, also when studios drop out, as long as `least` of them answer. Masks are
integers, so numbers are rounded, at random and without bias, to `steps` of a range that the server announces: the sum
over K studios is off by a step times sqrt(K) / 2 or less. With hiding.py's noise the rounding comes after it.

Needs requirements-federated.txt, in an environment of its own. Flower's telemetry is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

MODULUS = 2**32
ANSWERED = "ppd.answered"


class Studio(Protocol):
    """One that answers what the server asks with numbers to be added up."""

    @property
    def rounds(self) -> int | None:
        """How often it answers in one run, None for always."""
        ...

    def answer(self, asked: Sequence[Tensor]) -> Tensor:
        """Numbers [n], none of them larger than the server's range."""
        ...


class Task(Protocol):
    """The server's side: what to ask for, in the rounds that are `left`, and what the sums make of it."""

    left: int

    @property
    def studios(self) -> int | None:
        """How many must answer, where that is not free."""
        ...

    @property
    def most(self) -> str:
        """What a studio may have, for people."""
        ...

    @property
    def range(self) -> float:
        """The most that any number of a studio's may be."""
        ...

    def ask(self) -> list[Tensor]:
        """What studios are sent."""
        ...

    def take(self, total: Tensor) -> None:
        """A round's sums."""
        ...


def client_app(studio_of: Callable[[Any], Studio]) -> Any:
    """A studio as a ClientApp, whose answers are masked; it is found by Flower's context."""
    _require()
    from flwr.app import ConfigRecord
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp

    class Client(NumPyClient):
        def __init__(self, context: Any) -> None:
            self.studio = studio_of(context)
            self.answered = context.state.config_records.setdefault(ANSWERED, ConfigRecord({"rounds": 0}))

        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            self.answered["rounds"] += 1
            if self.studio.rounds is not None and self.answered["rounds"] > self.studio.rounds:
                raise ValueError(
                    f"This studio answers {self.studio.rounds} times, as its noise is made for: more take more noise."
                )
            answer = self.studio.answer([torch.from_numpy(part) for part in parameters])
            most = float(answer.abs().max()) / config["range"]
            if not most <= 1:
                raise ValueError(
                    f"This studio's sums are {most:.3g} times as large as the server allows: it expects at most "
                    f"{config['most']} in a studio. Start the server with more."
                )
            return [(answer / config["range"]).numpy()], 1, {}  # not how much it has: that is in the sums

    return ClientApp(lambda context: Client(context).to_client(), mods=[secaggplus_mod])


def server_app(task: Task, studios: int, least: int, *, done: Callable[[], None], timeout: float = 600.0) -> Any:
    """A ServerApp that waits for `studios`, goes on while `least` of them answer, and calls `done` after all rounds.

    RuntimeError where rounds are missing because too few answered; a round that failed is not repeated.
    """
    _require()
    from flwr.compat.common.parameter import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.compat.common.typing import FitIns
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import Strategy
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    from flwr.serverapp import ServerApp

    if not 2 <= least <= studios:
        raise ValueError(
            f"Expected 2 to {studios} studios that must answer, got {least}: a sum over one hides nothing."
        )
    if task.studios not in (None, least):
        raise ValueError(f"Noise is shared by {task.studios} studios, and {least} must answer: give one number.")

    class SumsOfStudios(Strategy):
        def initialize_parameters(self, client_manager: Any) -> Any:
            return ndarrays_to_parameters([])

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
            client_manager.wait_for(studios if server_round == 1 else least, int(timeout))
            told = ndarrays_to_parameters([part.numpy() for part in task.ask()])
            asked = FitIns(told, {"range": task.range, "most": task.most})
            return [(client, asked) for client in client_manager.all().values()]

        def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> tuple[Any, dict]:
            mean = torch.from_numpy(parameters_to_ndarrays(results[0][1].parameters)[0])
            task.take(mean * len(results) * task.range)
            return None, {}

        def configure_evaluate(self, *_: Any, **__: Any) -> list[Any]:
            return []

        def aggregate_evaluate(self, *_: Any, **__: Any) -> tuple[None, dict]:
            return None, {}

        def evaluate(self, *_: Any, **__: Any) -> None:
            return None

    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        masks = SecAggPlusWorkflow(
            num_shares=1.0,
            reconstruction_threshold=least,
            max_weight=1.0,
            clipping_range=1.0,
            quantization_range=steps(studios),
            modulus_range=MODULUS,
            timeout=timeout,
        )
        config = ServerConfig(num_rounds=task.left)
        DefaultWorkflow(fit_workflow=masks)(grid, LegacyContext(context, config, SumsOfStudios()))
        if task.left:
            raise RuntimeError(
                f"{task.left} of the rounds came to nothing, since fewer than {least} of {studios} studios answered: "
                "see what they say, and start again."
            )
        done()

    return app


def steps(studios: int) -> int:
    """How finely a studio's number is rounded: as finely as the sum of all fits into MODULUS."""
    return 2 ** ((MODULUS // (studios + 1)).bit_length() - 2)


def rehearse(
    studios: Sequence[Studio], task: Task, least: int, *, absent: Callable[[int], bool] = lambda studio: False
) -> None:
    """All studios on one machine, in Flower's simulation (Ray, one process): the protocol as it is, but no network.
    The task then holds what came of it.

    `absent(studio)` makes one drop out after keys were exchanged, which is when masks must be undone.
    """
    _require()
    from flwr.simulation import run_simulation

    def studio_of(context: Any) -> Studio:
        studio = int(context.node_config["partition-id"])
        if absent(studio):
            raise ConnectionError(f"Studio {studio + 1} is away: it says nothing now.")
        return studios[studio]

    run_simulation(
        server_app(task, len(studios), least, done=lambda: None),
        client_app(studio_of),
        num_supernodes=len(studios),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}},
    )


def _require() -> None:
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import flwr  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "Federated training needs Flower: install requirements-federated.txt in an environment of its own, not in "
            "ComfyUI's."
        ) from error
