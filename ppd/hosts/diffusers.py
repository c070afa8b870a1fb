"""diffusers' denoisers as hosts: the user branch in its plain form, for training and for sampling.

They are UNet2DConditionModel (pocket, SD1.5, SD2, SDXL) and StableCascadeUNet (Stage C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from diffusers import StableCascadeUNet, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_stable_cascade import SDCascadeAttnBlock
from torch import Tensor, nn

from ..adapters import UNCONDITIONAL_RULES
from ..adapters.attention import user_attention
from ..branch import DEFAULT_SCOPE, Adapter, Scope, branch_keys_values, guidance_sides

Denoiser: TypeAlias = UNet2DConditionModel | StableCascadeUNet


def cross_attentions(unet: Denoiser) -> list[Attention]:
    """The denoiser's cross-attention modules in its own order: down blocks, up blocks, mid block."""
    if isinstance(unet, StableCascadeUNet):
        return [block.attention for block in unet.modules() if isinstance(block, SDCascadeAttnBlock)]
    names = (name.removesuffix(".processor") for name in unet.attn_processors)
    return [cast(Attention, unet.get_submodule(name)) for name in names if name.endswith("attn2")]


def guidance_rows(u: Tensor, unconditional: str) -> Tensor:
    """User embeddings for classifier-free guidance, unconditional rows first as in diffusers: [B, N, d] -> [2B, N, d].

    `unconditional` is the adapter's rule (AdapterConfig.unconditional).
    """
    if unconditional not in UNCONDITIONAL_RULES:
        raise ValueError(f"The rule for unconditional rows is {unconditional!r}: use {', '.join(UNCONDITIONAL_RULES)}.")
    sides = guidance_sides(u, unconditional)
    return torch.cat([sides[1] if len(sides) > 1 else u if unconditional == "same" else torch.zeros_like(u), u])


def stage_c_ratio(percent: float) -> float:
    """The timestep ratio, 1 to 0, that Stage C is told at `percent` of the noise schedule as ComfyUI counts it.

    ComfyUI goes evenly through a cosine schedule whose log SNR is lowered by 2 log 2; the ratio is the plain one's.
    """
    offset, quarter = 0.008, math.pi / 2
    signal = (
        math.cos((1 - percent + offset) / (1 + offset) * quarter) / math.cos(offset / (1 + offset) * quarter)
    ) ** 2
    shifted = signal / (signal + 4 * (1 - signal))
    return math.acos(shifted**0.5 * math.cos(offset / (1 + offset) * quarter)) / quarter * (1 + offset) - offset


class DiffusersHost:
    """Runs a denoiser personalised by a user adapter.

    The branch hangs on hooks around each cross-attention's to_q and to_out, for as long as `personalized` lasts: the
    attention processors stay the denoiser's own, and outside of it nothing is patched (that is DPO's reference).
    """

    def __init__(self, unet: Denoiser, adapter: Adapter) -> None:
        if not isinstance(unet, Denoiser):
            raise ValueError(
                f"The denoiser is a {type(unet).__name__}, but this host runs diffusers' UNet2DConditionModel and "
                "StableCascadeUNet: load one of those, or use another host."
            )
        self.unet = unet
        self.adapter = adapter
        self.attentions = cross_attentions(unet)
        adapter.config.check_layers([attention.inner_dim for attention in self.attentions])

    @contextmanager
    def personalized(
        self, u: Tensor, strength: float = 1.0, scope: Scope = DEFAULT_SCOPE, *, window: bool = True
    ) -> Iterator[None]:
        """Within it the denoiser paints for the users u [B, N, d], B the rows of its calls, or 1 for all rows alike.

        Rows whose u is 0, and rows outside the range of timesteps of adapter and scope (unless `window` is False), get
        exactly what the denoiser gives without the branch. Gradients flow into the adapter; with gradient
        checkpointing, run backward inside.
        """
        if u.ndim != 3:
            raise ValueError(
                f"The user embeddings have shape {list(u.shape)}, expected [B, N, d]: give one row per picture."
            )
        if strength == 0 or not u.any():
            yield
            return
        layers = scope.places(self.adapter)
        branch = _UserBranch(self.adapter, u, strength, layers, scope.window(self.adapter.config) if window else None)
        handles = [
            self.unet.register_forward_pre_hook(branch.begin, with_kwargs=True),
            self.unet.register_forward_hook(branch.end),
        ]
        for index, attention in enumerate(self.attentions[layer] for layer in layers):
            handles.append(attention.to_q.register_forward_hook(partial(branch.keep_query, index)))
            add_user = partial(branch.add_user, index, attention.heads)
            handles.append(attention.to_out[0].register_forward_pre_hook(add_user))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _UserBranch:
    """The hooks of one `personalized` block, and what they hand each other during a call of the denoiser."""

    def __init__(
        self,
        adapter: Adapter,
        u: Tensor,
        strength: float,
        layers: tuple[int, ...],
        window: tuple[float, float] | None,
    ) -> None:
        self.adapter = adapter
        self.layers = layers
        parameter = next(adapter.parameters())
        self.u = u.to(parameter.device, parameter.dtype)
        self.strength = strength
        self.window = window
        self.keys_values: list[tuple[Tensor, Tensor]] = []
        self.queries: dict[int, Tensor] = {}
        self.personalised: set[int] = set()

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a call of the denoiser: which rows are personal at this timestep, and the keys and values for them."""
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs.get("timestep", kwargs.get("timestep_ratio"))
        rows = sample.shape[0]
        if self.u.shape[0] not in (1, rows):
            raise ValueError(
                f"There are user embeddings for {self.u.shape[0]} rows, but the denoiser is called with {rows}: "
                "give one user embedding for each row, or one for all."
            )
        self.queries.clear()
        self.personalised.clear()
        self.keys_values = []
        t = torch.as_tensor(timestep, device=self.u.device).float().expand(rows)
        low, high = (-torch.inf, torch.inf)
        if self.window is not None:
            start, end = self.window
            stage_c = isinstance(module, StableCascadeUNet)
            low, high = map(stage_c_ratio, (end, start)) if stage_c else ((1 - end) * 999, (1 - start) * 999)
        active = (low <= t) & (t <= high)
        if active.any():
            here = active.to(self.u.dtype)[:, None, None]
            found = branch_keys_values(self.adapter, self.u, self.strength, self.layers)
            self.keys_values = [(k, v * here) for k, v in found]

    def keep_query(self, index: int, to_q: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        if self.keys_values:
            self.queries[index] = query

    def add_user(self, index: int, heads: int, to_out: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        query = self.queries.pop(index, None)
        if query is None:
            return None
        k, v = (x.to(query) for x in self.keys_values[index])
        self.personalised.add(index)
        return (args[0] + user_attention(query, k, v, heads, self.adapter.groups).to(args[0].dtype), *args[1:])

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After a call of the denoiser: a compiled graph or a foreign processor may have gone around the hooks."""
        if len(self.personalised) < len(self.keys_values):
            raise RuntimeError(
                f"Only {len(self.personalised)} of {len(self.keys_values)} cross-attention layers were personalised, "
                "since an attention processor or a compiled graph bypasses to_q or to_out: use diffusers' own, "
                "uncompiled."
            )
