"""Small pictures of labels and faces, as ``data:`` addresses that a page holds in itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fptk.core.classes import IGNORE, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import resize_labels

LONGEST_MAP, LONGEST_PHOTO, LONGEST_DIFFERENCE = 512, 320, 256
"""Pixels of the longer side, about at most."""

Color = tuple[int, int, int]

GROUND: Color = (32, 38, 45)
BORDER: Color = (92, 104, 117)
LOST: Color = (230, 159, 0)
WON: Color = (86, 180, 233)
OTHER: Color = (240, 228, 66)
"""Colors of a difference map, told apart by color-blind people too (Okabe and Ito, *Color Universal Design*)."""

_GROUND, _BORDER, _LOST, _WON, _OTHER = range(5)


def label_picture(labels: UInt8Array, classes: ClassSet) -> tuple[str, tuple[int, int]]:
    """A label map in the colors of its classes.

    Args:
        labels: uint8 (H, W); ignored pixels become white.
        classes: what they mean.

    Returns:
        The address, and width and height in pixels.
    """
    return _palette_png(_shrunk(labels), classes.flat_palette())


def difference_picture(
    candidate: UInt8Array, baseline: UInt8Array, truth: UInt8Array | None
) -> tuple[str, tuple[int, int]]:
    """Where two label maps differ, and with a truth which of them is right there.

    Args:
        candidate: uint8 (H, W), e.g. of the INT8 engine. A pixel of a shrunk picture shows any difference in it.
        baseline: the same of the FP32 engine; its class borders are drawn to show the face.
        truth: uint8 (H, W); nothing is shown where it is ignored. ``None`` shows every difference as :data:`LOST`.

    Returns:
        As :func:`label_picture`.
    """
    differs = (candidate != baseline) & (baseline != IGNORE)
    picture = np.where(_borders(baseline), _BORDER, _GROUND).astype(np.uint8)
    if truth is None:
        picture[differs] = _LOST
    else:
        differs &= truth != IGNORE
        picture[differs] = _OTHER
        picture[differs & (baseline == truth)] = _LOST
        picture[differs & (candidate == truth)] = _WON
    flat = [channel for color in (GROUND, BORDER, LOST, WON, OTHER) for channel in color]
    return _palette_png(_pooled(picture), flat)


def photograph(image: UInt8Array) -> tuple[str, tuple[int, int]]:
    """A photograph, uint8 (H, W, 3) RGB, as a small JPEG; returns as :func:`label_picture`."""
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_PHOTO, LONGEST_PHOTO))
    return _address(picture, "JPEG", quality=85), picture.size


def _borders(labels: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which pixels have another label than the one to the right or below."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def _shrunk(labels: UInt8Array) -> UInt8Array:
    """Brought to at most :data:`LONGEST_MAP` pixels by nearest neighbour."""
    height, width = labels.shape
    scale = min(1.0, LONGEST_MAP / max(height, width))
    return resize_labels(labels, (max(1, round(scale * height)), max(1, round(scale * width))))


def _pooled(picture: UInt8Array) -> UInt8Array:
    """Shrunk to about :data:`LONGEST_DIFFERENCE` pixels; each takes the highest value that it covers, so that a
    difference of one pixel is still to be seen."""
    step = max(1, round(max(picture.shape) / LONGEST_DIFFERENCE))
    height, width = (-(-side // step) for side in picture.shape)
    padded = np.zeros((height * step, width * step), np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    pooled: UInt8Array = padded.reshape(height, step, width, step).max(axis=(1, 3))
    return pooled


def _palette_png(indices: UInt8Array, flat: list[int]) -> tuple[str, tuple[int, int]]:
    picture = Image.fromarray(indices)
    picture.putpalette(flat)
    return _address(picture, "PNG", optimize=True), picture.size


def _address(picture: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
