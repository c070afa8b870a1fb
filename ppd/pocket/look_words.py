"""Words for looks in prompts: half of the second world's captions name one to three looks that are true of the picture.

The word is a comma's part of its own behind the caption, as artists write it: "a boat by a lake, warm, rough paper".
"""

from __future__ import annotations

import numpy as np

NAMED = 0.4
"""A style attribute beyond this, either way, may be named."""
MOST = 3

LOOK_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "warmth": (("cool", "cold", "icy"), ("warm", "golden", "fiery")),
    "saturation": (("muted", "pale", "grey"), ("vivid", "colorful", "rich colors")),
    "brightness": (("dark", "dim", "gloomy"), ("bright", "light", "airy")),
    "contrast": (("soft", "flat", "hazy"), ("strong contrast", "hard", "dramatic")),
    "outline": (("no outlines", "borderless"), ("bold outlines", "thick lines")),
    "texture": (("smooth paper", "smooth"), ("rough paper", "rough", "brush strokes")),
}
"""Of each style attribute, the words for its low and for its high end."""


def styled_caption(caption: str, style: dict[str, float], rng: np.random.Generator, share: float = 0.5) -> str:
    """The caption, in a `share` of cases with one to three of the looks that are true of `style`, in any order."""
    true = [name for name in LOOK_WORDS if abs(style[name]) > NAMED]
    if not true or rng.random() >= share:
        return caption
    count = min(len(true), int(rng.integers(1, MOST + 1)))
    named = [true[i] for i in rng.permutation(len(true))[:count]]
    ends = [LOOK_WORDS[name][int(style[name] > 0)] for name in named]
    return ", ".join([caption, *(str(rng.choice(words)) for words in ends)])


def every_word() -> str:
    """All words for looks, one behind the other."""
    return ", ".join(word for ends in LOOK_WORDS.values() for words in ends for word in words)
