"""The second world's pictures: the same scenes as gouache and ink on paper, with brush strokes and grain.

Shapes are drawn three times too large as washes of colour, with the ink on a layer of its own whose hand is a little
less steady, so that colour and line do not quite meet. Strokes, grain and bare paper are noise of 5 to 16 px, which
latents of 8 px cells can carry. A picture is determined by (caption, style, seed) alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .scenes import BY_CAPTION, OVERSAMPLING, SIZE, Brush, Color, Point, compose, grade
from .statistics import luma

PERIOD = 256
"""Pixels after which the noise repeats."""
ANGLES = 8
INK = np.array((0.16, 0.13, 0.20), dtype=np.float32)
PAPER = np.array((0.955, 0.935, 0.885), dtype=np.float32)
MARGIN = 4.5
"""Pixels of paper that a brush leaves bare at the edges."""

# Top of the sky and horizon, of a cold, a neutral and a warm picture
DAY = np.array(
    [
        [(0.24, 0.52, 0.82), (0.74, 0.88, 0.95)],
        [(0.36, 0.62, 0.86), (0.95, 0.91, 0.82)],
        [(0.50, 0.62, 0.80), (1.00, 0.82, 0.62)],
    ]
)
NIGHT = np.array(
    [
        [(0.06, 0.12, 0.34), (0.26, 0.42, 0.62)],
        [(0.11, 0.13, 0.36), (0.42, 0.40, 0.60)],
        [(0.17, 0.12, 0.33), (0.66, 0.42, 0.50)],
    ]
)
NIGHT_LIGHT = np.array((0.52, 0.56, 0.78))


@cache
def _noise(name: str) -> np.ndarray:
    """Periodic noise of unit variance: [.., 256, 256] float32."""
    rng = np.random.default_rng([2601, *name.encode()])
    y, x = np.meshgrid(np.fft.fftfreq(PERIOD), np.fft.fftfreq(PERIOD), indexing="ij")

    def band(length: float, width: float, angle: float = 0.0, most: float = 1e9) -> np.ndarray:
        """Blobs of `length` by `width` px (standard deviations), less what is larger than `most`."""
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        kept = np.exp(-2 * np.pi**2 * ((along * length) ** 2 + (across * width) ** 2))
        kept = kept * (1 - np.exp(-2 * np.pi**2 * (x**2 + y**2) * most**2))
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(PERIOD, PERIOD))) * kept).real
        return (noise / noise.std()).astype(np.float32)

    if name == "strokes":
        return np.stack([band(7.0, 2.0, np.pi * i / ANGLES, 6.0) for i in range(ANGLES)])
    if name == "hand":
        return np.stack([band(5.0, 5.0) for _ in range(4)])
    if name == "wash":
        return np.stack([band(11.0, 11.0) for _ in range(3)])
    return band(2.0, 2.0, most=4.0)  # grain


class PaintBrush(Brush):
    """Washes of colour, the ink on its own layer, and for every shape the direction of its strokes."""

    def __init__(self, layers: Layers, outline: float, light: np.ndarray) -> None:
        super().__init__(layers.color, outline, light)
        self.layers = layers

    def polygon(self, points: list[Point], fill: Color, weight: float = 1.0) -> None:
        corners = np.array(points)
        self.layers.wash(corners, self.color(fill))
        width = int(round(self.ink_width * weight * OVERSAMPLING * 0.9))
        self.layers.line(corners, width)

    def union(self, ellipses: list[tuple[float, float, float, float]], fill: Color) -> None:
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        rings = [np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], 1) for x, y, rx, ry in ellipses]
        grow = [1 + 0.9 * self.ink_width / min(rx, ry) if self.ink_width else 1.0 for *_, rx, ry in ellipses]
        for ring, scale in zip(rings, grow, strict=True):
            self.layers.blot((ring - ring.mean(0)) * scale + ring.mean(0))
        for ring in rings:
            self.layers.wash(ring, self.color(fill))


class Layers:
    """Colour, ink and stroke direction of a picture that is being painted."""

    def __init__(self, sky: Image.Image, rng: np.random.Generator) -> None:
        size = (SIZE * OVERSAMPLING,) * 2
        self.images = sky, Image.new("L", size), Image.new("L", size)
        self.color, self.ink, self.kind = (ImageDraw.Draw(image) for image in self.images)
        self.rng = rng
        self.corner = rng.integers(PERIOD, size=2)
        self.shapes = 0

    def _by_hand(self, points: np.ndarray, field: int, steady: float) -> list[tuple[float, float]]:
        """The ring of `points` with a point every 4 px, moved by a smooth field, in drawing pixels."""
        following = np.roll(points, -1, 0)
        length = np.linalg.norm(following - points, axis=1)
        steps = [max(1, int(part / 4)) for part in length]
        ring = np.concatenate(
            [a + (b - a) * (np.arange(n) / n)[:, None] for a, b, n in zip(points, following, steps, strict=True)]
        )
        column, row = (ring + self.corner).astype(int).T % PERIOD
        moved = ring + steady * _noise("hand")[field : field + 2, row, column].T
        return [tuple(point) for point in moved * OVERSAMPLING]

    def wash(self, points: np.ndarray, color: tuple[int, int, int]) -> None:
        ring = self._by_hand(points, 0, 0.7)
        width, height = np.ptp(points, axis=0)
        slope = 0.0 if width > height * 1.3 else np.pi / 2 if height > width * 1.3 else np.pi / 4
        angle = int(round((slope + self.rng.normal() * 0.35) / np.pi * ANGLES)) % ANGLES
        varied = np.clip(np.array(color) * (1 + self.rng.normal(0, 0.04)) + self.rng.normal(0, 6, 3), 0, 255)
        self.shapes = self.shapes % 30 + 1
        self.color.polygon(ring, fill=tuple(int(c) for c in varied))
        self.kind.polygon(ring, fill=self.shapes * ANGLES + angle)
        self.ink.polygon(ring, fill=0)

    def line(self, points: np.ndarray, width: int) -> None:
        if width > 0:
            ring = self._by_hand(points, 2, 0.55)
            self.ink.line(ring + ring[:2], fill=255, width=width, joint="curve")

    def blot(self, points: np.ndarray) -> None:
        self.ink.polygon(self._by_hand(points, 0, 0.7), fill=255)


def _box(x: np.ndarray, radius: int) -> np.ndarray:
    """Mean over squares of 2 radius + 1 px: [H, W, ...], edges repeated."""
    for axis in (0, 1):
        pad = [(radius + 1, radius) if i == axis else (0, 0) for i in range(x.ndim)]
        total = np.cumsum(np.pad(x, pad, mode="edge"), axis, dtype=np.float32)
        n = x.shape[axis]
        x = (np.take(total, range(2 * radius + 1, n + 2 * radius + 1), axis) - np.take(total, range(n), axis)) / (
            2 * radius + 1
        )
    return x


def _crop(noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part [..., 128, 128] of periodic noise."""
    top, left = rng.integers(PERIOD - SIZE, size=2)
    return noise[..., top : top + SIZE, left : left + SIZE]


def _sky(night: bool, warmth: float, horizon: float) -> Image.Image:
    weights = np.array([max(0.0, -warmth), 1 - abs(warmth), max(0.0, warmth)])
    top, low = np.tensordot(weights, NIGHT if night else DAY, 1)
    n = SIZE * OVERSAMPLING
    mix = np.clip(np.linspace(0, SIZE / horizon, n), 0, 1)[:, None]
    rows = (top * (1 - mix) + low * mix) * 255
    return Image.fromarray(np.repeat(rows[:, None, :].astype(np.uint8), n, axis=1))


def render(caption: str, style: dict[str, float], seed: int) -> np.ndarray:
    """The painted picture of (caption, style, seed): [128, 128, 3] uint8. Unknown captions are a KeyError."""
    rng = np.random.default_rng(seed)
    scene = BY_CAPTION[caption]
    night = "moon" in scene.objects
    horizon = rng.uniform(70, 80)
    hand = np.random.default_rng(rng.integers(2**63))
    layers = Layers(_sky(night, style["warmth"], horizon), hand)
    lights = (NIGHT_LIGHT if night else np.ones(3)), np.ones(3)
    brush, glow = (PaintBrush(layers, style["outline"], light) for light in lights)
    compose(scene, style, rng, horizon, brush, glow)
    color, ink, kind = layers.images
    picture = np.asarray(color.reduce(OVERSAMPLING), dtype=np.float32) / 255
    line = np.asarray(ink.reduce(OVERSAMPLING), dtype=np.float32) / 255
    shape = np.asarray(kind.resize((SIZE, SIZE), Image.Resampling.NEAREST)).astype(int)
    return _finish(picture, line, shape, style, hand)


def _finish(
    picture: np.ndarray, line: np.ndarray, shape: np.ndarray, style: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Strokes, light and shade, ink and paper over a picture's washes [128, 128, 3]."""
    rough = (style["texture"] + 1) / 2
    picture = 0.6 * picture + 0.4 * _box(picture, 1)
    wash, grain = np.moveaxis(_crop(_noise("wash"), rng), 0, -1), _crop(_noise("grain"), rng)
    angle = np.where(shape > 0, shape, rng.integers(-1, 2)) % ANGLES
    strokes = np.take_along_axis(_crop(_noise("strokes"), rng), angle[None], 0)[0]
    # Light from above on the left
    lit = _box((np.roll(shape, (5, 4), (0, 1)) != shape).astype(np.float32), 2)
    dark = _box((np.roll(shape, (-5, -4), (0, 1)) != shape).astype(np.float32), 2)
    tone = 0.10 * (lit - dark) * (shape > 0) + 0.035 * wash[..., 0]
    tone = tone + (0.012 + 0.085 * rough) * strokes + 0.05 * rough * grain
    picture = picture * (1 + tone[..., None]) + 0.024 * wash[..., 1:2] * np.array((1.0, 0.1, -1.0), dtype=np.float32)
    inked = line * np.clip(0.92 - 0.10 * rough * (1 + strokes), 0.4, 1)
    picture = picture + (INK - picture) * inked[..., None]
    grey = picture.mean(-1, keepdims=True)
    picture = grade(grey + (picture - grey) * 1.15, style)
    bare = 0.4 * rough * np.clip(0.9 * strokes + 0.7 * grain - 1.8, 0, 1)
    edge = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1]) + 0.5
    inside = np.minimum(edge[:, None], edge[None]) - MARGIN + 0.5 * strokes + 0.5 * grain
    paint = np.clip(inside / 1.6 + 0.5, 0, 1) * (1 - bare)
    paper = PAPER * (1 + (0.006 + 0.018 * rough) * grain[..., None])
    picture = paper + (picture - paper) * paint[..., None]
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def painted_statistics(x: Tensor) -> Tensor:
    """Pictures [n, 3, 128, 128] in 0..1 to raw statistics [n, 6], in the order of statistics.STATISTICS.

    As the first world's, of what lies inside the bare margin, but texture: strokes, grain and bare paper, which is what
    varies between 3 and 9 px where nothing else does (the fifth-lowest of 8 x 8 px cells), relative to lightness.
    """
    x = x[..., 8:-8, 8:-8]
    light = luma(x)
    warmth = (x[:, 0] - x[:, 2]).mean((1, 2))
    saturation = (x.amax(1) - x.amin(1)).mean((1, 2))
    brightness = light.mean((1, 2, 3))
    contrast = F.avg_pool2d(light, 8).flatten(1).std(1)
    band = F.avg_pool2d(light, 3, 1)[..., 3:-3, 3:-3] - F.avg_pool2d(light, 9, 1)
    variance = F.avg_pool2d(band.square(), 8, 4) - F.avg_pool2d(band, 8, 4).square()
    texture = variance.clamp(min=1e-8).sqrt().flatten(1).quantile(0.2, 1) / (0.1 + brightness)
    closing = -F.max_pool2d(-F.max_pool2d(light, 7, 1, 3), 7, 1, 3)
    outline = (closing - light - 0.10).clamp(min=0).mean((1, 2, 3))
    return torch.stack([warmth, saturation, brightness, contrast, outline, texture], dim=1)
