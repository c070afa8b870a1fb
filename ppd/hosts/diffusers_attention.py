"""Keys and values of a user adapter in diffusers' cross-attention layers, in the plain form: hooks around to_q and
to_out. The attention processors stay the denoiser's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..adapters.attention import user_attention
from ..branch import AttentionAdapter, branch_keys_values
from .diffusers_denoisers import UNet, cross_attentions


class CrossAttentionEffect:
    """What users u [B or 1, N, d] add to the cross-attention layers numbered `places`."""

    def __init__(
        self, denoiser: UNet, adapter: AttentionAdapter, u: Tensor, strength: float, places: Sequence[int]
    ) -> None:
        self.adapter, self.u, self.strength, self.places = adapter, u, strength, places
        known = cross_attentions(denoiser)
        self.layers = [known[place] for place in places]
        self.keys_values: list[tuple[Tensor, Tensor]] = []
        self.queries: dict[int, Tensor] = {}
        self.reached: set[int] = set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks are in the denoiser."""
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                add = partial(self._add_user, index, layer.heads)
                stack.callback(layer.to_q.register_forward_hook(partial(self._keep_query, index)).remove)
                stack.callback(layer.to_out[0].register_forward_pre_hook(add).remove)
            yield

    def begin(self, gate: Tensor | None) -> None:
        """Before a call of the denoiser: which of its rows are personal, 1 or 0 [B]; None where none is."""
        self.queries.clear()
        self.reached.clear()
        self.keys_values = []
        if gate is not None:
            found = branch_keys_values(self.adapter, self.u, self.strength, self.places)
            self.keys_values = [(k, v * gate[:, None, None]) for k, v in found]

    def _keep_query(self, index: int, to_q: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        if self.keys_values:
            self.queries[index] = query

    def _add_user(self, index: int, heads: int, to_out: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        query = self.queries.pop(index, None)
        if query is None:
            return None
        k, v = (x.to(query) for x in self.keys_values[index])
        self.reached.add(index)
        return (args[0] + user_attention(query, k, v, heads, self.adapter.groups).to(args[0].dtype), *args[1:])
