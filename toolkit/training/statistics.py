"""How often each class occurs in the training images, for rare-class sampling and class weights."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from fptk.classes import NUM_CLASSES
from fptk.dataset import Sample

Float64Array = npt.NDArray[np.float64]


def class_pixels(read: Callable[[int], Sample], count: int, workers: int) -> npt.NDArray[np.int64]:
    """Pixels of each class in each image.

    Args:
        read: the sample at an index; called from several threads.
        count: number of samples.
        workers: threads.

    Returns:
        int64 (count, 19).
    """

    def count_one(index: int) -> npt.NDArray[np.int64]:
        return np.bincount(read(index).mask.ravel(), minlength=NUM_CLASSES)

    with ThreadPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(count_one, range(count))))


def repeat_factors(pixels: npt.NDArray[np.int64], threshold: float) -> Float64Array:
    """How often to draw each image relative to an image of common classes only.

    max over the classes c in the image of max(1, sqrt(threshold / f_c)), f_c = share of images that hold c (Gupta et
    al., LVIS, 2019).

    Args:
        pixels: int64 (N, 19) of :func:`class_pixels`.
        threshold: share below which a class counts as rare.

    Returns:
        float64 (N,), each at least 1.
    """
    present = pixels > 0
    share = np.maximum(present.mean(axis=0), 1 / len(pixels))
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    factors: Float64Array = np.where(present, factor, 1.0).max(axis=1)
    return factors


def sqrt_median_frequency(pixels: npt.NDArray[np.int64]) -> Float64Array:
    """Weight of each class, sqrt(median frequency / frequency) over the classes that occur, 1 for the others.

    Args:
        pixels: int64 (N, 19) of :func:`class_pixels`.

    Returns:
        float64 (19,), positive.
    """
    frequency = pixels.sum(axis=0) / pixels.sum()
    seen = frequency > 0
    weights = np.ones(len(frequency))
    weights[seen] = np.sqrt(np.median(frequency[seen]) / frequency[seen])
    return weights
