"""Families of denoisers: which of their cross-attention layers carry style and which layout.

Layers are numbered in the order of diffusers' attn_processors, as in adapters' files: down blocks, up blocks, middle.
What carries what is InstantStyle's finding (arXiv 2404.02733) for SDXL; its authors call their choice for SD1.5
experimental and less marked, and SD2 is laid out as SD1.5 is.
"""

from __future__ import annotations

from dataclasses import dataclass

from .transformers import TRANSFORMERS

PARTS = ("default", "all", "style only", "layout only")
"""Choices of layers; the default is the adapter's own."""


@dataclass(frozen=True)
class Family:
    """A family of denoisers: its cross-attention layers, the width of their context, those of style and of layout."""

    title: str
    count: int
    context_dim: int
    style: tuple[int, ...] = ()
    layout: tuple[int, ...] = ()


# Of 16 layers: two in each of three down blocks, three in each of three up blocks, one in the middle
_SD1_STYLE = (6, 7, 8)  # up_blocks.1
_SD1_LAYOUT = (4, 5, 15)  # down_blocks.2 and mid_block
FAMILIES = {
    "pocket": Family("the pocket model", 7, 128),
    "sd15": Family("SD1.5", 16, 768, _SD1_STYLE, _SD1_LAYOUT),
    "sd2": Family("SD2", 16, 1024, _SD1_STYLE, _SD1_LAYOUT),
    "sdxl": Family(
        "SDXL",
        count=70,  # 2 x 2 and 2 x 10 down, 3 x 10 and 3 x 2 up, 10 in the middle
        context_dim=2048,
        style=tuple(range(34, 44)),  # up_blocks.0.attentions.1
        layout=tuple(range(14, 24)),  # down_blocks.2.attentions.1
    ),
    "stable_cascade": Family("Stable Cascade's Stage C", count=64, context_dim=2048),  # 8 and 24 down, 24 and 8 up
}


def layers_of(family: str, part: str) -> tuple[int, ...]:
    """The layers of `family` that `part` ("style only" or "layout only") names; of transformers none are known."""
    known = FAMILIES.get(family)
    layers = {"style only": known.style, "layout only": known.layout}[part] if known else ()
    if not layers:
        raise ValueError(f"It is not known which layers of {title_of(family)} are {part!r}: use all layers.")
    return layers


def has_row(family: str) -> bool:
    """Whether a family is known, and is not just the class of a denoiser."""
    return family in FAMILIES or family in TRANSFORMERS


def title_of(family: str) -> str:
    """What a family is called: that of a denoiser without a row has the name of its class."""
    known = FAMILIES.get(family) or TRANSFORMERS.get(family)
    return known.title if known else family
