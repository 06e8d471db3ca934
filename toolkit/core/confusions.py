"""What a session gets wrong: which classes it takes for which, and how far from a border of classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.core.classes import CELEBAMASK, IGNORE, ClassSet
from fptk.core.dataset import UInt8Array

WIDTHS = (1, 2, 4, 8, 16)
"""Pixels from a border of the true classes within which errors are counted."""


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class that were taken for another."""

    truth: str
    prediction: str
    pixels: int
    share: float
    """Of all wrong pixels, 0-1."""
    share_of_class: float
    """Of the true class's pixels, 0-1."""


@dataclass(frozen=True)
class Band:
    """Pixels that lie near a border of the true classes."""

    width: int
    """They have another label within so many pixels, in rows and columns."""
    share_of_pixels: float
    """Of all pixels, 0-1."""
    share_of_errors: float
    """Of all wrong pixels, 0-1."""


@dataclass(frozen=True)
class ErrorReport:
    """What is wrong, over all images that were added."""

    wrong: float
    """Share of all pixels, 0-1."""
    confusions: list[Confusion]
    """The largest first."""
    bands: list[Band]
    """The narrowest first; each holds the ones before."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, ready for JSON."""
        return asdict(self)


class BorderCount:
    """Counts pixels near borders, and the wrong ones among them, image by image.

    Ignored pixels are counted nowhere and make no border.

    Args:
        classes: what the labels mean.
    """

    def __init__(self, classes: ClassSet = CELEBAMASK) -> None:
        self._classes = classes
        self._near: npt.NDArray[np.int64] = np.zeros((len(WIDTHS), 2), np.int64)

    def add(self, truth: UInt8Array, prediction: UInt8Array) -> None:
        """Count one image.

        Args:
            truth: uint8 (H, W), labels of the class list, or :data:`fptk.core.classes.IGNORE`.
            prediction: uint8 (H, W), labels of the class list.
        """
        counted = truth != IGNORE
        wrong = truth != prediction
        for index, near in enumerate(_near_borders(truth, counted)):
            self._near[index] += (near & counted).sum(), (near & counted & wrong).sum()

    def report(self, counts: npt.NDArray[np.int64], largest: int = 12) -> ErrorReport:
        """Reduce the counts.

        Args:
            counts: of the same images, int64 (C, C), see :class:`fptk.core.metrics.ConfusionMatrix`.
            largest: how many confusions to name.

        Raises:
            ValueError: nothing was added.
        """
        total = int(counts.sum())
        if not total:
            raise ValueError("no image was added")
        names = self._classes.names
        errors = counts * (1 - np.eye(len(names), dtype=np.int64))
        wrong, of_class = int(errors.sum()), counts.sum(axis=1)
        order = [divmod(int(at), len(names)) for at in np.argsort(-errors, axis=None, kind="stable")[:largest]]
        return ErrorReport(
            wrong=wrong / total,
            confusions=[
                Confusion(names[t], names[p], int(errors[t, p]), errors[t, p] / wrong, errors[t, p] / of_class[t])
                for t, p in order
                if errors[t, p]
            ],
            bands=[
                Band(width, int(pixels) / total, int(bad) / wrong if wrong else 0.0)
                for width, (pixels, bad) in zip(WIDTHS, self._near, strict=True)
            ],
        )


def _near_borders(labels: UInt8Array, counted: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """For each of :data:`WIDTHS`, which pixels have two labels within so many pixels (a square window).

    Pixels that don't count stand as the highest label among the lowest and as the lowest among the highest.
    """
    highest, lowest, result = np.where(counted, labels, 0).astype(np.uint8), labels, []
    for width in range(1, WIDTHS[-1] + 1):
        for axis in (0, 1):
            highest, lowest = _spread(highest, axis, np.maximum), _spread(lowest, axis, np.minimum)
        if width in WIDTHS:
            result.append(highest > lowest)
    return result


def _spread(labels: UInt8Array, axis: int, pick: np.ufunc) -> UInt8Array:
    """Each pixel's ``pick`` among itself and its two neighbours along ``axis``."""
    result = labels.copy()
    ahead, behind = ([slice(None), slice(None)] for _ in range(2))
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    for to, source in ((behind, ahead), (ahead, behind)):
        place = result[tuple(to)]
        pick(place, labels[tuple(source)], out=place)
    return result
