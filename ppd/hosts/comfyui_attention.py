"""Keys and values of a user adapter in ComfyUI's cross-attention layers: folded, by patches or behind Stage C's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from comfy.ldm.cascade.common import OptimizedAttention
from torch import Tensor, nn

from ..adapters.attention import Folded, fold, folded_attention, user_attention
from ..branch import AttentionAdapter, branch_keys_values
from .comfyui_denoisers import Place, cross_attentions, output_layer
from .comfyui_run import Call, UserRun

FOLD_LIMIT = 2**29
"""Bytes of folded weights above which a run keeps keys and values, heads times smaller: an SDXL plus adapter in all
layers takes 195 MB a person in halves."""


class CrossAttentionBranch:
    """What one run adds to the cross-attention layers numbered `places`."""

    def __init__(
        self,
        run: UserRun,
        adapter: AttentionAdapter,
        strength: float,
        places: Sequence[int],
        model_options: dict[str, Any],
    ) -> None:
        self.run, self.groups, self.stash = run, adapter.groups, f"{run.key}_input"
        known = list(cross_attentions(run.model.diffusion_model).items())
        self.layers = dict(known[place] for place in places)
        """The layers it acts in, by their places."""
        keys_values = branch_keys_values(adapter, run.u, strength, places)
        self.keys_values = dict(zip(self.layers, keys_values, strict=True))
        # Hooks change to_q within a run, and a stored input scale may clamp the fold's probe: call the layers there
        self.plain = "registered_hooks" in model_options or any(
            getattr(linear, "input_scale", None) is not None
            for layer in self.layers.values()
            for linear in (layer.to_q, *output_layer(layer).modules())
        )
        self.plain = self.plain or self._folded_size() > FOLD_LIMIT
        self.folded = {} if self.plain else self._fold()
        self.cast: dict[tuple[Place, int, torch.device, torch.dtype], Folded | tuple[Tensor, Tensor]] = {}
        self.reached: set[Place] = set()

    @contextmanager
    def installed(self, options: dict[str, Any]) -> Iterator[None]:
        """Hangs it into a run's own transformer options, and behind Stage C's layers, which call no patches."""
        patches = options.setdefault("patches", {})
        # First and last, so that what other packs do in between (repeat rows for each region, merge them) is theirs
        patches.setdefault("attn2_patch", []).insert(0, self.keep_input)
        patches.setdefault("attn2_output_patch", []).append(self.add_user)
        hooks = [
            attention.register_forward_hook(partial(self.add_behind, place), with_kwargs=True)
            for place, attention in self.layers.items()
            if isinstance(attention, OptimizedAttention)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def keep_input(self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, ...]:
        """attn2_patch: what goes into to_q, kept for `add_user` of the same block."""
        if extra.get(self.run.key) is not None and (*extra["block"], extra["block_index"]) in self.layers:
            extra[self.stash] = n
        return n, context, value

    def add_user(self, out: Tensor, extra: dict[str, Any]) -> Tensor:
        """attn2_output_patch: the attention's output after to_out [B, L, C], with the user branch added."""
        x = extra.pop(self.stash, None)
        if x is None:
            return out
        return self.add(extra[self.run.key], (*extra["block"], extra["block_index"]), x, out)

    def add_behind(
        self, place: Place, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> Tensor:
        """Forward hook of Stage C's attention, which is called with its queries' input first [B, L, C]."""
        call: Call | None = kwargs["transformer_options"].get(self.run.key)
        return out if call is None else self.add(call, place, args[0], out)

    def add(self, call: Call, place: Place, x: Tensor, out: Tensor) -> Tensor:
        """A layer's output [B, L, out] with the user branch added; x [B, L, in] is what goes into to_q."""
        out = out.clone()
        for rows, side in call.personal:
            added = self.attend(place, side, x[rows])
            out[rows].add_(added if call.active is None else added * call.active[:, None, None])
        return out

    def attend(self, place: Place, side: int, x: Tensor) -> Tensor:
        """The addition to one layer's output for rows x [B, L, in]."""
        self.reached.add(place)
        layer, key = self.layers[place], (place, side, x.device, x.dtype)
        if key not in self.cast:
            self.cast[key] = self._plain_rows(place, side, x) if self.plain else self._folded_rows(place, side, x)
        held = self.cast[key]
        if isinstance(held, Folded):
            return folded_attention(x, held, layer.heads, self.groups)
        k, v = held
        attended, to_out = user_attention(layer.to_q(x), k, v, layer.heads, self.groups), output_layer(layer)
        return to_out(attended) - to_out(torch.zeros_like(attended[:1, :1]))

    def _folded_size(self) -> int:
        """Bytes that the folded form would take."""
        values = (
            k.shape[0] * k.shape[1] * self.layers[place].heads * 2 * k.shape[2]
            for place, (k, _) in self.keys_values.items()
        )
        return sum(values) * self.run.model.get_dtype_inference().itemsize

    def _fold(self) -> dict[Place, Folded]:
        dtype = self.run.model.get_dtype_inference()
        return {
            place: fold(
                layer.to_q, output_layer(layer), *self.keys_values[place], layer.heads, layer.to_q.in_features, dtype
            ).to(dtype)
            for place, layer in self.layers.items()
        }

    def _folded_rows(self, place: Place, side: int, x: Tensor) -> Folded:
        folded, people = self.folded[place], self.run.people_of(side)
        offset = None if folded.offset is None else folded.offset[people]
        return Folded(folded.scores[people], folded.values[people], offset).to(x.device, x.dtype)

    def _plain_rows(self, place: Place, side: int, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.keys_values[place]
        return k[self.run.people_of(side)].to(x), v[self.run.people_of(side)].to(x)
