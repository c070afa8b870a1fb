"""Training: one loop for every stage, and the objectives of user adapters."""

from .control import NotFiniteError, Stopped
from .distributed import default_device, processes
from .loop import Loss, device_of, fit
from .schedules import cosine_with_warmup, warm_average

__all__ = [
    "Loss",
    "NotFiniteError",
    "Stopped",
    "cosine_with_warmup",
    "default_device",
    "device_of",
    "fit",
    "processes",
    "warm_average",
]
