"""Preference pairs to the user embedding of an image adapter (ip_adapter.py): the person's own pictures, weighed.

The posterior (posterior.py) on L2-normalised image_embeds says how well each pick is explained already; picks weigh by
what is left, which are the posterior mean's own dual coefficients. The pictures' weighted middle is the centre, the
weighted half differences the displacement: a step along the posterior mean itself would leave what pictures look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ip_adapter import IMAGE_WIDTH, STATE_WIDTH, IPAdapter
from ..pairs import PreferencePair
from ..pictures import PreferenceError
from ..user_embedding import UserEmbedding
from .features import PictureFeatures
from .fingerprint import fingerprint
from .posterior import fit_posterior
from .towers.open_clip import OpenClipTower

TASTE_SCALE = 3.0
"""Prior standard deviation of taste along any direction of unit features, the pick noise being 1. Where two
pictures' features lie .8 apart, people then pick what they prefer 80 times in 100. Chosen, not fitted."""

Look = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pictures [n, 3, 224, 224] in 0..1 to image_embeds [n, 1024] and the last but one layer's states [n, 257, 1280]."""


class ImagePromptTower(OpenClipTower):
    """What an image adapter sees in pictures: image_embeds [1024], then for a plus adapter its tokens, flat."""

    def __init__(self, visual: nn.Module, look: Look, adapter: IPAdapter, **settings: Any) -> None:
        super().__init__(visual, **settings)
        self.look, self.adapter = look, adapter

    @classmethod
    def from_clip(cls, tower: OpenClipTower, adapter: IPAdapter) -> ImagePromptTower:
        """With open_clip's ViT-H-14 (`OpenClipTower.from_open_clip("ViT-H-14", file)`)."""
        mean, std = (torch.tensor(tower.preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
        visual: Any = tower.visual
        last_but_one = len(visual.transformer.resblocks) - 2

        def look(x: Tensor) -> tuple[Tensor, Tensor]:
            x = ((x - mean) / std).to(tower.device)
            found = visual.forward_intermediates(x, indices=[last_but_one], output_fmt="NLC", output_extra_tokens=True)
            states = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], 1)
            return found["image_features"], states

        return cls(visual, look, adapter, name=tower.name, **tower.preprocess)

    @cached_property
    def dim(self) -> int:
        """Width of a row."""
        adapter = self.adapter
        return IMAGE_WIDTH + (adapter.tokens_per_picture * adapter.config.token_dim if adapter.is_plus else 0)

    @cached_property
    def weight_hash(self) -> str:
        """sha256 that tells towers and projectors apart (fingerprint.py), for the cache."""
        readers = (self.visual, self.adapter.projector) if self.adapter.is_plus else (self.visual,)
        return sha256("".join(map(fingerprint, readers)).encode()).hexdigest()

    @torch.no_grad()
    def image_tensor_features(self, x: Tensor, *, batch: int = 16) -> Tensor:
        """Rows [n, 1024] or [n, 1024 + tokens] of pictures x [n, 3, 224, 224] in 0..1."""
        rows = []
        for part in x.split(batch):
            embeds, states = self.look(part)
            widths = embeds.shape[-1], states.shape[-1]
            if widths != (IMAGE_WIDTH, STATE_WIDTH):
                raise ValueError(
                    f"The image encoder's embeddings and states are {widths[0]} and {widths[1]} wide, expected "
                    f"ViT-H-14's {IMAGE_WIDTH} and {STATE_WIDTH}: load CLIP-ViT-H-14-laion2B-s32B-b79K."
                )
            row = [embeds.float().cpu()]
            if self.adapter.is_plus:
                device = next(self.adapter.projector.parameters()).device
                row.append(self.adapter.projector(states.float().to(device)).float().flatten(1).cpu())
            rows.append(torch.cat(row, 1))
        return torch.cat(rows)


def encode_image_prompt(
    pairs: Sequence[PreferencePair],
    features: PictureFeatures,
    *,
    on_bad: str = "raise",
    skipped: list[PreferenceError] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UserEmbedding:
    """The user embedding behind `pairs` for the features' adapter: u [1, 1024], or [16, token_dim] for a plus adapter.

    u and u_negative lie on both sides of the pictures' middle, farther apart the surer we are; with ties alone both are
    the middle. Unreadable pictures are treated as in `PictureFeatures.pair_features`; no pairs at all raise ValueError.
    """
    tower = features.tower
    assert isinstance(tower, ImagePromptTower)
    read = features.pair_features(pairs, on_bad=on_bad, skipped=skipped, progress=progress)
    if not read.kept:
        raise ValueError("An image adapter paints from the person's own pictures, and there are no pairs: pick some.")
    weights, confidence = weigh(
        read.chosen[:, :IMAGE_WIDTH], read.rejected[:, :IMAGE_WIDTH], read.outcomes, read.weights
    )
    config = tower.adapter.config
    seen = slice(IMAGE_WIDTH, None) if tower.adapter.is_plus else slice(IMAGE_WIDTH)
    chosen, rejected = read.chosen[:, seen], read.rejected[:, seen]
    center = weights.abs() @ (chosen + rejected) / 2
    shift = confidence * (weights @ (chosen - rejected)) / 2
    shape = (-1, config.embedding_dim)
    return UserEmbedding(
        u=(center + shift).view(shape),
        u_negative=(center - shift).view(shape),
        encoder=config.encoder,
        encoder_hash=config.encoder_hash,
        pairs=len(read.kept),
        created=date.today().isoformat(),
    )


def weigh(chosen: Tensor, rejected: Tensor, outcomes: Tensor, fading: Tensor | None = None) -> tuple[Tensor, float]:
    """Weights [n] of pairs, their magnitudes adding up to 1, and the confidence in their sum, from 0 to 1.

    chosen and rejected are image_embeds [n, f], outcomes [n] 1 for a pick and .5 for a tie, fading [n] scales their
    log-likelihoods. A weight is the dual coefficient fading (y - sigmoid(theta . d)) at the posterior mean theta.
    Confidence is |theta| over the root of the posterior's second moment along it.
    """
    fading = torch.ones(len(outcomes)) if fading is None else fading
    differences = F.normalize(chosen.double(), dim=1) - F.normalize(rejected.double(), dim=1)
    # The prior is the same in all directions, so the posterior mean lies in the differences' span: fit it in there
    span, coordinates = torch.linalg.qr(differences.T)
    dim = span.shape[1]
    identity = torch.eye(dim, dtype=torch.float64)
    mean, covariance = fit_posterior(
        coordinates.T, outcomes, identity.new_zeros(dim), identity * TASTE_SCALE**2, fading
    )
    dual = fading * (outcomes - torch.sigmoid(coordinates.T @ mean))
    length = mean.norm()
    if length < 1e-9:  # ties, or picks that undo each other
        return (fading / fading.sum()).float(), 0.0
    along = mean / length
    confidence = length / (length.square() + along @ covariance @ along).sqrt()
    return (dual / dual.abs().sum()).float(), float(confidence)
