"""diffusers' denoisers as hosts: the user branch in its plain form, for training and for sampling.

They are UNet2DConditionModel (pocket, SD1.5, SD2, SDXL), StableCascadeUNet (Stage C), and with low-rank adapters the
transformers of Flux, Qwen-Image and Z-Image too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..adapters import UNCONDITIONAL_RULES, LowRankAdapter
from ..branch import DEFAULT_SCOPE, Adapter, AttentionAdapter, Scope, guidance_sides, off_for_anybody
from .diffusers_denoisers import Schedule, UNet, check_denoiser, cross_attentions, linear_sites, schedule_of
from .hooks_attention import AttentionLayer, CrossAttentionEffect
from .hooks_low_rank import LowRankEffect

__all__ = ["DiffusersHost", "cross_attentions", "guidance_rows", "linear_sites"]

TIMESTEPS = ("timestep", "timestep_ratio", "t")
"""What the denoisers call it."""
TOLERANCE = 1e-5
"""Share of the schedule by which a timestep that lies on a window's end may be rounded beyond it."""


def guidance_rows(u: Tensor, unconditional: str) -> Tensor:
    """User embeddings for classifier-free guidance, unconditional rows first as in diffusers: [B, N, d] -> [2B, N, d].

    `unconditional` is the adapter's rule (AdapterConfig.unconditional).
    """
    if unconditional not in UNCONDITIONAL_RULES:
        raise ValueError(f"The rule for unconditional rows is {unconditional!r}: use {', '.join(UNCONDITIONAL_RULES)}.")
    sides = guidance_sides(u, unconditional)
    return torch.cat([sides[1] if len(sides) > 1 else u if unconditional == "same" else torch.zeros_like(u), u])


class DiffusersHost:
    """Runs a denoiser personalised by a user adapter.

    The branch hangs on hooks for as long as `personalized` lasts, and outside of it nothing is patched (that is DPO's
    reference). `timestep_at` tells where a percentage of the schedule lies; by default it is that of the denoiser's
    class in ComfyUI. Give it where you shift the schedule otherwise, such as by the picture's size.
    """

    def __init__(self, denoiser: nn.Module, adapter: Adapter, timestep_at: Schedule | None = None) -> None:
        check_denoiser(denoiser, adapter.config)
        self.denoiser, self.adapter = denoiser, adapter
        self.timestep_at = timestep_at or schedule_of(denoiser)
        self.effect: LowRankEffect | CrossAttentionEffect | None = None
        """That of the `personalized` that lasts."""

    @contextmanager
    def personalized(
        self, u: Tensor, strength: float = 1.0, scope: Scope = DEFAULT_SCOPE, *, window: bool = True
    ) -> Iterator[None]:
        """Within it the denoiser paints for the users u [B, N, d], B the rows of its calls, or 1 for all rows alike.

        With guidance, B counts the unconditional rows too: see `guidance_rows`. Rows whose u is 0, and rows outside the
        part of the schedule of adapter and scope (unless `window` is False), get exactly what the denoiser gives
        without the branch. Gradients flow into the adapter; with gradient checkpointing, run backward inside, before
        the next call.
        """
        if u.ndim != 3:
            raise ValueError(
                f"The user embeddings have shape {list(u.shape)}, expected [B, N, d]: give one row per picture."
            )
        start, end = scope.window(self.adapter.config) if window else (0.0, 1.0)
        if off_for_anybody(strength, scope) or not u.any() or start >= end:
            yield
            return
        weight = next(self.adapter.parameters())
        u = u.to(weight.device, weight.dtype)
        self.effect = effect = self._effect(strength, scope.places(self.adapter))
        calls = _Calls(self, u, effect, (start, end))
        hooks = [
            self.denoiser.register_forward_pre_hook(calls.begin, with_kwargs=True),
            self.denoiser.register_forward_hook(calls.end),
        ]
        try:
            with effect.installed():
                yield
        finally:
            self.effect = None
            for hook in hooks:
                hook.remove()

    def _effect(self, strength: float, places: tuple[int, ...]) -> LowRankEffect | CrossAttentionEffect:
        if isinstance(self.adapter, LowRankAdapter):
            return LowRankEffect(list(linear_sites(self.denoiser).values()), self.adapter, strength, places)
        found = cross_attentions(cast(UNet, self.denoiser))
        layers = [AttentionLayer(layer.heads, layer.to_q, layer.to_out[0]) for layer in found]
        return CrossAttentionEffect(layers, cast(AttentionAdapter, self.adapter), strength, places)


class _Calls:
    """Decides for every call within one `personalized` which rows are personal."""

    def __init__(
        self,
        host: DiffusersHost,
        u: Tensor,
        effect: LowRankEffect | CrossAttentionEffect,
        window: tuple[float, float],
    ) -> None:
        self.u, self.effect, self.places = u, effect, host.adapter.config.places
        self.signature = inspect.signature(host.denoiser.forward)
        slack = TOLERANCE * abs(host.timestep_at(0.0) - host.timestep_at(1.0))
        low, high = sorted(map(host.timestep_at, window))
        self.low, self.high = (-torch.inf, torch.inf) if window == (0, 1) else (low - slack, high + slack)
        self.active = False

    def begin(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a call of the denoiser, whose first argument has a row for each picture."""
        given = self.signature.bind_partial(*args, **kwargs).arguments
        rows = len(next(iter(given.values())))
        if len(self.u) not in (1, rows):
            raise ValueError(
                f"There are user embeddings for {len(self.u)} rows, but the denoiser is called with {rows}: "
                "give one user embedding for each row, or one for all."
            )
        timestep = next(given[name] for name in TIMESTEPS if name in given)
        t = torch.as_tensor(timestep, device=self.u.device).float().expand(rows)
        gate = (self.low <= t) & (t <= self.high)
        self.active = bool(gate.any())
        self.effect.begin(self.u * gate.to(self.u.dtype)[:, None, None] if self.active else None)

    def end(self, denoiser: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After a call: a compiled graph or a foreign attention processor may have gone around the hooks."""
        reached, expected = len(self.effect.reached), len(self.effect.layers)
        if self.active and reached < expected:
            raise RuntimeError(
                f"Only {reached} of {expected} {self.places} were personalised, since an attention processor, fused "
                "projections or a compiled graph goes around the others: use diffusers' own, unfused and uncompiled."
            )
