"""A low-rank adapter in any denoiser of ComfyUI: for as long as a run lasts, its Linear layers' forwards are replaced.

Layers are called, never read: quantised, offloaded and LoRA-patched ones answer for themselves. Instances' `.forward`
are what torch.compile looks at in every call, while it ignores hooks that come after compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional as F

from ..adapters import LowRankAdapter
from .checkpointing import forward_of
from .comfyui_denoisers import linear_sites
from .comfyui_run import Call, UserRun

Forward = Callable[..., Tensor]


class LowRankBranch:
    """What one run adds to the Linear layers numbered `places`."""

    def __init__(self, run: UserRun, adapter: LowRankAdapter, strength: float, places: Sequence[int]) -> None:
        self.run, self.parts = run, adapter.parts()
        self.w = adapter.weights(run.u) * min(strength, adapter.max_strength)
        """[sides * people, K], as `run.u`."""
        known = list(linear_sites(run.model.diffusion_model).values())
        self.layers = {place: known[place] for place in places}
        self.reached: set[int] = set()

    @contextmanager
    def installed(self, options: dict[str, Any]) -> Iterator[None]:
        """Replaces the layers' forwards, and puts back what was there."""
        with ExitStack() as stack:
            for place, layer in self.layers.items():
                stack.enter_context(forward_of(layer, self._forward(place, layer)))
            yield

    def _forward(self, place: int, layer: nn.Module) -> Forward:
        plain = layer.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            y = plain(x, *args, **kwargs)
            return y if self.run.call is None else self.add(self.run.call, place, x, y)

        return forward

    def add(self, call: Call, place: int, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output y [rows, ..., out] for x [rows, ..., in], with the branch added in place."""
        self.reached.add(place)
        site, y = self.parts[place], y.contiguous()
        for start in self._copies(call, x):
            for rows, side in call.personal:
                part = slice(start + rows.start, start + rows.stop)
                h = F.linear(x[part], site.down.to(x))
                w = self.w[self.run.people_of(side)]
                h.mul_(_over(w if call.active is None else w * call.active[:, None], h).to(h.dtype))
                # One pass over y, where an addition of a product of its own would take three
                y[part].view(-1, y.shape[-1]).addmm_(h.flatten(0, -2), site.up.to(x).T)
        return y

    def _copies(self, call: Call, x: Tensor) -> range:
        """Where x starts with the call's rows: some models double them for a second timestep."""
        if not len(x) or len(x) % call.rows:
            raise RuntimeError(
                f"A layer of the denoiser got {len(x)} rows for a batch of {call.rows}, so it cannot be told whose "
                "they are: sample one picture at a time at cfg 1, or remove the user embedding."
            )
        return range(0, len(x), call.rows)


class CompiledLowRankBranch(LowRankBranch):
    """The same for compiled models, whose graphs keep what the first call met: forwards stay the same from run to run
    and from person to person, and whom a call is for is told by a tensor."""

    def __init__(self, run: UserRun, adapter: LowRankAdapter, strength: float, places: Sequence[int]) -> None:
        super().__init__(run, adapter, strength, places)
        self.graph = _graphs.setdefault(run.model.diffusion_model, {}).setdefault(run.key, _Graph())
        dtype, parts = run.model.get_dtype_inference(), self.parts
        self.graph.weights = {
            place: (parts[place].down.to(run.device, dtype), parts[place].up.to(run.device, dtype)) for place in places
        }
        run.on_call = self._begin

    def _forward(self, place: int, layer: nn.Module) -> Forward:
        self.reached.add(place)
        return self.graph.forward(place, layer)

    def _begin(self, call: Call | None, rows: int) -> None:
        """Writes w of every row of the call, 0 for the base's, into the tensor that the graph reads."""
        graph = self.graph
        if graph.w is None or len(graph.w) != rows:
            graph.w = self.w.new_zeros(rows, self.w.shape[-1])
        graph.w.zero_()
        personal, active = ([], None) if call is None else (call.personal, call.active)
        for part, side in personal:
            w = self.w[self.run.people_of(side)]
            graph.w[part] = w if active is None else w * active[:, None]


class _Graph:
    """What the compiled graphs of one denoiser read: w of every row of the call that goes on [rows, K], the weights of
    the sites, and the forwards that do so."""

    def __init__(self) -> None:
        self.w: Tensor | None = None
        self.weights: dict[int, tuple[Tensor, Tensor]] = {}
        self.forwards: dict[int, tuple[Any, Forward]] = {}

    def forward(self, place: int, layer: nn.Module) -> Forward:
        """The same as in the last run, unless another node has put its own in between."""
        before = layer.__dict__.get("forward")
        known = self.forwards.get(place)
        if known is None or known[0] != before:  # bound methods are equal, never the same
            known = self.forwards[place] = (before, self._make(place, layer.forward))
        return known[1]

    def _make(self, place: int, plain: Forward) -> Forward:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            y = plain(x, *args, **kwargs)
            assert self.w is not None
            down, up = self.weights[place]
            w = self.w.repeat(len(x) // len(self.w), 1)
            return y + F.linear(F.linear(x, down) * _over(w, x).to(x.dtype), up)

        return forward


_graphs: WeakKeyDictionary[nn.Module, dict[str, _Graph]] = WeakKeyDictionary()
"""By denoisers. A graph refers to layers of its denoiser, never to the denoiser, which may therefore go."""


def _over(w: Tensor, x: Tensor) -> Tensor:
    """w [rows, K] to be multiplied with what comes of x [..., rows, tokens, in], whatever lies between."""
    return w.reshape(len(w), *[1] * (x.ndim - 2), w.shape[-1])
