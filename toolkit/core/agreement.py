"""How far two sets of label maps agree: what an engine computes, held against its FP32 reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.metrics import ConfusionMatrix


class LabelAgreement(BaseModel):
    """Label maps beside those of the reference. No truth is needed: the reference is what was to be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: float = Field(ge=0, le=1)
    """Share of all pixels that have the reference's label, 0-1."""
    images: tuple[float, ...]
    """The same share of each image."""
    classes: dict[str, float]
    """IoU of each class that occurs in either, 0-1: its pixels here and those of the reference."""
    class_pixels: dict[str, int]
    """Pixels that the reference gives each of these classes."""


def compare_labels(
    labels: Sequence[UInt8Array], reference: Sequence[UInt8Array], classes: ClassSet = CELEBAMASK
) -> LabelAgreement:
    """Hold label maps against those of the reference.

    Args:
        labels: uint8 (H, W) each, at least one; sizes may differ from image to image.
        reference: as many, each of the same size as its counterpart.
        classes: what the labels mean.

    Raises:
        ValueError: a size differs or a label is out of range (a bug of the caller, not of the user).
    """
    matrix, images = ConfusionMatrix(classes), []
    for found, expected in zip(labels, reference, strict=True):
        matrix.add(expected, found)
        images.append(float((found == expected).mean()))
    counts = matrix.counts
    scores = matrix.scores().per_class
    occur = {name: score for name in classes.names if (score := scores[name]).iou is not None}
    return LabelAgreement(
        pixels=float(np.trace(counts) / counts.sum()),
        images=tuple(images),
        classes={name: score.iou for name, score in occur.items() if score.iou is not None},
        class_pixels={name: score.pixels for name, score in occur.items()},
    )
