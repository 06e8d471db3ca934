"""How far scores would move with other images of the same kind: the percentile bootstrap over images.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: draw as many images as there are, with
replacement, score them, and repeat; 95 of 100 of those scores lie in the interval. Images are drawn whole, because
pixels of one image say the same thing many times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.metrics import f1_of, iou_of

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Where :data:`LEVEL` of the drawn scores lie, 0-1."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassInterval:
    """One class."""

    images: int
    """Images whose truth shows it."""
    f1: Interval | None
    """None where it occurs in neither truth nor prediction."""


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores of one session on one data set; the names are those of ``fptk.core.metrics.Scores``."""

    rounds: int
    miou: Interval
    f1: Interval
    f1_challenge: Interval
    per_class: dict[str, ClassInterval]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, ready for JSON."""
        return asdict(self)


def bootstrap(
    counts: Sequence[npt.NDArray[np.int64]], rounds: int, seed: int = 0, classes: ClassSet = CELEBAMASK
) -> Intervals:
    """Intervals of a data set's scores.

    Args:
        counts: of each image, int64 (C, C), row = truth, column = prediction; at least one.
        rounds: how often to draw.
        seed: of the draws.
        classes: what the labels mean.
    """
    images = np.stack(counts)
    count, size, _ = images.shape
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    sums = (draws @ images.reshape(count, -1)).reshape(rounds, size, size)
    with np.errstate(invalid="ignore"):
        f1, iou = f1_of(sums), iou_of(sums)
        own = f1_of(images)
        present = images.sum(axis=2) > 0
        challenge = np.nanmean(np.where(present, own, np.nan), axis=1)
    return Intervals(
        rounds=rounds,
        miou=_interval(np.nanmean(iou, axis=1)),
        f1=_interval(np.nanmean(f1, axis=1)),
        f1_challenge=_interval(draws @ challenge / count),
        per_class={
            name: ClassInterval(int(present[:, index].sum()), _interval(f1[:, index]) if _occurs(f1, index) else None)
            for index, name in enumerate(classes.names)
        },
    )


def _occurs(f1: npt.NDArray[np.float64], index: int) -> bool:
    return not bool(np.isnan(f1[:, index]).all())


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.nanpercentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(float(low), float(high))
