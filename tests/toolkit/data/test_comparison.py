"""Sheets of true and predicted maps: which images are chosen, and what stands where."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.core.dataset import UInt8Array
from fptk.core.evaluation import evaluate, predictions
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.session import Session
from fptk.data.comparison import choose, comparison_sheet
from fptk.data.pictures import color_mask
from fptk.data.synthetic.faces import SyntheticFaces


class AllSkin(Session):
    """Sees skin everywhere."""

    def __init__(self) -> None:
        super().__init__("skin", PreprocessSpec(size=(64, 64)))

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return np.ones(images.shape[:3], np.uint8)


@pytest.mark.parametrize(
    ("choice", "count", "expected"),
    [("worst", 2, [3, 1]), ("even", 3, [3, 4, 0]), ("worst", 9, [3, 1, 4, 2, 0])],
)
def test_choose(choice: str, count: int, expected: list[int]) -> None:
    assert choose([0.9, 0.2, 0.7, 0.1, 0.5], count, choice) == expected  # type: ignore[arg-type]


def test_sheet_shows_the_truth_over_the_prediction() -> None:
    faces = SyntheticFaces(3, (64, 64))
    sheet, keys = comparison_sheet(AllSkin(), faces, [2, 0, 1], columns=2)
    assert sheet.shape == (4 * 256, 2 * 256, 3)
    assert keys == [faces[index].key for index in (2, 0, 1)]
    assert np.array_equal(sheet[:256, :256], color_mask(resize_labels(faces[2].mask, (256, 256))))
    assert np.array_equal(sheet[256:512], np.broadcast_to(color_mask(np.ones((1, 1), np.uint8)), (256, 512, 3)))
    assert (sheet[512:, 256:] == 255).all()


def test_the_scores_of_single_images_average_to_the_challenge_score() -> None:
    matrix = ConfusionMatrix()
    faces = SyntheticFaces(4, (64, 64))
    values = [matrix.add(sample.mask, labels) for sample, labels in predictions(AllSkin(), faces, batch=3)]
    assert len(values) == 4
    assert np.mean(values) == pytest.approx(evaluate(AllSkin(), faces).f1_challenge, abs=1e-12)
