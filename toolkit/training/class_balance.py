"""What the training images hold: for rare-class sampling, class weights and whitening."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.errors import InputError
from fptk.core.files import sha256_file
from fptk.data.folders import FolderDataset
from fptk.data.splits import innermost
from fptk.data.statistics import SampleStatistics, StatisticsCache, measure, pair_key
from fptk.recipes.schema import LossSection

Float64Array = npt.NDArray[np.float64]


def class_pixels(statistics: Sequence[SampleStatistics]) -> npt.NDArray[np.int64]:
    """Pixels of each class in each image, int64 (N, C)."""
    return np.stack([each.class_pixels for each in statistics])


def measure_all(
    dataset: FaceParsingDataset, read: Callable[[int], Sample], workers: int, cache: StatisticsCache | None = None
) -> list[SampleStatistics]:
    """Statistics of every image of a data set.

    Args:
        dataset: the images.
        read: the sample at an index; called from several threads.
        workers: threads.
        cache: where faces that were counted before are looked up by the content of their files, and new ones are kept;
            None to count all. Faces without files (drawn ones) are counted each time.

    Raises:
        InputError: a file is missing or damaged.
    """
    keys: list[str | None] = [None] * len(dataset)
    with ThreadPoolExecutor(workers) as pool:
        if cache is not None:
            keys = list(pool.map(lambda index: _key(dataset, index), range(len(dataset))))
        known = cache.get([key for key in keys if key is not None]) if cache is not None else {}

        def of_one(index: int) -> SampleStatistics:
            key = keys[index]
            return known[key] if key in known else measure(*read(index)[:2], dataset.classes)

        found = list(pool.map(of_one, range(len(dataset))))
    if cache is not None:
        new = {key: each for key, each in zip(keys, found, strict=True) if key is not None and key not in known}
        if new:
            cache.put(new)
    return found


def _key(dataset: FaceParsingDataset, index: int) -> str | None:
    member, inner = innermost(dataset, index)
    if not isinstance(member, FolderDataset):
        return None
    path = member.mask_path(inner)
    try:
        return pair_key(member.content_hash(inner), sha256_file(path), member.classes)
    except OSError as error:
        raise InputError(f"mask {path} cannot be read: {error.strerror}") from error


def repeat_factors(pixels: npt.NDArray[np.int64], threshold: float) -> Float64Array:
    """How often to draw each image relative to an image of common classes only.

    max over the classes c in the image of max(1, sqrt(threshold / f_c)), f_c = share of images that hold c (Gupta et
    al., LVIS, 2019).

    Args:
        pixels: int64 (N, C) of :func:`class_pixels`.
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
        pixels: int64 (N, C) of :func:`class_pixels`.

    Returns:
        float64 (C,), positive.
    """
    frequency = pixels.sum(axis=0) / pixels.sum()
    seen = frequency > 0
    weights = np.ones(len(frequency))
    weights[seen] = np.sqrt(np.median(frequency[seen]) / frequency[seen])
    return weights


def inverse_log_frequency(pixels: npt.NDArray[np.int64], eps: float) -> Float64Array:
    """Weight of each class, ``w_c = (1 / log(f_c + eps)) / sum_i (1 / log(f_i + eps))``, f = share of all pixels.

    The weights are positive and sum to 1 (equations 1-3 of the first paper). Mind the range of the logarithm:

    - eps small, as the formula reads: every log(f + eps) is negative, the signs cancel, and the class of *most* pixels
      weighs most, since 1 / |log f| grows with f. A class of half the pixels weighs 13 times one of f = 1e-4.
    - eps > 1: every logarithm is positive and the rarest class weighs most; with eps = 1.02 these are ENet's weights
      (Paszke et al., 2016), 35 times as much for f near 0 as for f near 1.
    - between, log(f + eps) crosses 0 among the classes: weights of both signs, which is refused.

    Args:
        pixels: int64 (N, C) of :func:`class_pixels`.
        eps: positive.

    Returns:
        float64 (C,).

    Raises:
        InputError: f + eps lies above 1 for some classes and below for others, or is 1.
    """
    shares = pixels.sum(axis=0) / pixels.sum()
    logs = np.log(shares + eps)
    if logs.min() <= 0 <= logs.max():
        raise InputError(
            f"loss.class_weight_eps={eps:g} makes log(f + eps) change its sign among classes whose shares f run from "
            f"{shares.min():.2g} to {shares.max():.2g}; choose less than {1 - shares.max():.2g}, or more than 1"
        )
    weights: Float64Array = (1 / logs) / (1 / logs).sum()
    return weights


def class_weights(section: LossSection, pixels: npt.NDArray[np.int64]) -> Float64Array:
    """Weights of the classes, float64 (C,), as the recipe's loss asks for them (not ``none``).

    Raises:
        InputError: see :func:`inverse_log_frequency`.
    """
    if section.class_weights == "sqrt_median_frequency":
        return sqrt_median_frequency(pixels)
    return inverse_log_frequency(pixels, section.class_weight_eps)
