"""The pocket preference encoder: a small open_clip model trained on pictures with captions that do name the style."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..training.loop import device_of, fit
from . import scenes
from .data import PictureSet, to_tensor

MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)
EMBED_DIM = 96
VISION: dict[str, Any] = {"layers": 5, "width": 160, "head_width": 32, "patch_size": 16, "image_size": scenes.SIZE}
TEXT: dict[str, Any] = {"context_length": 40, "width": 96, "heads": 4, "layers": 2}

WORDS: dict[str, tuple[str, ...]] = {
    "warmth": ("icy", "cool", "neutral", "warm", "fiery"),
    "saturation": ("grey", "muted", "natural", "colorful", "vivid"),
    "brightness": ("dark", "dim", "medium", "light", "bright"),
    "contrast": ("flat", "soft", "even", "strong", "hard"),
    "outline": ("borderless", "thin", "lined", "bold", "thick"),
    "texture": ("smooth", "faint", "grainy", "woven", "rough"),
    "clutter": ("empty", "sparse", "some", "busy", "crowded"),
}

PROBED = {name: (words[0], words[-1]) for name, words in WORDS.items() if name != "clutter"}
"""Low and high word of the attributes that the looks tell: of clutter the features know hardly anything."""


def style_caption(caption: str, style: np.ndarray) -> str:
    """The caption with one of five words for each style attribute in `style` [7], -1..1."""
    level = np.clip(((style + 1) / 2 * 5).astype(int), 0, 4)
    return caption + " " + " ".join(WORDS[name][i] for name, i in zip(scenes.STYLES, level, strict=True))


def build_encoder(words: int) -> CLIP:
    """open_clip's CLIP at pocket size; patches of 16 px hold two periods of the weave, in step.

    The text side, which is thrown away after training, knows only the `words` tokens that captions use.
    """
    return CLIP(EMBED_DIM, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT, vocab_size=words))


def vocabulary_of_captions() -> Tensor:
    """The tokens of all captions with all style words, start and end: what the text side knows, in order."""
    every_word = " ".join(word for words in WORDS.values() for word in words)
    return torch.unique(_tokenizer()([every_word, *(scene.caption for scene in scenes.SCENES)], 100))


def tokens(texts: list[str]) -> Tensor:
    """Texts to open_clip's token ids [n, 40]."""
    return _tokenizer()(texts)


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(context_length=TEXT["context_length"])


class _Batches:
    """Batches of few captions, so that the style is what tells their pictures apart."""

    def __init__(self, data: PictureSet, pictures: int, batch: int) -> None:
        self.data, self.batch = data, batch
        self.vocabulary = vocabulary_of_captions()
        self.by_caption = [np.flatnonzero(data.captions[:pictures] == i) for i in range(len(scenes.SCENES))]

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        """Indices [n] of different pictures, and the words [n, 40] of their captions, as the text side counts them."""
        chosen = rng.choice(len(self.by_caption), size=12, replace=False)
        candidates = np.concatenate([self.by_caption[i] for i in chosen])
        index = rng.choice(candidates, size=min(self.batch, len(candidates)), replace=False)
        texts = [style_caption(scenes.SCENES[self.data.captions[i]].caption, self.data.styles[i]) for i in index]
        return index, torch.searchsorted(self.vocabulary, tokens(texts))


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, float]]:
    """CLIP's loss on unit features [n, f] of pictures and their texts, the softmax both ways (Radford et al. 2021)."""
    logits = scale * image.float() @ text.float().T
    target = torch.arange(len(image), device=image.device)
    value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return value, {"loss": value.item(), "top1": (logits.argmax(1) == target).float().mean().item()}


def train_encoder(
    data: PictureSet, decoded: np.ndarray, checkpoint: Path, steps: int, batch: int = 128, seed: int = 3
) -> CLIP:
    """CLIP's contrastive loss on `data`, each picture real or as the autoencoder returns it (`decoded`, uint8)."""
    torch.manual_seed(seed)
    batches = _Batches(data, len(decoded), batch)
    model = build_encoder(len(batches.vocabulary))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    def loss(module: CLIP, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index, words = batches.draw(rng)
        real = rng.random(len(index)) < 0.5
        pictures = np.where(real[:, None, None, None], data.pictures[index], decoded[index])
        device = device_of(module)
        with sdpa_kernel(SDPBackend.MATH):  # plain matrix products: their backward is several times faster on CPU
            image, text, scale = module(((to_tensor(pictures) - mean) / std).to(device), words.to(device))
        return contrastive_loss(image, text, scale)

    return fit("encoder", model, loss, steps=steps, learning_rate=1.5e-3, checkpoint=checkpoint, seed=seed, muon=True)
