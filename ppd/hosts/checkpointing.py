"""Gradient checkpointing of a denoiser's blocks: they keep their inputs alone and run again in backward, where the user
branch must be what it was in their call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Resume = Callable[[nn.Module], AbstractContextManager[None]]
"""For a block: the context in which it runs again as it did."""


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """The outermost modules in a denoiser's lists that are no lists and have layers of their own."""
    return list(_blocks(denoiser, inside=False))


def _blocks(module: nn.Module, inside: bool) -> Iterator[nn.Module]:
    for child in module.children():
        is_list = isinstance(child, (nn.ModuleList, nn.Sequential))
        if inside and not is_list:
            if any(True for _ in child.children()):
                yield child
        else:
            yield from _blocks(child, inside or is_list)


@contextmanager
def checkpointed(denoiser: nn.Module, call: Callable[[], Resume]) -> Iterator[None]:
    """Within it the blocks' forwards keep no activations; `call` tells, in a forward, how to resume it.

    Backward must run within it too.
    """
    with ExitStack() as stack:
        for block in blocks_of(denoiser):
            stack.enter_context(forward_of(block, _kept(block, call)))
        yield


def _kept(block: nn.Module, call: Callable[[], Resume]) -> Callable[..., Any]:
    plain = block.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        # Some blocks add to what they are given in place, and it is needed again
        return plain(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        resume = call()
        return checkpoint(
            run,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), resume(block)),
            **kwargs,
        )

    return forward


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def forward_of(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The layer's forward is another, and then again what it was: the class's, or what somebody else had put there."""
    before = layer.__dict__.get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before
