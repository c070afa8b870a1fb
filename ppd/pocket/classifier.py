"""The object classifier: which kinds of object are in a picture, for figures and the choice of adapters' strength."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import scenes


class ObjectClassifier(nn.Module):
    """Pictures [n, 3, 128, 128] in 0..1 to logits [n, 10], one for each of scenes.KINDS."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 5 if before == 3 else 3, 2, 2 if before == 3 else 1), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], len(scenes.KINDS))

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.body(pictures * 2 - 1)
        return self.head(torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1))


@torch.inference_mode()
def objects_found(classifier: ObjectClassifier, pictures: Tensor, batch: int = 64) -> Tensor:
    """Pictures [n, 3, 128, 128] in 0..1 to bool [n, 10]: which kinds are there."""
    device = next(classifier.parameters()).device
    return torch.cat([classifier(part.to(device)).cpu() > 0 for part in pictures.split(batch)])
