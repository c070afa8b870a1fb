"""One sampling run of a user branch in ComfyUI: which rows of which calls are personal, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..adapters import AdapterConfig
from ..branch import Outcome, guidance_sides
from ..user_embedding import UserEmbedding

log = logging.getLogger(__name__)

SIGMA_TOLERANCE = 1e-4
"""Neighbouring timesteps lie more than 1e-3 apart in relative sigma; schedulers round sigma at 1e-7."""


@dataclass(frozen=True)
class Call:
    """One call of the denoiser: which of its `rows` are personal."""

    rows: int
    personal: list[tuple[slice, int]]
    """Rows, and which of the run's sides they get."""
    active: Tensor | None
    """[rows of a slice] of 1 and 0, where rows differ in being inside the adapter's window."""


class Unconditional:
    """Which of a guider's lists of conditions are unconditional.

    Their place tells it only for ordinary guidance (0 positive, 1 negative); other guiders have other orders. Lists are
    known by their first condition: those appended for another list's area carry that list's uuid.
    """

    def __init__(self, guider: Any) -> None:
        self.negative = {conds[0]["uuid"] for name, conds in guider.conds.items() if "negative" in name and conds}
        self.known = {conds[0]["uuid"] for conds in guider.conds.values() if conds}

    def has(self, index: int, conds: Sequence[Mapping[str, Any]] | None) -> bool:
        """Whether the list at `index` of those to be evaluated is one."""
        uuid = conds[0].get("uuid") if conds else None
        return uuid in self.negative or (uuid not in self.known and index == 1)


class Window:
    """A part of a model's noise schedule, `percent` from start to end."""

    def __init__(self, model: Any, percent: tuple[float, float]) -> None:
        self.percent, self.is_all = percent, percent == (0, 1)
        self.high, self.low = (model.model_sampling.percent_to_sigma(end) for end in percent)

    def inside(self, sigma: Tensor) -> list[bool]:
        """Which of sigma [rows] are in it; one answer for all where it is the whole schedule."""
        if self.is_all:
            return [True]
        inside = (sigma >= self.low * (1 - SIGMA_TOLERANCE)) & (sigma <= self.high * (1 + SIGMA_TOLERANCE))
        return cast(list[bool], inside.tolist())


class UserRun:
    """Decides for every call of the denoiser which rows are personal; `call` is the one that goes on, if any row is."""

    def __init__(
        self,
        config: AdapterConfig,
        people: Sequence[UserEmbedding],
        window: tuple[float, float],
        key: str,
        guider: Any,
        model_options: dict[str, Any],
        latents: int,
    ) -> None:
        model = guider.model_patcher.model
        self.config, self.people, self.latents, self.model, self.key = config, people, latents, model, key
        self.lists = f"{key}_lists"
        self.unconditional, self.window = Unconditional(guider), Window(model, window)
        self.compiled = "torch_compile_kwargs" in model_options
        self.device: torch.device = guider.model_patcher.load_device
        u = torch.stack([person.u for person in people]).to(self.device)
        self.u = torch.cat(guidance_sides(u, config.unconditional))
        """All people side by side [sides * people, N, d]: those of conditional rows, then those of unconditional ones
        where they get their own."""
        self.call: Call | None = None
        self.on_call: Callable[[Call | None, int], None] | None = None
        """Told of every call before it: which rows are personal, of how many."""
        self.calls = self.active_calls = 0
        if len(people) not in (1, latents):
            log.warning("%s", count_report(len(people), latents))

    def people_of(self, side: int) -> slice | list[int]:
        """Rows of `u` for the latents of one side; one person stands for all rows by broadcasting."""
        count = len(self.people)
        if count in (1, self.latents):
            return slice(side * count, (side + 1) * count)  # a view, where a list would copy
        return [side * count + min(latent, count - 1) for latent in range(self.latents)]

    def begin_evaluation(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH wrapper: which of the lists of conditions are unconditional, for `begin_call`."""
        lists, model_options = args[1], args[4]
        unconditional = frozenset(index for index, conds in enumerate(lists) if self.unconditional.has(index, conds))
        options = {**model_options["transformer_options"], self.lists: (unconditional, args[2].shape[0])}
        return executor(*args[:4], {**model_options, "transformer_options": options}, *args[5:], **kwargs)

    def begin_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: decide once for all places which rows of this call are personal."""
        sigma, options = args[1], args[5]
        self.calls += 1
        chunks = options.get("cond_or_uncond") or [0]
        unconditional, rows = options.get(self.lists, (frozenset({1}), sigma.shape[0] // len(chunks)))
        sides = [self._side(index in unconditional) for index in chunks]
        # Tiled diffusion puts its tiles one after the other, each with all of its lists' rows
        tiles = sigma.shape[0] // (rows * len(chunks))
        personal = [
            (slice(number * rows, (number + 1) * rows), side)
            for number, side in enumerate(sides * tiles)
            if side is not None
        ]
        # A guider may call another model for its unconditional rows
        if personal and executor.class_obj is self.model:
            self.call = self._call(personal, sigma, rows, tiles)
        if self.on_call is not None:
            self.on_call(self.call, sigma.shape[0])
        try:
            return executor(*args[:5], {**options, self.key: self.call}, *args[6:], **kwargs)
        finally:
            self.call = None

    def outcome(self, reached: int, places: int) -> Outcome:
        """What came of the run: how many calls were personal, and at how many of the places."""
        return Outcome(self.calls, self.active_calls, reached, places, self.config.places, self.window.percent)

    def _side(self, unconditional: bool) -> int | None:
        """Which side's people a row gets, or None for the base's own."""
        if not unconditional or self.config.unconditional == "same":
            return 0
        return 1 if self.config.unconditional == "negative" else None

    def _call(self, personal: list[tuple[slice, int]], sigma: Tensor, rows: int, tiles: int) -> Call | None:
        inside = self.window.inside(sigma[:rows])
        if not any(inside) and not self.compiled:
            return None
        if len(self.people) > 1 and (rows, tiles) != (self.latents, 1):
            raise ValueError(
                f"There are {len(self.people)} people for {self.latents} latents, but the model is called with "
                f"{rows * tiles} latents at a time: use one person, or sample without tiles and context windows."
            )
        self.active_calls += any(inside)
        # A compiled graph keeps what the first call branched on, so there a tensor tells, in all calls or in none
        whole = self.window.is_all if self.compiled else all(inside)
        active = None if whole else torch.tensor(inside, device=sigma.device)
        alike = len(self.people) == 1 and active is None
        return Call(sigma.shape[0], _joined(personal) if alike else personal, active)


def _joined(personal: list[tuple[slice, int]]) -> list[tuple[slice, int]]:
    """Neighbouring rows of one side as one slice."""
    joined: list[tuple[slice, int]] = []
    for rows, side in personal:
        if joined and joined[-1][1] == side and joined[-1][0].stop == rows.start:
            joined[-1] = slice(joined[-1][0].start, rows.stop), side
        else:
            joined.append((rows, side))
    return joined


def count_report(people: int, latents: int) -> str:
    """One sentence for a batch whose number of people is not its number of latents."""
    if people > latents:
        return f"There are {people} people for {latents} latents: the last {people - latents} are not painted for."
    return f"There are {people} people for {latents} latents: the last person gets the last {latents - people + 1}."
