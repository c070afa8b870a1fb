"""Keys and values of a user adapter in cross-attention layers of any library, in the plain form, for training and for
sampling: hooks around the layers that make queries and outputs. What attends to the prompt stays the denoiser's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..adapters.attention import user_attention
from ..branch import AttentionAdapter, branch_keys_values


class AttentionLayer(NamedTuple):
    """A cross-attention layer: how many heads it has, what makes its queries, and what takes the heads' outputs."""

    heads: int
    to_q: nn.Module
    to_out: nn.Module


class CrossAttentionEffect:
    """What an adapter adds to the cross-attention layers numbered `places`; `layers` has all of the denoiser's."""

    def __init__(
        self, layers: Sequence[AttentionLayer], adapter: AttentionAdapter, strength: float, places: Sequence[int]
    ) -> None:
        self.adapter, self.strength, self.places = adapter, strength, places
        self.layers = [layers[place] for place in places]
        self.keys_values: list[tuple[Tensor, Tensor]] = []
        self.queries: dict[int, Tensor] = {}
        self.reached: set[int] = set()

    @contextmanager
    def installed(self, within: nn.Module | None = None) -> Iterator[None]:
        """The hooks are in the denoiser, or in that part of it."""
        inside = None if within is None else set(within.modules())
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                if inside is None or layer.to_q in inside:
                    add = partial(self._add_user, index, layer.heads)
                    stack.callback(layer.to_q.register_forward_hook(partial(self._keep_query, index)).remove)
                    stack.callback(layer.to_out.register_forward_pre_hook(add).remove)
            yield

    def begin(self, u: Tensor | None) -> None:
        """Before a call of the denoiser: for whom each of its rows is, u [B, N, d]; None where none is personal."""
        self.queries.clear()
        self.reached.clear()
        self.keys_values = [] if u is None else branch_keys_values(self.adapter, u, self.strength, self.places)

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
