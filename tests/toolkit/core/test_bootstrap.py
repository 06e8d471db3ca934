"""Intervals of scores over the choice of images."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.core.bootstrap import bootstrap
from fptk.core.metrics import ConfusionMatrix


def images(count: int, right: float, seed: int = 0) -> ConfusionMatrix:
    """Label maps of skin and hair, each pixel right with a probability of its image's own about ``right``."""
    rng = np.random.default_rng(seed)
    matrix = ConfusionMatrix(keep_images=True)
    for _ in range(count):
        truth = rng.choice([1, 13], (20, 20)).astype(np.uint8)
        wrong = rng.random((20, 20)) > np.clip(right + 0.1 * rng.standard_normal(), 0, 1)
        matrix.add(truth, np.where(wrong, 14 - truth, truth).astype(np.uint8))
    return matrix


def test_intervals_hold_the_scores_and_shrink_with_the_square_root_of_the_images() -> None:
    widths = []
    for count in (25, 400):
        matrix = images(count, 0.8)
        assert matrix.images is not None
        found, scores = bootstrap(matrix.images, 1000), matrix.scores()
        for name in ("miou", "f1", "f1_challenge"):
            interval = getattr(found, name)
            assert interval.low < getattr(scores, name) < interval.high, name
        widths.append(found.f1.high - found.f1.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth = images(20_000, 0.8, seed=1).scores().f1
    found = [bootstrap(images(40, 0.8, seed).images or [], 300).f1 for seed in range(100, 300)]
    share = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.88 <= share <= 0.99


def test_classes_say_how_many_images_show_them() -> None:
    matrix = images(10, 0.9)
    matrix.add(np.full((20, 20), 14, np.uint8), np.full((20, 20), 14, np.uint8))
    found = bootstrap(matrix.images or [], 200, seed=3)
    assert {name: entry.images for name, entry in found.per_class.items() if entry.images} == {
        "skin": 10,
        "hair": 10,
        "hat": 1,
    }
    assert found.per_class["nose"].f1 is None
    assert found == bootstrap(matrix.images or [], 200, seed=3)


def test_images_are_kept_only_where_asked() -> None:
    matrix = ConfusionMatrix()
    matrix.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert matrix.images is None
