"""User adapters: how a user embedding u changes a denoiser, and the files that hold them."""

from .cross_attention import CrossAttentionAdapter, CrossAttentionConfig
from .low_rank import LowRankAdapter, LowRankConfig, Site
from .user_adapter import UNCONDITIONAL_RULES, AdapterConfig, UserAdapter, config_of

__all__ = [
    "UNCONDITIONAL_RULES",
    "AdapterConfig",
    "CrossAttentionAdapter",
    "CrossAttentionConfig",
    "LowRankAdapter",
    "LowRankConfig",
    "Site",
    "UserAdapter",
    "config_of",
]
