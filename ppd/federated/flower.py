"""The federated prior over Flower, with secure aggregation: the server learns the sum over studios, and no studio's.

SecAgg+ (Bell et al. 2020) as Flower's modifier and workflow. A studio's numbers are masked by keys that pairs of
studios agree on; the masks cancel in the sum, also when studios drop out, as long as `least` of them answer. Masks are
integers, so numbers are rounded, at random and without bias, to `steps` of a range that the server announces: the sum
over K studios is off by a step times sqrt(K) / 2 or less. With hiding.py's noise the rounding comes after it.

Needs requirements-federated.txt, in an environment of its own. Flower's telemetry is switched off.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..encoders.population import Said
from .hiding import Hiding
from .sums import Prior, evidence, rows, start, updated

log = logging.getLogger(__name__)

EVIDENCE, SUMS = 400.0, 16.0
"""The most that one person's part of each number may be, in size; a studio whose sums are larger refuses to answer."""
MODULUS = 2**32
ANSWERED = "ppd.answered"


def client_app(
    people_of: Callable[[Any], Sequence[Said]],
    hiding_of: Callable[[Any], Hiding | None],
    noise: random.Random | None = None,
) -> Any:
    """A studio: a ClientApp that answers with masked sums over its people, whom it finds by Flower's context.

    What hides them is the studio's to say, and it answers as often as that is made for, in one run. `noise` draws its
    part of the noise, by default the operating system's.
    """
    _require()
    from flwr.app import ConfigRecord
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp

    class Studio(NumPyClient):
        def __init__(self, context: Any) -> None:
            self.people, self.hiding = people_of(context), hiding_of(context)
            self.answered = context.state.config_records.setdefault(ANSWERED, ConfigRecord({"rounds": 0}))

        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            self.answered["rounds"] += 1
            if self.hiding is not None and self.answered["rounds"] > self.hiding.rounds:
                raise ValueError(
                    f"This studio answers {self.hiding.rounds} times, as its noise is made for: more take more noise."
                )
            answer = _answer(self.people, [torch.from_numpy(part) for part in parameters], self.hiding, noise)
            most = float(answer.abs().max()) / config["range"]
            if not most <= 1:
                raise ValueError(
                    f"This studio's sums are {most:.3g} times as large as the server allows: it expects at most "
                    f"{config['people']} people in a studio. Start the server with more."
                )
            return [(answer / config["range"]).numpy()], 1, {}  # not how many people: that is in the sums

    return ClientApp(lambda context: Studio(context).to_client(), mods=[secaggplus_mod])


def _answer(
    people: Sequence[Said], parameters: list[Tensor], hiding: Hiding | None, noise: random.Random | None
) -> Tensor:
    """By what the server sent: nothing asks for the evidence of each start, a prior for the sums."""
    if not parameters:
        if hiding is not None:
            raise ValueError("This studio hides its people, and is asked for sums without noise: start at a prior.")
        return evidence(people)
    prior = parameters[0], parameters[1]
    return rows(people, prior).sum(0) if hiding is None else hiding.answer(people, prior, noise)


class FederatedPrior:
    """The server's side of EM: what to ask for next, and what the sums make of it.

    `prior` None is to be found by evidence, without hiding; `most_people` bounds the people of one studio.
    """

    def __init__(self, d: int, rounds: int, most_people: int, prior: Prior | None, hiding: Hiding | None) -> None:
        if hiding is not None and (prior is None or rounds != hiding.rounds):
            raise ValueError(
                "Rounds with noise start at a public prior and are as many as the noise is made for: give both."
            )
        self.d, self.prior, self.hiding, self.most_people = d, prior, hiding, most_people
        self.left = rounds + (prior is None)

    @property
    def range(self) -> float:
        """The most that any number of a studio's may be."""
        if self.prior is None:
            return EVIDENCE * self.most_people
        if self.hiding is None:
            return SUMS * self.most_people
        return self.hiding.clip * self.most_people + 10 * self.hiding.sigma / self.hiding.studios**0.5

    def take(self, total: Tensor) -> None:
        """A round's sums."""
        if self.prior is None:
            self.prior = start(total, self.d)
        elif self.hiding is None:
            self.prior = updated(total, self.prior)
        else:
            self.prior = self.hiding.updated(total, self.prior)
        self.left -= 1


def server_app(
    task: FederatedPrior, studios: int, least: int, *, done: Callable[[Prior], None], timeout: float = 600.0
) -> Any:
    """A ServerApp that waits for `studios`, goes on while `least` of them answer, and hands the prior to `done`.

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
    if task.hiding is not None and task.hiding.studios != least:
        raise ValueError(f"Noise is shared by {task.hiding.studios} studios, and {least} must answer: give one number.")

    class SumsOfStudios(Strategy):
        def initialize_parameters(self, client_manager: Any) -> Any:
            return ndarrays_to_parameters([])

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
            client_manager.wait_for(studios if server_round == 1 else least, int(timeout))
            told = ndarrays_to_parameters([] if task.prior is None else [part.numpy() for part in task.prior])
            asked = FitIns(told, {"range": task.range, "people": task.most_people})
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
        if task.left or task.prior is None:
            raise RuntimeError(
                f"{task.left} of the rounds came to nothing, since fewer than {least} of {studios} studios answered: "
                "see what they say, and start again."
            )
        done(task.prior)

    return app


def steps(studios: int) -> int:
    """How finely a studio's number is rounded: as finely as the sum of all fits into MODULUS."""
    return 2 ** ((MODULUS // (studios + 1)).bit_length() - 2)


def rehearse(
    people: Sequence[Sequence[Said]],
    task: FederatedPrior,
    least: int,
    *,
    seed: int | None = None,
    absent: Callable[[int], bool] = lambda studio: False,
) -> Prior:
    """All studios on one machine, in Flower's simulation (Ray, one process): the protocol as it is, but no network.

    `absent(studio)` makes one drop out after keys were exchanged, which is when masks must be undone.
    """
    _require()
    from flwr.simulation import run_simulation

    def people_of(context: Any) -> Sequence[Said]:
        studio = int(context.node_config["partition-id"])
        if absent(studio):
            raise ConnectionError(f"Studio {studio + 1} is away: it says nothing now.")
        return people[studio]

    found: list[Prior] = []
    noise = None if seed is None else random.Random(seed)
    run_simulation(
        server_app(task, len(people), least, done=found.append),
        client_app(people_of, lambda context: task.hiding, noise),
        num_supernodes=len(people),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}},
    )
    return found[0]


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
