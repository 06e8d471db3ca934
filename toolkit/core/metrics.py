"""Segmentation metrics: statistics are counted once, in a confusion matrix, and reduced many ways.

Three F-scores are in circulation for face parsing, and they differ by several points on the same predictions, so
each has a name of its own here (see :class:`Scores`).

Absent classes: a class that occurs neither in the truth nor in the predictions of the whole set has no IoU and no F1
(0/0); it is ``None`` per class and left out of every mean. A class that is predicted but never true scores 0
and counts.

Ignored pixels, those whose truth is :data:`fptk.core.classes.IGNORE`, count nowhere, whatever was predicted there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.core.classes import CELEBAMASK, IGNORE, ClassSet
from fptk.core.dataset import UInt8Array

MEANS = ("miou", "f1", "f1_challenge", "f1_nobg", "pixel_accuracy")
"""Fields of :class:`Scores` that are one number for the whole set, 0-1."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class over the whole set; ``None`` where the class occurs in neither truth nor prediction."""

    iou: float | None
    """tp / (tp + fp + fn), 0-1."""
    f1: float | None
    """2 tp / (2 tp + fp + fn), 0-1."""
    pixels: int
    """Pixels of the class in the truth."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one session on one data set, all fractions of 1."""

    miou: float
    """Mean of the IoU of the classes that occur, from one confusion matrix of the whole set."""
    f1: float
    """Macro F1: mean of the F1 of the classes that occur, from the same matrix."""
    f1_challenge: float
    """Per image the mean F1 over the classes present in that image's truth, then the mean over images (CE7454)."""
    f1_nobg: float
    """``f1`` without the first class, which is the background."""
    pixel_accuracy: float
    """Share of pixels whose label is right."""
    per_class: dict[str, ClassScore]
    """Scores by class name, in class order."""
    images: int
    """Number of images scored."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, ready for JSON."""
        from dataclasses import asdict

        return asdict(self)


class ConfusionMatrix:
    """Counts of (true class, predicted class) over a set of label maps, added image by image.

    Args:
        classes: what the labels mean.
        keep_images: whether to keep the counts of each image.

    Attributes:
        counts: int64 (C, C); row = truth, column = prediction.
        images: those of each image where they are kept, or None.
    """

    def __init__(self, classes: ClassSet = CELEBAMASK, *, keep_images: bool = False) -> None:
        self.classes = classes
        self.images: list[npt.NDArray[np.int64]] | None = [] if keep_images else None
        self.counts: npt.NDArray[np.int64] = np.zeros((len(classes), len(classes)), np.int64)
        self._added = 0
        self._image_f1: list[float] = []

    def add(self, truth: UInt8Array, prediction: UInt8Array) -> float:
        """Count one image.

        Args:
            truth: uint8 (H, W), labels of the class list, or :data:`fptk.core.classes.IGNORE`.
            prediction: uint8 (H, W), labels of the class list.

        Returns:
            The image's own mean F1 over the classes in its truth, 0-1: what ``f1_challenge`` is the mean of. 1 for an
            image whose pixels are all ignored, which is left out of that mean.

        Raises:
            ValueError: the shapes differ or a label is out of range.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
        n = len(self.classes)
        if int(truth.max(initial=0)) == IGNORE:
            counted = truth != IGNORE
            truth, prediction = truth[counted], prediction[counted]
        if max(int(truth.max(initial=0)), int(prediction.max(initial=0))) >= n:
            raise ValueError(f"labels must be below {n}")
        pairs = truth.ravel().astype(np.int32) * n + prediction.ravel()
        counts = np.bincount(pairs, minlength=n * n).reshape(n, n)
        self.counts += counts
        self._added += 1
        if self.images is not None:
            self.images.append(counts)
        f1, present = f1_of(counts), counts.sum(axis=1) > 0
        if not present.any():
            return 1.0
        self._image_f1.append(float(f1[present].mean()))
        return self._image_f1[-1]

    def scores(self) -> Scores:
        """Reduce the counts.

        Raises:
            ValueError: nothing was added.
        """
        if not self._added:
            raise ValueError("no image was added to the confusion matrix")
        iou, f1 = iou_of(self.counts), f1_of(self.counts)
        pixels = self.counts.sum(axis=1)
        return Scores(
            miou=_mean(iou),
            f1=_mean(f1),
            f1_challenge=float(np.mean(self._image_f1)) if self._image_f1 else 0.0,
            f1_nobg=_mean(f1[1:]),
            pixel_accuracy=float(np.trace(self.counts) / max(1, self.counts.sum())),
            per_class={
                name: ClassScore(iou=_or_none(iou[i]), f1=_or_none(f1[i]), pixels=int(pixels[i]))
                for i, name in enumerate(self.classes.names)
            },
            images=self._added,
        )


def iou_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU of each class, float64 (..., C), of counts (..., C, C); NaN where neither truth nor prediction has it."""
    tp = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(tp, counts.sum(axis=-2) + counts.sum(axis=-1) - tp)


def f1_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """F1 of each class; see :func:`iou_of`."""
    tp = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(2 * tp, counts.sum(axis=-2) + counts.sum(axis=-1))


def _ratio(top: npt.NDArray[np.int64], bottom: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """top / bottom, NaN where bottom is 0."""
    ratio = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of what is not NaN; 0 where nothing is left (an image set of background only has no ``f1_nobg``)."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else 0.0


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
