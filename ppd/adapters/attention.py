"""The arithmetic of the user branch: decoupled cross-attention (IP-Adapter, arXiv 2308.06721), and its folded form.

User tokens are few and do not change during a sampling run. With one block-diagonal matrix of keys and one of values
for all heads, the branch is two thin matrix products around a softmax, and the layers on both sides of it (to_q and
to_out) can be multiplied in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Layers are probed with a scaled identity (a power of 2, exact), lest in half precision a bias rounds the weights away.
PROBE_SCALE = 64.0
AFFINE_LIMIT = 0.1
"""Relative error of a sum above which a layer is no affine one: int8 and fp8 products round to 1 to 4 %."""


def block_diagonal(x: Tensor, heads: int) -> Tensor:
    """One row per token and head, zero outside its own head's channels: [B, T, C] -> [B, T*heads, C]."""
    own = torch.eye(heads, dtype=x.dtype, device=x.device).repeat_interleave(x.shape[-1] // heads, dim=1)
    return (x[:, :, None] * own).flatten(1, 2)


def softmax_per_head(scores: Tensor, heads: int, groups: int = 1) -> Tensor:
    """Softmax over each head's own tokens, in each of `groups` equal parts of them: [B, L, T*heads] -> the same.

    Heads lie innermost, since a softmax over four neighbours is slow on a CPU: 15 times as slow as over four rows.
    """
    return scores.unflatten(-1, (groups, -1, heads)).softmax(-2).flatten(-3)


def user_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, groups: int = 1) -> Tensor:
    """Multi-head attention softmax(q k' / sqrt(C / heads)) v of pictures to user tokens, before to_out.

    q [B, L, C], k and v [B, T, C] (or [1, T, C] for one user in all rows), heads concatenated along C; with several
    `groups` the tokens are as many sets side by side, attended to separately, whose outputs add up.
    Returns [B, L, C].
    """
    scale = 1 / math.sqrt(q.shape[-1] // heads)
    scores = q @ block_diagonal(k * scale, heads).transpose(1, 2)
    return softmax_per_head(scores, heads, groups).to(v.dtype) @ block_diagonal(v, heads)


@dataclass(frozen=True)
class Folded:
    """A layer's user branch with to_q and to_out multiplied in.

    scores [B, in, T*heads], values [B, T*heads, out], and offset [B, 1, T*heads] where to_q has a bias.
    """

    scores: Tensor
    values: Tensor
    offset: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> Folded:
        """A copy on another device or in another dtype; arguments as for Tensor.to."""
        offset = None if self.offset is None else self.offset.to(*args, **kwargs)
        return Folded(self.scores.to(*args, **kwargs), self.values.to(*args, **kwargs), offset)


Layer = Callable[[Tensor], Tensor]


def fold(
    to_q: Layer,
    to_out: Layer | nn.ModuleList,
    k: Tensor,
    v: Tensor,
    heads: int,
    in_features: int,
    dtype: torch.dtype | None = None,
) -> Folded:
    """Fold to_q into the keys and to_out into the values: softmax(x Wq k') v Wo = softmax(x scores) values.

    to_q maps [in_features] to [C]; to_out maps [C] to [out] and is a layer, an nn.Sequential, or an nn.ModuleList whose
    layers are called in order. Both are called, never read, so that quantised, offloaded and LoRA-patched layers answer
    for themselves. k and v are [B, T, C]; `dtype` is the layers' input dtype (k's by default).
    The result is float32: cast it once with `.to`. Layers that are not affine, such as with a norm inside, are refused.
    """
    probe = {"dtype": dtype or k.dtype, "device": k.device}
    query, query_at_zero = _linear_map(to_q, in_features, probe)
    out, _ = _linear_map(_chain(to_out), k.shape[-1], probe)
    scale = 1 / math.sqrt(k.shape[-1] // heads)
    keys = block_diagonal(k.float() * scale, heads).transpose(1, 2)
    offset = query_at_zero @ keys if query_at_zero.any() else None
    return Folded(scores=query @ keys, values=block_diagonal(v.float(), heads) @ out, offset=offset)


def folded_attention(x: Tensor, folded: Folded, heads: int, groups: int = 1) -> Tensor:
    """What the user branch adds to the attention's output after to_out: x [B, L, in] -> [B, L, out].

    The bias of to_out is not in it: the attention on the prompt has added it already.
    """
    scores = x @ folded.scores
    if folded.offset is not None:
        scores = scores + folded.offset
    return softmax_per_head(scores, heads, groups).to(folded.values.dtype) @ folded.values


def _chain(layers: Layer | nn.ModuleList) -> Layer:
    if not isinstance(layers, nn.ModuleList):
        return layers
    ordered: Iterable[nn.Module] = tuple(layers)

    def call(x: Tensor) -> Tensor:
        for layer in ordered:
            x = layer(x)
        return x

    return call


def _linear_map(layer: Layer, features: int, probe: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """An affine layer's matrix [features, out] and its output for zero [1, out], in float32."""
    at_zero = layer(torch.zeros(1, features, **probe)).float()
    at_identity = layer(torch.eye(features, **probe) * PROBE_SCALE).float()
    matrix = (at_identity - at_zero) / PROBE_SCALE
    x = (PROBE_SCALE * torch.arange(1, features + 1, device=probe["device"]).cos()).to(probe["dtype"])[None]
    expected, got = x.float() @ matrix + at_zero, layer(x).float()
    error, size = (got - expected).norm().item(), expected.norm().item()
    if not error <= AFFINE_LIMIT * size:
        raise ValueError(
            "A layer around the cross-attention is not affine (its output for a sum is "
            f"{error:.3g} off the sum of its outputs, of length {size:.3g}), so the user adapter cannot be folded into "
            "it: remove the node that puts a norm or another function there, or the user embedding."
        )
    return matrix, at_zero
