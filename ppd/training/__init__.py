"""Training: one loop for every stage, and the objectives of user adapters."""

from .loop import Loss, cosine_with_warmup, default_device, device_of, fit, warm_average

__all__ = ["Loss", "cosine_with_warmup", "default_device", "device_of", "fit", "warm_average"]
