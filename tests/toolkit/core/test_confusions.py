"""What a session gets wrong."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.core.confusions import WIDTHS, BorderCount, ErrorReport
from fptk.core.metrics import ConfusionMatrix


def halves() -> np.ndarray:
    """Skin on the left, hair on the right, 40x80; the border lies between columns 39 and 40."""
    truth = np.ones((40, 80), np.uint8)
    truth[:, 40:] = 13
    return truth


def report_of(*pairs: tuple[np.ndarray, np.ndarray]) -> ErrorReport:
    """Of truths and predictions."""
    matrix, borders = ConfusionMatrix(), BorderCount()
    for truth, found in pairs:
        matrix.add(truth, found)
        borders.add(truth, found)
    return borders.report(matrix.counts)


def test_confusions_are_named_with_their_shares() -> None:
    truth, found = halves(), halves()
    found[:, 40:46] = 1  # 240 of 1,600 pixels of hair taken for skin
    found[:20, 0:4] = 17  # 80 of 1,600 pixels of skin taken for neck
    report = report_of((truth, found))
    assert report.wrong == 320 / 3200
    first, second = report.confusions
    assert (first.truth, first.prediction, first.pixels, first.share, first.share_of_class) == (
        "hair",
        "skin",
        240,
        0.75,
        0.15,
    )
    assert (second.truth, second.prediction, second.pixels) == ("skin", "neck", 80)


def test_bands_hold_the_pixels_within_their_width_of_a_border() -> None:
    truth, found = halves(), halves()
    found[:, 40:46] = 1
    found[:20, 0:4] = 17
    bands = report_of((truth, found)).bands
    assert [band.width for band in bands] == list(WIDTHS)
    assert [band.share_of_pixels for band in bands] == [2 * width * 40 / 3200 for width in WIDTHS]
    assert [band.share_of_errors for band in bands] == [min(6, width) * 40 / 320 for width in WIDTHS]


def test_nothing_wrong_and_nothing_added() -> None:
    with pytest.raises(ValueError, match="no image"):
        report_of()
    report = report_of((halves(), halves()))
    assert (report.wrong, report.confusions) == (0, [])
    assert {band.share_of_errors for band in report.bands} == {0}
