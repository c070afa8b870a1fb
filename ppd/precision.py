"""The precision to compute in: bfloat16 where the device has units for it, else float32."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are fast on `device`: a CPU without units for them emulates each one, which
    takes some hundred times as long as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def autocast(device: torch.device) -> torch.autocast:
    """The context in which the pocket's denoiser and autoencoder compute on `device`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
