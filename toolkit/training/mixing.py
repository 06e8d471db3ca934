"""Training images made of two: CutMix within an image, MixUp over a step. Both are functions of seed and position."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fptk.core.dataset import UInt8Array
from fptk.recipes import Recipe
from fptk.training.augment import Warped
from fptk.training.seeds import Stream, generator

Box = tuple[int, int, int, int]
"""Rows top to bottom and columns left to right; the ends are exclusive."""


class Mixed(NamedTuple):
    """A sample ready for the training device, perhaps made of two."""

    sample: Warped
    """Image, labels and colour."""
    partner: UInt8Array
    """uint8 (H, W), labels of the image that was blended in; the sample's own where none was."""


def mixup_share(recipe: Recipe, step: int) -> float:
    """Share of the images' own pixels in global ``step``, 0.5-1; 1 where the step is not blended.

    The smaller share goes to the partner, so that colour, which is the image's own, fits most of the pixels.
    """
    section = recipe.mix
    if not section.mixup:
        return 1.0
    rng = generator(recipe.seed, Stream.MIXUP, step)
    if rng.random() >= section.mixup:
        return 1.0
    share = float(rng.beta(section.mixup_alpha, section.mixup_alpha))
    return max(share, 1 - share)


def blend(own: Warped, other: Warped, share: float) -> Mixed:
    """MixUp: ``share`` of one image and the rest of another; both label maps stay."""
    image = np.rint(share * own.image.astype(np.float32) + (1 - share) * other.image)
    return Mixed(own._replace(image=image.astype(np.uint8)), other.mask)


def paste(own: Warped, other: Warped, box: Box) -> Mixed:
    """CutMix: a rectangle of another image, in the same place, with its labels; the colour stays the image's own."""
    top, bottom, left, right = box
    image, mask = own.image.copy(), own.mask.copy()
    image[top:bottom, left:right] = other.image[top:bottom, left:right]
    mask[top:bottom, left:right] = other.mask[top:bottom, left:right]
    return Mixed(own._replace(image=image, mask=mask), mask)


def cutmix_box(size: tuple[int, int], rng: np.random.Generator, alpha: float) -> Box:
    """Rows top to bottom and columns left to right to paste.

    As in the paper, each side is sqrt(1 - share) of the image's, share ~ Beta(alpha, alpha); the centre lies anywhere,
    and what falls outside is cut off.
    """
    side = math.sqrt(1 - float(rng.beta(alpha, alpha)))
    edges: list[int] = []
    for length in size:
        center, half = rng.random() * length, side * length / 2
        edges += [max(0, round(center - half)), min(length, round(center + half))]
    top, bottom, left, right = edges
    return top, bottom, left, right
