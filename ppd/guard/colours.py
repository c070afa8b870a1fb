"""Colours as people see them: CIELAB, and how far two are apart by CIEDE2000; lightness as WCAG counts it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages import quoted

Array = NDArray[np.float64]

WHITE = np.array((0.95047, 1.0, 1.08883))
"""CIE D65, 2 degrees."""
_TO_XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
)
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27
_HEX = re.compile("#[0-9a-fA-F]{6}")


def rgb_of(name: str, value: Any) -> Array:
    """sRGB [3] in 0..1 of a colour such as #0a3d62."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError(f"Expected a colour such as #0a3d62 as {name}, got {quoted(value)}.")
    return np.array([int(value[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(rgb: Array) -> Array:
    """sRGB in 0..1 to linear light (IEC 61966-2-1)."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb: Array) -> Array:
    """Relative luminance [...] in 0..1 of sRGB [..., 3], as of WCAG 2."""
    return linear(rgb) @ _TO_XYZ[1]


def lab(rgb: Array) -> Array:
    """CIELAB [..., 3] of sRGB [..., 3] in 0..1, under D65."""
    x = linear(rgb) @ _TO_XYZ.T / WHITE
    f = np.where(x > _EPSILON, np.cbrt(x), (_KAPPA * x + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def delta_e(one: Array, other: Array) -> Array:
    """CIEDE2000 [...] between CIELAB [..., 3] and [..., 3]; 1 is about what can just be seen.

    Equations 2 to 22 of Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (2005), with kL = kC = kH = 1.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(x, -1, 0) for x in np.broadcast_arrays(one, other))
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = np.where(grey, 0.0, (h2 - h1 + 180) % 360 - 180)
    turn = np.where((turn == -180) & (h2 > h1), 180.0, turn)  # opposite hues: the sign that the equations give
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    h = np.where(grey, total, np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2)
    t = (
        1
        - 0.17 * np.cos(np.radians(h - 30))
        + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    x, y, z = (l2 - l1) / s_l, (c2 - c1) / s_c, hue / s_h
    return np.sqrt(np.maximum(x**2 + y**2 + z**2 + rotation * y * z, 0.0))
