"""What tells networks apart without reading gigabytes: names, shapes, small tensors, and some values of large ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

SMALL = 1 << 16
"""Numbers that a tensor has at most to be read whole: biases and norms."""
SPREAD = 256
"""Values that are read of a larger one, from end to end: a merged LoRA changes nothing but those."""

_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """sha256 of a module's tensor names, shapes and values, remembered as long as the module lives.

    At half precision, so that a model and the fp16 file it was saved to have one. `mask_token`, of the training, is
    passed over: where the file leaves it out, it holds whatever the memory held.
    """
    if module not in _known:
        total = sha256()
        for name, tensor in sorted(module.state_dict().items()):
            if tensor.is_meta or name.endswith("mask_token"):
                continue
            total.update(f"{name} {list(tensor.shape)}".encode())
            if tensor.numel() > SMALL:
                tensor = some_values(tensor)
            stored = tensor.half() if tensor.is_floating_point() else tensor.long()
            total.update(stored.cpu().contiguous().numpy().tobytes())
        _known[module] = total.hexdigest()
    return _known[module]


def some_values(tensor: Tensor) -> Tensor:
    """SPREAD values [n] of a tensor, or a few more, from its first to its last in steps; all of a smaller one."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SPREAD)]


def hash_with(settings: Mapping[str, Any], *fingerprints: str) -> str:
    """sha256 of networks and of what else gives their features a meaning, such as preprocessing and pooling."""
    return sha256("".join((json.dumps(settings, sort_keys=True), *fingerprints)).encode()).hexdigest()
