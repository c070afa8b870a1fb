"""Training of the object classifier, which is apart from it, since whoever only asks it needs no training loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.loop import device_of, fit
from . import scenes
from .classifier import ObjectClassifier
from .data import PictureSet, to_tensor


def train_classifier(
    data: PictureSet, decoded: np.ndarray, checkpoint: Path, steps: int, batch: int = 48, seed: int = 4
) -> ObjectClassifier:
    """Multi-label training on pictures as the autoencoder returns them, a little blurred, shifted and noisy."""
    torch.manual_seed(seed)
    classifier = ObjectClassifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    labels = torch.from_numpy(np.stack([scenes.object_labels(scene.caption) for scene in scenes.SCENES]))

    def loss(module: ObjectClassifier, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(len(decoded), size=batch)
        x = to_tensor(decoded[index]).to(device_of(module))
        if rng.random() < 0.5:
            x = x.flip(3)
        dy, dx = (int(v) for v in rng.integers(-6, 7, 2))
        x = torch.roll(x, (dy, dx), (2, 3))
        if rng.random() < 0.4:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        x = x + 0.04 * float(rng.random()) * torch.randn_like(x)
        target = labels[torch.from_numpy(data.captions[index])].to(x.device)
        logits = module(x).float()
        value = F.binary_cross_entropy_with_logits(logits, target)
        return value, {"loss": value.item(), "right": ((logits > 0) == (target > 0.5)).float().mean().item()}

    return fit(
        "classifier", classifier, loss, steps=steps, learning_rate=1.2e-3, checkpoint=checkpoint, seed=seed, muon=True
    )
