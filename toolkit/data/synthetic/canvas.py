"""Anti-aliased painting of shapes given by distance fields, while the label of every pixel stays exact.

Arrays meet only the operations that IEEE 754 rounds correctly (+ - * / sqrt, min, max, floor): the same drawing gives
the same bytes on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fptk.core.dataset import UInt8Array

Choice = TypeVar("Choice")
FloatArray = npt.NDArray[Any]
"""Always float32. (Numpy's type stubs take float32 times a Python float for float64, so the type can't say it.)"""
Color = tuple[float, float, float]
"""Red, green, blue, each 0-1."""


class Dice:
    """Random choices that depend on ``(seed, index)`` alone.

    Numbers come in Python floats, drawn in blocks: the arithmetic is double precision everywhere.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
        self._numbers: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self._generator.random(256).tolist()
        return self._numbers.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.unit() < probability

    def pick(self, options: Sequence[Choice]) -> Choice:
        """One of ``options``, each as likely as the others."""
        return options[int(self.unit() * len(options))]

    def table(self, length: int) -> FloatArray:
        """``length`` numbers in [0, 1), float32."""
        return np.array([self.unit() for _ in range(length)], dtype=np.float32)


@dataclass(frozen=True)
class Patch:
    """A rectangle of the picture with the coordinates that a frame gives its pixel centres.

    Attributes:
        rows, cols: where it lies in the picture.
        p, q: float32 (h, w), the frame's coordinates: ``p`` to the right, ``q`` down.
        pixel: side of a pixel in the frame's units.
    """

    rows: slice
    cols: slice
    p: FloatArray
    q: FloatArray
    pixel: float


class Frame:
    """Coordinates of a part of the body: rotated, scaled and moved against the picture.

    Picture coordinates have their origin in the centre and 1 as the shorter side. The frame's origin lies at
    ``origin``, its unit is ``unit`` long, and ``sine`` is that of its clockwise rotation.
    """

    def __init__(self, size: tuple[int, int], origin: tuple[float, float], unit: float, sine: float) -> None:
        self.origin, self.unit, self.sine = origin, unit, sine
        self.cosine = math.sqrt(1 - sine * sine)
        self._size = size
        self._side = min(size)
        height, width = size
        x = ((np.arange(width) + 0.5 - width / 2) / self._side - origin[0]) / unit
        y = ((np.arange(height) + 0.5 - height / 2) / self._side - origin[1]) / unit
        self._p_of_x = (self.cosine * x).astype(np.float32)[None, :]
        self._p_of_y = (self.sine * y).astype(np.float32)[:, None]
        self._q_of_x = (-self.sine * x).astype(np.float32)[None, :]
        self._q_of_y = (self.cosine * y).astype(np.float32)[:, None]

    def to_picture(self, p: float, q: float) -> tuple[float, float]:
        """Picture coordinates of the frame's point ``(p, q)``."""
        x = self.origin[0] + self.unit * (self.cosine * p - self.sine * q)
        y = self.origin[1] + self.unit * (self.sine * p + self.cosine * q)
        return x, y

    def box(self, p0: float, q0: float, p1: float, q1: float) -> Patch:
        """The patch that holds the frame's rectangle from ``(p0, q0)`` to ``(p1, q1)``; empty outside the picture."""
        corners = [self.to_picture(p, q) for p in (p0, p1) for q in (q0, q1)]
        cols = _pixels([x for x, _ in corners], self._side, self._size[1])
        rows = _pixels([y for _, y in corners], self._side, self._size[0])
        p = self._p_of_x[:, cols] + self._p_of_y[rows]
        q = self._q_of_x[:, cols] + self._q_of_y[rows]
        return Patch(rows, cols, p, q, 1 / (self._side * self.unit))

    def disc(self, p: float, q: float, radius: float) -> Patch:
        """The patch around ``(p, q)`` that reaches ``radius`` to every side."""
        return self.box(p - radius, q - radius, p + radius, q + radius)


def _pixels(coordinates: list[float], side: int, length: int) -> slice:
    first = math.floor(min(coordinates) * side + length / 2) - 1
    last = math.ceil(max(coordinates) * side + length / 2) + 1
    return slice(min(max(first, 0), length), min(max(last, 0), length))


class Canvas:
    """The picture under work: float32 (3, H, W) ``image``, 0-1, and uint8 (H, W) ``labels``."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.image: FloatArray = np.zeros((3, *size), dtype=np.float32)
        self.labels: UInt8Array = np.zeros(size, dtype=np.uint8)

    def paint(self, patch: Patch, distance: FloatArray, color: Color | FloatArray, label: int) -> None:
        """Cover the inside of a shape (``distance`` < 0, float32 (h, w)) with an opaque colour and its label.

        ``color`` is one for all or float32 (3, h, w).
        """
        self.tint(patch, coverage(patch, distance), color)
        self.labels[patch.rows, patch.cols][distance < 0] = label

    def tint(self, patch: Patch, weight: FloatArray, color: Color | FloatArray) -> None:
        """Mix ``color`` in by ``weight`` (0-1, float32 (h, w)); labels stay."""
        region = self.image[:, patch.rows, patch.cols]
        region += weight * (_planes(color) - region)

    def shade(self, patch: Patch, factor: FloatArray) -> None:
        """Multiply the picture by ``factor``, float32 (h, w); labels stay."""
        self.image[:, patch.rows, patch.cols] *= factor

    def cast(self, patch: Patch, distance: FloatArray, strength: float, reach: float) -> None:
        """Throw the soft shadow of a shape on the person around it, ``reach`` wide; the background stays."""
        near = np.minimum(np.maximum(distance * (1 / reach), 0), 1)
        self.shade(patch, 1 - hump(near) * (self.labels[patch.rows, patch.cols] > 0) * np.float32(strength))


def _planes(color: Color | FloatArray) -> FloatArray:
    if isinstance(color, tuple):
        return np.array(color, dtype=np.float32)[:, None, None]
    return color


def coverage(patch: Patch, distance: FloatArray) -> FloatArray:
    """Share of each pixel that lies inside a shape, 0-1: over one half exactly where ``distance`` < 0."""
    return np.minimum(np.maximum(0.5 - distance * (1 / patch.pixel), 0), 1)


def mix(first: Color, second: Color, share: float) -> Color:
    """``first`` with a ``share`` (0-1) of ``second``."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def scale(color: Color, factor: float) -> Color:
    """``color`` made darker or lighter, at most white."""
    red, green, blue = (min(channel * factor, 1.0) for channel in color)
    return red, green, blue


def ramp(dark: Color, light: Color, tone: FloatArray) -> FloatArray:
    """Colours from ``dark`` (tone 0) to ``light`` (tone 1): float32 (3, h, w) of ``tone`` (h, w)."""
    colors: FloatArray = _planes(dark) + tone * (_planes(light) - _planes(dark))
    return colors


def squircle(patch: Patch, center: tuple[float, float], half: tuple[float, float], square: float = 0.0) -> FloatArray:
    """Signed distance, to first order, of an ellipse that ``square`` (0 to below 1) turns into a rounded rectangle."""
    x, y = (patch.p - center[0]) * (1 / half[0]), (patch.q - center[1]) * (1 / half[1])
    return squircle_of(x, y, half, square)


def squircle_of(x: FloatArray, y: FloatArray, half: tuple[float, float], square: float = 0.0) -> FloatArray:
    """:func:`squircle` of coordinates that are already centred and divided by ``half``.

    Fernández-Guasti's curve x² + y² - s x² y² = 1; its level divided by the length of its gradient.
    """
    xx, yy = x * x, y * y
    if square:
        cx, cy = np.minimum(xx, 1) * square, np.minimum(yy, 1) * square
        level = xx + yy - cx * np.minimum(yy, 1) - 1
        slope_x, slope_y = x * (1 - cy) * (2 / half[0]), y * (1 - cx) * (2 / half[1])
    else:
        level = xx + yy - 1
        slope_x, slope_y = x * (2 / half[0]), y * (2 / half[1])
    distance: FloatArray = level / np.sqrt(slope_x * slope_x + slope_y * slope_y + np.float32(1e-3))
    return distance


def capsule(patch: Patch, start: tuple[float, float], end: tuple[float, float], radius: float) -> FloatArray:
    """Signed distance of a line from ``start`` to ``end`` with round ends."""
    along = (end[0] - start[0], end[1] - start[1])
    scaling = 1 / (along[0] * along[0] + along[1] * along[1])
    x, y = patch.p - start[0], patch.q - start[1]
    share = np.minimum(np.maximum((x * along[0] + y * along[1]) * scaling, 0), 1)
    x, y = x - share * along[0], y - share * along[1]
    distance: FloatArray = np.sqrt(x * x + y * y) - np.float32(radius)
    return distance


def smooth_min(first: FloatArray, second: FloatArray, blend: float) -> FloatArray:
    """Union of two shapes whose meeting is rounded over ``blend``."""
    near = np.maximum(blend - np.abs(first - second), 0)
    union: FloatArray = np.minimum(first, second) - near * near * (0.25 / blend)
    return union


def bump(patch: Patch, center: tuple[float, float], half: tuple[float, float]) -> FloatArray:
    """A soft spot: 1 in the centre, 0 from the ellipse ``half`` on."""
    x, y = (patch.p - center[0]) * (1 / half[0]), (patch.q - center[1]) * (1 / half[1])
    return hump(x * x + y * y)


def hump(square: FloatArray) -> FloatArray:
    """``(1 - square)²`` up to 1 and 0 beyond: a soft spot of a squared distance."""
    rest = np.maximum(1 - square, 0)
    height: FloatArray = rest * rest
    return height


def wave(x: FloatArray) -> FloatArray:
    """A smooth wave of period 1 between -1 and 1 (parabolas in place of a sine)."""
    turn = (x - np.floor(x)) * 2 - 1
    height: FloatArray = turn * (1 - np.abs(turn)) * 4
    return height


def noise_1d(x: FloatArray, table: FloatArray) -> FloatArray:
    """Random values of ``table`` (its length a power of two), one per unit of ``x``, joined by straight lines."""
    cell = np.floor(x)
    place = cell.astype(np.int32)
    left = table[place & (len(table) - 1)]
    value: FloatArray = left + (x - cell) * (table[(place + 1) & (len(table) - 1)] - left)
    return value


def noise_2d(x: FloatArray, y: FloatArray, table: FloatArray) -> FloatArray:
    """Smooth random field: values of ``table`` (256 of them) on the whole numbers of ``x`` and ``y``."""
    cell_x, cell_y = np.floor(x), np.floor(y)
    share_x, share_y = x - cell_x, y - cell_y
    share_x, share_y = share_x * share_x * (3 - 2 * share_x), share_y * share_y * (3 - 2 * share_y)
    column, row = cell_x.astype(np.int32), cell_y.astype(np.int32) * 37
    corners = [table[(column + right + row + below) & 255] for below in (0, 37) for right in (0, 1)]
    top = corners[0] + share_x * (corners[1] - corners[0])
    bottom = corners[2] + share_x * (corners[3] - corners[2])
    value: FloatArray = top + share_y * (bottom - top)
    return value
