"""A pocket's user adapters: new ones of either kind."""

from __future__ import annotations

from typing import Any

from ..adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig
from ..hosts.diffusers import cross_attentions, linear_sites
from .painter import Painter

BETA = 600.0
"""On mean errors of 1,024 latent elements: about .6 per element."""


def keys_values(model: Painter, **config: Any) -> CrossAttentionAdapter:
    """A new adapter of a U-Net's cross-attention; `config`: encoder, encoder_hash and embedding_dim of its u, and
    end_percent of the part of the noise schedule that it is trained for and acts in."""
    layers = tuple(attention.inner_dim for attention in cross_attentions(model.denoiser))
    return CrossAttentionAdapter(CrossAttentionConfig(family=model.family, layers=layers, **config))


def low_rank(model: Painter, **config: Any) -> LowRankAdapter:
    """A new adapter of any denoiser's Linear layers; `config` as above."""
    return LowRankAdapter(LowRankConfig(family=model.family, sites=tuple(linear_sites(model.denoiser)), **config))
