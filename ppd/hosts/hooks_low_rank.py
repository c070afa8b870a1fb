"""A low-rank adapter in a denoiser of any library, for training and for sampling: hooks behind its Linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..adapters import LowRankAdapter
from ..adapters.low_rank import LowRankSite

Part = tuple[LowRankSite, slice, nn.Module]
"""A and B of a site, the rows of B, and the layer that makes these of the site's outputs."""


class LowRankEffect:
    """What an adapter adds to the sites numbered `places`; `sites` has all of the denoiser's, each with the layers
    whose outputs, one after the other, are the site's."""

    def __init__(
        self,
        sites: Sequence[Sequence[nn.Module]],
        adapter: LowRankAdapter,
        strength: float,
        places: Sequence[int],
    ) -> None:
        self.adapter, self.strength = adapter, min(strength, adapter.max_strength)
        parts = adapter.parts()
        self.layers = [part for place in places for part in _parts(parts[place], sites[place])]
        self.w: Tensor | None = None
        """[B, K] in a call in which any row is personal."""
        self.reached: set[int] = set()

    @contextmanager
    def installed(self, within: nn.Module | None = None) -> Iterator[None]:
        """The hooks are in the denoiser, or in that part of it."""
        inside = None if within is None else set(within.modules())
        with ExitStack() as stack:
            for index, (site, rows, layer) in enumerate(self.layers):
                if inside is None or layer in inside:
                    stack.callback(layer.register_forward_hook(partial(self._add_user, index, site, rows)).remove)
            yield

    def begin(self, u: Tensor | None) -> None:
        """Before a call of the denoiser: for whom each of its rows is, u [B, N, d]; None where none is personal."""
        self.reached.clear()
        self.w = None if u is None else self.adapter.weights(u) * self.strength

    def _add_user(
        self, index: int, site: LowRankSite, rows: slice, layer: nn.Module, args: tuple[Any, ...], y: Tensor
    ) -> Tensor | None:
        """y [rows, ..., out] for x [rows, ..., in]; some models double their rows for a second timestep."""
        if self.w is None:
            return None
        x = args[0]
        copies, rest = divmod(len(x), len(self.w))
        if rest or not copies:
            raise RuntimeError(
                f"A layer of the denoiser got {len(x)} rows for a batch of {len(self.w)}, so it cannot be told whose "
                "they are: give the denoiser a timestep, a prompt and a picture for each row."
            )
        self.reached.add(index)
        h = F.linear(x, site.down.to(x))
        w = self.w.repeat(copies, 1).to(h).reshape(len(x), *[1] * (x.ndim - 2), -1)
        return y + F.linear(h * w, site.up[rows].to(x)).to(y.dtype)


def _parts(site: LowRankSite, layers: Sequence[nn.Module]) -> Iterator[Part]:
    start = 0
    for layer in layers:
        rows = slice(start, start + cast(int, layer.out_features))
        yield site, rows, layer
        start = rows.stop
