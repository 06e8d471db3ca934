"""Colours for classes that have none: stable, and far apart also for colour-blind eyes."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]

Float64Array = npt.NDArray[np.float64]

_LEVELS = (0, 51, 102, 153, 204, 255)

_DEFICIENCIES = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
"""Full colour vision, protanopia and deuteranopia as maps of linear RGB (Machado, Oliveira, Fernandes: A
Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, table 1, severity 1.0)."""

_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)


@lru_cache(maxsize=8)
def draw_palette(count: int) -> tuple[Color, ...]:
    """``count`` distinct colours, black first; the first n of them are those of ``draw_palette(n)``.

    Each is the one of a grid of colours whose smallest distance to those before it is largest. A distance is that in
    CIELAB (CIE 1976), and of three eyes, one with full colour vision and two without, the one that sees least counts.

    Args:
        count: at most 255.
    """
    levels = _LEVELS if count <= len(_LEVELS) ** 3 - 1 else (*_LEVELS, 230)
    triples = ((red, green, blue) for red, green, blue in product(levels, repeat=3))
    grid = [color for color in triples if color != (255, 255, 255)]  # white marks ignored pixels
    seen = lab(grid)
    chosen = [grid.index((0, 0, 0))]
    nearest = np.full(len(grid), np.inf)
    while len(chosen) < count:
        distance = np.linalg.norm(seen - seen[:, chosen[-1] : chosen[-1] + 1], axis=2).min(axis=0)
        nearest = np.minimum(nearest, distance)
        chosen.append(int(nearest.argmax()))
    return tuple(grid[index] for index in chosen[:count])


def lab(colors: list[tuple[int, int, int]]) -> Float64Array:
    """CIELAB values of sRGB colours (0-255) as three eyes see them, float64 (3, N, 3)."""
    srgb = np.array(colors, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.stack([linear @ np.array(each).T for each in _DEFICIENCIES]), 0, 1)
    xyz = seen @ np.array(_TO_XYZ).T / np.array(_WHITE)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
