"""The precision to compute in: bfloat16 where the device has matrix units for it, else float32."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on `device`. A CPU without units for it emulates each product, some
    hundred times as slowly; vector units (AVX512-BF16) do not make up for the casts, matrix units (AMX) do."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return False


def autocast(device: torch.device) -> torch.autocast:
    """The context in which the pocket's denoiser and autoencoder compute on `device`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
