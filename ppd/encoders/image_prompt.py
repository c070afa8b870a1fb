"""What an IP-Adapter sees in pictures, and how that moves with the taste of a taste encoder (ip_adapter.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

import torch
from PIL import Image
from torch import Tensor, nn

from ..adapters.ip_adapter import IMAGE_WIDTH, STATE_WIDTH, IPAdapter, TasteIPAdapter
from ..pictures import Picture, PreferenceError
from .encoder import PosteriorEncoder
from .features import PictureFeatures
from .fingerprint import fingerprint, hash_with
from .towers.pixels import to_tensor

FEWEST = 32
"""Pictures that a covariance is fitted to, at least. A taste along which pictures differ by the share s of all their
variance is then met with a cosine of about (1 + 1 / (32 s)) ** -.5: more are better."""
MOST = 512

See = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pictures [n, 3, 224, 224] in 0..1 to image_embeds [n, 1024] and the last but one layer's states [n, 257, 1280]."""


class ImagePromptTower:
    """What an IP-Adapter sees in a picture, flat: image_embeds [1024], or a plus adapter's tokens [T * token_dim].

    `visual` is the vision model that `look` calls, `fit` takes a picture [1, H, W, 3] in 0..1 to [1, 3, 224, 224].
    """

    batch = 16

    def __init__(self, visual: nn.Module, look: See, fit: Callable[[Tensor], Tensor], adapter: IPAdapter) -> None:
        self.visual, self.look, self.fit, self.adapter = visual, look, fit, adapter
        self.name = f"ViT-H-14 {'tokens' if adapter.is_plus else 'image_embeds'}"

    @cached_property
    def dim(self) -> int:
        """Width of a row."""
        return prod(self.adapter.seen_shape)

    @cached_property
    def weight_hash(self) -> str:
        """sha256 that tells vision models and projectors apart (fingerprint.py), for the cache."""
        readers = (self.visual, self.adapter.projector) if self.adapter.is_plus else (self.visual,)
        return hash_with({"seen": self.name}, *map(fingerprint, readers))

    def prepare(self, picture: Image.Image) -> Tensor:
        """One picture [3, 224, 224] in bytes, to which the vision model's own preprocessing rounds."""
        return self.fit(to_tensor(picture).movedim(0, -1)[None])[0].mul(255).round().to(torch.uint8)

    @torch.no_grad()
    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Rows [n, dim], float32 on the CPU."""
        embeds, states = self.look(torch.stack(list(prepared)).float().div(255))
        widths = embeds.shape[-1], states.shape[-1]
        if widths != (IMAGE_WIDTH, STATE_WIDTH):
            raise ValueError(
                f"The image encoder's embeddings and states are {widths[0]} and {widths[1]} wide, expected "
                f"ViT-H-14's {IMAGE_WIDTH} and {STATE_WIDTH}: load CLIP-ViT-H-14-laion2B-s32B-b79K."
            )
        if not self.adapter.is_plus:
            return embeds.float().cpu()
        device = next(self.adapter.projector.parameters()).device
        return self.adapter.projector(states.float().to(device)).float().flatten(1).cpu()


def fit_to_taste(
    published: IPAdapter,
    encoder: PosteriorEncoder,
    seen: PictureFeatures,
    pictures: Sequence[Picture],
    own: Sequence[Picture] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TasteIPAdapter:
    """The IP-Adapter as an adapter of the encoder's u; `seen` reads pictures by its ImagePromptTower.

    Any `pictures` will do that are like those to be painted, such as studies; `own`, somebody's own pictures, become
    the middle that taste moves from. Pictures that cannot be read are left out; ValueError where fewer than FEWEST are
    left. `progress(pictures done, of)` may raise to cancel.
    """
    total = 2 * len(pictures) + len(own)

    def told(before: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(before + done, total)

    broken: dict[int, PreferenceError] = {}
    rows = seen.picture_features(pictures, broken=broken, progress=told(0))
    features = encoder.features.picture_features(pictures, broken=broken, progress=told(len(pictures)))
    kept = [index for index in range(len(pictures)) if index not in broken]
    if len(kept) < FEWEST:
        raise ValueError(
            f"Fitting an IP-Adapter to a taste encoder takes at least {FEWEST} pictures, got {len(kept)}: choose a "
            "folder with more, such as the studies that the taste encoder was made from."
        )
    shape, config = published.seen_shape, encoder.prior
    center, directions = fit_directions(config.whiten(features[kept]) / config.noise, rows[kept])
    start = seen.picture_features(own, progress=told(2 * len(pictures))).mean(0).view(shape) if own else None
    return TasteIPAdapter(
        published, encoder.name, encoder.weight_hash, center.view(shape), directions.view(-1, *shape), start
    )


def fit_directions(phi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [w] of rows [n, w] of n pictures, and how tilting by u moves it: Cov(phi, rows) [d, w], for the
    pictures' coordinates phi [n, d] in which reward is u . phi."""
    center, x = rows.double().mean(0), phi.double()
    directions = (x - x.mean(0)).T @ (rows.double() - center) / (len(rows) - 1)
    return center.float(), directions.float()
