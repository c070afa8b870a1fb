"""Procedural pictures: a caption names what is in the picture, seven hidden style attributes decide how it looks.

Everything is drawn three times too large with Pillow and averaged down, so that edges are anti-aliased.
A picture is determined by (caption, style, seed) alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
OVERSAMPLING = 3
KINDS = ("house", "tree", "flowers", "lighthouse", "boat", "mountain", "sun", "moon", "cloud", "balloon")
STYLES = ("warmth", "saturation", "brightness", "contrast", "outline", "texture", "clutter")

Color = tuple[float, float, float]
Point = tuple[float, float]

INK: Color = (0.10, 0.09, 0.14)
DAY_SKY: tuple[Color, Color] = ((0.36, 0.60, 0.86), (0.82, 0.90, 0.93))
NIGHT_SKY: tuple[Color, Color] = ((0.10, 0.12, 0.32), (0.42, 0.38, 0.56))
NIGHT_LIGHT = np.array((0.58, 0.62, 0.82))


@dataclass(frozen=True)
class Scene:
    """What a caption says: the setting and the kinds of object in it, in the order they are named."""

    setting: str
    objects: tuple[str, ...]
    caption: str


def _captions() -> list[Scene]:
    settings = {"meadow": "on a meadow", "hills": "in the hills", "lake": "by a lake"}
    nouns = {"house": "a house", "tree": "a tree", "flowers": "flowers", "lighthouse": "a lighthouse", "boat": "a boat"}
    skies = {
        "": "",
        "sun": " under the sun",
        "moon": " under the moon",
        "cloud": " under a cloud",
        "balloon": " and a balloon in the sky",
    }
    scenes = []
    for setting, where in settings.items():
        grounded = [kind for kind in nouns if kind != "boat" or setting == "lake"]
        singles: list[tuple[str, ...]] = [(kind,) for kind in grounded]
        pairs: list[tuple[str, ...]] = list(itertools.combinations(grounded, 2))
        for ground, sky, mountain in itertools.product(singles + pairs, skies, (False, True)):
            objects = ground + (("mountain",) if mountain else ()) + ((sky,) if sky else ())
            if 2 <= len(objects) <= 3:
                named = " and ".join(nouns[kind] for kind in ground)
                behind = " with a mountain behind" if mountain else ""
                scenes.append(Scene(setting, objects, f"{named} {where}{behind}{skies[sky]}"))
    return scenes


SCENES: list[Scene] = _captions()
"""Every scene the pocket world knows."""

HELD_OUT_CAPTIONS: list[str] = [scene.caption for scene in SCENES[3::7]]
"""Captions that are in nobody's training pairs; figures are measured on them."""

TRAINING_CAPTIONS: list[str] = [scene.caption for scene in SCENES if scene.caption not in set(HELD_OUT_CAPTIONS)]

BY_CAPTION: dict[str, Scene] = {scene.caption: scene for scene in SCENES}


def object_labels(caption: str) -> np.ndarray:
    """Which of KINDS a caption names: [len(KINDS)] of 0 and 1."""
    objects = BY_CAPTION[caption].objects
    return np.array([kind in objects for kind in KINDS], dtype=np.float32)


def random_style(rng: np.random.Generator) -> dict[str, float]:
    """One style: every attribute independent and uniform on [-1, 1]."""
    return {name: float(value) for name, value in zip(STYLES, rng.uniform(-1, 1, len(STYLES)), strict=True)}


class Brush:
    """Draws filled, outlined shapes in picture coordinates (0..128, y down)."""

    def __init__(self, draw: ImageDraw.ImageDraw, outline: float, light: np.ndarray) -> None:
        self.draw, self.light = draw, light
        self.ink_width = max(0.0, 1.5 + 1.7 * outline)

    def color(self, color: Color) -> tuple[int, int, int]:
        r, g, b = (int(round(255 * float(c))) for c in np.clip(np.array(color) * self.light, 0, 1))
        return r, g, b

    def _ink(self, points: list[Point], weight: float) -> None:
        width = int(round(self.ink_width * weight * OVERSAMPLING))
        if width > 0:
            ring = points + points[:2]
            self.draw.line(ring, fill=self.color(INK), width=width, joint="curve")

    def polygon(self, points: list[Point], fill: Color, weight: float = 1.0) -> None:
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self.draw.polygon(scaled, fill=self.color(fill))
        self._ink(scaled, weight)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Color, weight: float = 1.0) -> None:
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self.polygon([(x + rx * np.cos(t), y + ry * np.sin(t)) for t in turns], fill, weight)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, weight: float = 1.0) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, weight)

    def union(self, ellipses: list[tuple[float, float, float, float]], fill: Color) -> None:
        """Overlapping ellipses with one common outline: ink first, a little larger, then the fill."""
        grow = 0.6 * self.ink_width
        for extra, color in ((grow, INK), (0.0, fill)):
            for x, y, rx, ry in ellipses:
                self.ellipse(x, y, rx + extra, ry + extra, color, weight=0.0)


def _house(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    w, h = rng.uniform(15, 18), rng.uniform(20, 24)
    wall: Color = [(0.93, 0.86, 0.72), (0.88, 0.74, 0.66), (0.80, 0.84, 0.86)][rng.integers(3)]
    b.box(x - w, y - h, x + w, y, wall)
    b.polygon([(x - w - 4, y - h), (x, y - h - 17), (x + w + 4, y - h)], (0.72, 0.33, 0.26))
    b.box(x - 4, y - 13, x + 4, y, (0.45, 0.29, 0.20), 0.7)
    for side in (-1, 1):
        cx = x + side * w * 0.62
        b.box(cx - 3.5, y - h + 4, cx + 3.5, y - h + 11, (0.98, 0.86, 0.50), 0.7)


def _tree(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    b.box(x - 3.2, y - 20, x + 3.2, y, (0.45, 0.31, 0.20))
    r = rng.uniform(11, 13)
    b.union(
        [(x - 9, y - 25, r, r * 0.9), (x + 9, y - 25, r, r * 0.9), (x, y - 36, r * 1.1, r)],
        (0.27, 0.52, 0.27),
    )


def _flowers(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    petal: Color = [(0.93, 0.45, 0.58), (0.95, 0.80, 0.30), (0.80, 0.52, 0.86)][rng.integers(3)]
    for dx, height in ((-13, rng.uniform(13, 18)), (0, rng.uniform(18, 24)), (13, rng.uniform(13, 18))):
        top = y - height
        b.box(x + dx - 1.2, top, x + dx + 1.2, y, (0.25, 0.50, 0.22), 0.0)
        turns = np.arange(6) * np.pi / 3
        b.union([(x + dx + 4.6 * np.cos(t), top + 4.6 * np.sin(t), 3.2, 3.2) for t in turns], petal)
        b.ellipse(x + dx, top, 2.8, 2.8, (0.98, 0.90, 0.55), 0.0)


def _lighthouse(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    height = rng.uniform(48, 54)
    for i in range(5):
        low, high = i / 5, (i + 1) / 5
        w0, w1 = 9 - 3.2 * low, 9 - 3.2 * high
        color: Color = (0.85, 0.26, 0.24) if i % 2 == 0 else (0.96, 0.94, 0.90)
        b.polygon(
            [
                (x - w0, y - low * height),
                (x + w0, y - low * height),
                (x + w1, y - high * height),
                (x - w1, y - high * height),
            ],
            color,
            0.6,
        )
    b.box(x - 5, y - height - 8, x + 5, y - height, (0.99, 0.92, 0.55))
    b.polygon([(x - 7, y - height - 8), (x, y - height - 15), (x + 7, y - height - 8)], (0.35, 0.33, 0.38))


def _boat(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    b.polygon([(x - 19, y - 8), (x + 19, y - 8), (x + 12, y), (x - 12, y)], (0.60, 0.34, 0.20))
    b.box(x - 1, y - 40, x + 1, y - 8, (0.35, 0.24, 0.16), 0.0)
    sail: Color = [(0.97, 0.95, 0.90), (0.95, 0.82, 0.60)][rng.integers(2)]
    b.polygon([(x + 2, y - 39), (x + 17, y - 11), (x + 2, y - 11)], sail)
    b.polygon([(x - 2, y - 34), (x - 13, y - 11), (x - 2, y - 11)], sail)


def _mountain(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    for dx, scale in ((rng.uniform(20, 28), 0.7), (0.0, 1.0)):
        w, h = 38 * scale, rng.uniform(46, 54) * scale
        top = (x + dx, y - h)
        b.polygon([(x + dx - w, y + 4), top, (x + dx + w, y + 4)], (0.52, 0.50, 0.60))
        cap = 0.30
        b.polygon(
            [
                (top[0] - w * cap, top[1] + h * cap),
                top,
                (top[0] + w * cap, top[1] + h * cap),
                (top[0] + w * cap * 0.35, top[1] + h * cap * 0.72),
                (top[0], top[1] + h * cap * 1.15),
                (top[0] - w * cap * 0.4, top[1] + h * cap * 0.72),
            ],
            (0.95, 0.96, 0.98),
            0.0,
        )


def _sun(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    spin = rng.uniform(0, np.pi / 4)
    for t in spin + np.arange(8) * np.pi / 4:
        c, s = np.cos(t), np.sin(t)
        b.polygon(
            [
                (x + 12 * c - 3 * s, y + 12 * s + 3 * c),
                (x + 19 * c, y + 19 * s),
                (x + 12 * c + 3 * s, y + 12 * s - 3 * c),
            ],
            (0.99, 0.80, 0.32),
            0.0,
        )
    b.ellipse(x, y, 11, 11, (0.99, 0.87, 0.40))


def _moon(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    outer = np.linspace(0.35 * np.pi, 1.65 * np.pi, 24)
    inner = np.linspace(1.55 * np.pi, 0.45 * np.pi, 24)
    points = [(x + 14 * np.cos(t), y + 14 * np.sin(t)) for t in outer]
    points += [(x + 5 + 10.5 * np.cos(t), y + 12 * np.sin(t)) for t in inner]
    b.polygon(points, (0.99, 0.97, 0.82), 0.8)


def _cloud(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    r = rng.uniform(9, 11)
    b.union(
        [(x - 14, y + 3, r * 0.85, r * 0.75), (x, y - 3, r * 1.15, r), (x + 14, y + 2, r * 0.95, r * 0.8)],
        (0.96, 0.97, 0.98),
    )


def _balloon(b: Brush, rng: np.random.Generator, x: float, y: float) -> None:
    main: Color = [(0.88, 0.33, 0.33), (0.93, 0.62, 0.25), (0.48, 0.42, 0.80)][rng.integers(3)]
    b.polygon([(x - 9, y + 9), (x + 9, y + 9), (x + 3.5, y + 20), (x - 3.5, y + 20)], main, 0.7)
    b.ellipse(x, y, 14.5, 14.5, main)
    b.ellipse(x, y, 5.5, 14, (0.97, 0.93, 0.84), 0.0)
    b.box(x - 4, y + 20, x + 4, y + 26, (0.55, 0.36, 0.20), 0.8)


PAINTERS = {
    "house": _house,
    "tree": _tree,
    "flowers": _flowers,
    "lighthouse": _lighthouse,
    "boat": _boat,
    "mountain": _mountain,
    "sun": _sun,
    "moon": _moon,
    "cloud": _cloud,
    "balloon": _balloon,
}
SKY_KINDS = ("sun", "moon", "cloud", "balloon")


def _sky(night: bool, horizon: float) -> Image.Image:
    top, low = NIGHT_SKY if night else DAY_SKY
    n = SIZE * OVERSAMPLING
    mix = np.clip(np.linspace(0, SIZE / horizon, n), 0, 1)[:, None]
    rows = (np.array(top) * (1 - mix) + np.array(low) * mix) * 255
    return Image.fromarray(np.repeat(rows[:, None, :].astype(np.uint8), n, axis=1))


def _ground(b: Brush, rng: np.random.Generator, setting: str, horizon: float) -> None:
    x = np.linspace(-4, SIZE + 4, 34)

    def layer(level: float, swell: float, color: Color) -> None:
        phase, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.4)
        y = level + swell * np.sin(waves * 2 * np.pi * x / SIZE + phase)
        b.polygon([*zip(x, y, strict=True), (SIZE + 4, SIZE + 4), (-4, SIZE + 4)], color, 0.8)

    if setting == "meadow":
        layer(horizon, 1.0, (0.58, 0.74, 0.38))
    elif setting == "hills":
        layer(horizon - 3, 7.0, (0.56, 0.70, 0.50))
        layer(horizon + 14, 6.0, (0.47, 0.64, 0.36))
    else:
        layer(horizon, 0.5, (0.34, 0.60, 0.74))
        layer(SIZE - 17, 2.0, (0.86, 0.77, 0.56))


def _clutter(b: Brush, rng: np.random.Generator, amount: float, setting: str, night: bool, horizon: float) -> None:
    """Small things nobody asked for: stars or birds above the horizon, tufts and pebbles below it."""
    # Drawn from one fixed-length sequence, so that a little more clutter adds to the same picture.
    spots = rng.uniform(0, 1, (44, 3))
    for u, v, kind in spots[: int(round(44 * (amount + 1) / 2))]:
        x = 4 + 120 * u
        if kind < 0.45:
            y = 5 + (horizon - 18) * v
            if night:
                b.ellipse(x, y, 1.6, 1.6, (1.0, 1.0, 0.95), 0.0)
            else:
                b.polygon([(x - 4, y - 2), (x, y + 1), (x + 4, y - 2), (x, y - 0.6)], (0.20, 0.22, 0.30), 0.0)
        else:
            y = horizon + 10 + (SIZE - horizon - 14) * v
            if setting == "lake" and y < SIZE - 20:
                b.polygon([(x - 5, y), (x, y - 1.6), (x + 5, y), (x, y + 1)], (0.92, 0.96, 0.98), 0.0)
            elif kind < 0.72:
                tuft = [(x - 4, y - 5), (x, y), (x + 4, y - 5), (x + 1, y + 2), (x - 1, y + 2)]
                b.polygon(tuft, (0.20, 0.38, 0.18), 0.0)
            else:
                b.ellipse(x, y, 3.0, 2.0, (0.70, 0.67, 0.64), 0.0)


def compose(
    scene: Scene, style: dict[str, float], rng: np.random.Generator, horizon: float, brush: Brush, glow: Brush
) -> None:
    """Paint everything below the sky, far things first: `glow` paints sun and moon, which no light changes."""
    clutter_rng = np.random.default_rng(rng.integers(2**63))
    places = iter(rng.permutation([26.0, 64.0, 102.0]) + rng.uniform(-5, 5, 3))
    sky_x = rng.uniform(24, 104)

    if "mountain" in scene.objects:
        PAINTERS["mountain"](brush, rng, rng.uniform(34, 80), horizon)
    for kind in scene.objects:
        if kind in SKY_KINDS:
            PAINTERS[kind](glow if kind in ("sun", "moon") else brush, rng, sky_x, rng.uniform(22, 28))
    _ground(brush, rng, scene.setting, horizon)
    _clutter(brush, clutter_rng, style["clutter"], scene.setting, "moon" in scene.objects, horizon)
    for kind in scene.objects:
        if kind not in SKY_KINDS and kind != "mountain":
            afloat = kind == "boat"
            base = rng.uniform(94, 104) if afloat or scene.setting != "lake" else rng.uniform(114, 120)
            PAINTERS[kind](brush, rng, float(next(places)), base)


def _draw(scene: Scene, style: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """The picture before grading: [128, 128, 3] in 0..1."""
    night = "moon" in scene.objects
    horizon = rng.uniform(70, 80)
    image = _sky(night, horizon)
    brush = Brush(ImageDraw.Draw(image), style["outline"], NIGHT_LIGHT if night else np.ones(3))
    glow = Brush(brush.draw, style["outline"], np.ones(3))
    compose(scene, style, rng, horizon, brush, glow)
    return np.asarray(image.reduce(OVERSAMPLING), dtype=np.float32) / 255


def weave(size: int = SIZE) -> np.ndarray:
    """Canvas weave of 8 px period, in step with the f8 latent grid: [size, size], mean 0, values in [-1, 1]."""
    phase = (np.arange(size) + 0.5) * 2 * np.pi / 8
    return (np.sin(phase)[:, None] * np.sin(phase)[None, :]).astype(np.float32)


def grade(picture: np.ndarray, style: dict[str, float]) -> np.ndarray:
    """Colour and tone: contrast about the picture's mean, saturation about grey, warmth against cold, brightness."""
    luma = picture @ np.array((0.299, 0.587, 0.114), dtype=np.float32)
    center = 0.5 * luma.mean() + 0.25
    picture = center + (picture - center) * (0.78 + 0.30 * style["contrast"])
    grey = (picture @ np.array((0.299, 0.587, 0.114), dtype=np.float32))[..., None]
    picture = grey + (picture - grey) * (0.85 + 0.65 * style["saturation"])
    picture = picture + 0.09 * style["warmth"] * np.array((1.0, 0.10, -1.0), dtype=np.float32)
    return picture + 0.13 * style["brightness"]


def render(caption: str, style: dict[str, float], seed: int) -> np.ndarray:
    """The picture of (caption, style, seed): [128, 128, 3] uint8. Unknown captions are a KeyError."""
    rng = np.random.default_rng(seed)
    picture = grade(_draw(BY_CAPTION[caption], style, rng), style)
    picture = picture + (0.075 * (style["texture"] + 1) / 2) * weave()[..., None]
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
