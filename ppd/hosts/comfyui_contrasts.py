"""Directions of looks on a MODEL's tokens, measured with its CLIP: some dozen short prompts, once for each look."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..lexicon import Look
from ..text_taste import MOST, NEUTRAL, Leaning, contrast
from .comfyui_text import RULE, Rule, TextTaste, text_family, token_means

Contrast: TypeAlias = dict[str, Tensor]
"""A look's direction [..., D] for each of a family's keys."""
_known: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, dict[Hashable, Contrast]]] = WeakKeyDictionary()
"""By the text encoder and the denoiser's model, as long as both live."""


def text_taste(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    people: Sequence[Sequence[Leaning]],
    strength: float = 1.0,
    window: tuple[float, float] = (0.0, 1.0),
    unconditional: Rule = RULE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TextTaste:
    """The TextTaste of people with these leanings, strongest first; each one's first MOST act. `progress(done, total)`
    may raise to cancel."""
    chosen = [leanings[:MOST] for leanings in people]
    looks = list({one.look.id: one.look for leanings in chosen for one in leanings}.values())
    found = {}
    for done, look in enumerate(looks):
        progress(done, len(looks))
        found[look.id] = look_contrast(model, clip, look)
    directions = {
        key: torch.stack(
            [_combined([(one.weight, found[one.look.id][key]) for one in leanings]) for leanings in chosen]
        )
        for key in (text_family(model).keys if looks else ())
    }
    return TextTaste(directions, strength, window, unconditional)


def _combined(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([weight * direction for weight, direction in parts]).sum(0)


def look_contrast(model: ModelPatcher, clip: comfy.sd.CLIP, look: Look) -> Contrast:
    """The direction from a look's low to its high side as this CLIP words it for this MODEL."""
    known = _known.setdefault(clip.cond_stage_model, WeakKeyDictionary()).setdefault(model.model, {})
    adapted = model.patches_uuid if text_family(model).adapts else None
    key = look, clip.patcher.patches_uuid, clip.layer_idx, repr(clip.tokenizer_options), adapted
    if key not in known:
        low, high = ([_means(model, clip, side.on(prompt)) for prompt in NEUTRAL] for side in (look.low, look.high))
        known[key] = {name: contrast([one[name] for one in high], [one[name] for one in low]) for name in high[0]}
    return known[key]


def _means(model: ModelPatcher, clip: comfy.sd.CLIP, prompt: str) -> Contrast:
    return token_means(model, clip.encode_from_tokens_scheduled(clip.tokenize(prompt)))
