"""The object classifier: says which kinds of object are in a picture. It judges figures and sets adapters' strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.loop import device_of, fit
from . import scenes
from .data import PictureSet, to_tensor


class ObjectJudge(nn.Module):
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


def train_judge(
    data: PictureSet, decoded: np.ndarray, checkpoint: Path, steps: int, batch: int = 48, seed: int = 4
) -> ObjectJudge:
    """Multi-label training on pictures as the autoencoder returns them, a little blurred, shifted and noisy."""
    torch.manual_seed(seed)
    judge = ObjectJudge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    labels = torch.from_numpy(np.stack([scenes.object_labels(scene.caption) for scene in scenes.SCENES]))

    def loss(module: ObjectJudge, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
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

    return fit("judge", judge, loss, steps=steps, learning_rate=1.2e-3, checkpoint=checkpoint, seed=seed, muon=True)


@torch.inference_mode()
def objects_found(judge: ObjectJudge, pictures: Tensor, batch: int = 64) -> Tensor:
    """Pictures [n, 3, 128, 128] in 0..1 to bool [n, 10]: which kinds are there."""
    device = next(judge.parameters()).device
    return torch.cat([judge(part.to(device)).cpu() > 0 for part in pictures.split(batch)])
