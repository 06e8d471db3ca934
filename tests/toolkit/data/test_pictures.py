"""Pictures: what stands where in a sheet, which images it shows, and what a saved map says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fptk.core.classes import CELEBAMASK, NUM_CLASSES
from fptk.core.dataset import Sample, UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate, predictions
from fptk.core.files import drawn_by
from fptk.core.masks import read_mask
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.session import Session
from fptk.data.pictures import choose, color_mask, comparison_sheet, contact_sheet, overlay, save_labels
from fptk.data.synthetic.faces import SyntheticFaces


class AllSkin(Session):
    """Sees skin everywhere."""

    def __init__(self) -> None:
        super().__init__("skin", PreprocessSpec(size=(64, 64)))

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return np.ones(images.shape[:3], np.uint8)


class _Uneven:
    """Two samples of different size."""

    name = "uneven"

    classes = CELEBAMASK

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        side = 16 * (index + 1)
        return Sample(np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8), f"s{index}")

    def content_hash(self, index: int) -> str:
        return str(index)


def test_contact_sheet_pairs_images_with_colored_masks() -> None:
    dataset = SyntheticFaces(3, size=(24, 32))
    sheet = contact_sheet(dataset, columns=2, rows=2)
    assert sheet.shape == (96, 64, 3)
    third = dataset[2]
    np.testing.assert_array_equal(sheet[48:72, :32], third.image)
    np.testing.assert_array_equal(sheet[72:, :32], color_mask(third.mask, CELEBAMASK))
    assert (sheet[48:, 32:] == 255).all()


def test_color_mask_uses_the_palette() -> None:
    labels = np.arange(NUM_CLASSES, dtype=np.uint8).reshape(1, -1)
    assert [tuple(color) for color in color_mask(labels, CELEBAMASK)[0].tolist()] == list(CELEBAMASK.palette)


def test_contact_sheet_refuses_uneven_images_and_empty_sheets() -> None:
    with pytest.raises(InputError, match="s1 of uneven is 32x32"):
        contact_sheet(_Uneven(), 2, 1)
    with pytest.raises(InputError, match="0 samples"):
        contact_sheet(SyntheticFaces(0), 2, 1)


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
    assert np.array_equal(sheet[:256, :256], color_mask(resize_labels(faces[2].mask, (256, 256)), CELEBAMASK))
    assert np.array_equal(
        sheet[256:512], np.broadcast_to(color_mask(np.ones((1, 1), np.uint8), CELEBAMASK), (256, 512, 3))
    )
    assert (sheet[512:, 256:] == 255).all()


def test_the_scores_of_single_images_average_to_the_challenge_score() -> None:
    matrix = ConfusionMatrix()
    faces = SyntheticFaces(4, (64, 64))
    values = [matrix.add(sample.mask, labels) for sample, labels in predictions(AllSkin(), faces, batch=3)]
    assert len(values) == 4
    assert np.mean(values) == pytest.approx(evaluate(AllSkin(), faces).f1_challenge, abs=1e-12)


def test_an_overlay_tints_all_but_the_background() -> None:
    photograph = np.full((2, 1, 3), 100, np.uint8)
    tinted = overlay(photograph, np.array([[0], [1]], np.uint8), CELEBAMASK)
    assert tinted[0, 0].tolist() == [100, 100, 100]
    assert tinted[1, 0].tolist() == [round((100 + channel) / 2) for channel in CELEBAMASK.palette[1]]


def test_a_saved_label_map_reads_back_and_names_its_command(tmp_path: Path) -> None:
    labels = np.arange(NUM_CLASSES, dtype=np.uint8)[None]
    path = tmp_path / "labels.png"
    save_labels(labels, path, command="predict")
    assert np.array_equal(read_mask(path), labels)
    assert drawn_by(path, "predict")
    assert not drawn_by(path, "eval")
