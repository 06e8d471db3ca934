"""Pictures of what a session gets right and wrong: true and predicted label maps side by side, without photographs.

The photographs of research data sets may not be passed on; colour maps of their labels show the same mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array
from fptk.core.preprocess import resize_labels
from fptk.core.session import Session
from fptk.data.pictures import color_mask, contact_sheet
from fptk.data.splits import Subset, evenly_spaced, key_of

Choice = Literal["even", "worst"]

SHEET_SIZE = (256, 256)
"""Height and width of one map in a sheet."""


class Comparison:
    """A data set of the same faces whose image is the true label map in colours, and whose mask is the predicted one.

    Args:
        session: any engine.
        dataset: faces with their true masks.
        size: height and width that all maps are brought to, by nearest neighbour.
    """

    def __init__(self, session: Session, dataset: FaceParsingDataset, size: tuple[int, int] = SHEET_SIZE) -> None:
        self.name = f"{session.name} on {dataset.name}"
        self._session, self._dataset, self._size = session, dataset, size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        """True colours, uint8 (H, W, 3), and predicted labels, uint8 (H, W)."""
        sample = self._dataset[index]
        labels = self._session(self._session.spec.apply(sample.image)[None])[0]
        truth, prediction = (resize_labels(each, self._size) for each in (sample.mask, labels))
        return Sample(color_mask(truth), prediction, sample.key)

    def content_hash(self, index: int) -> str:
        """That of the face."""
        return self._dataset.content_hash(index)


def choose(scores: Sequence[float], count: int, choice: Choice) -> list[int]:
    """Indices of ``count`` images: those of the lowest scores, lowest first, or evenly spaced over the order of scores.

    Args:
        scores: one per image, as of :func:`fptk.core.evaluation.evaluate`'s ``on_score``.
        count: at least 1; all images where there are no more.
        choice: ``worst``, or ``even`` for a fair sample from the worst to the best.
    """
    order = np.argsort(np.asarray(scores), kind="stable")
    count = min(count, len(order))
    places = range(count) if choice == "worst" else evenly_spaced(len(order), count)
    return [int(order[place]) for place in places]


def comparison_sheet(
    session: Session, dataset: FaceParsingDataset, indices: Sequence[int], columns: int
) -> tuple[UInt8Array, list[str]]:
    """Rows of true maps, each over the row of predicted ones.

    Returns:
        uint8 (2 * rows * 256, columns * 256, 3) RGB, and the keys of the faces in their order.
    """
    rows = -(-len(indices) // columns)
    sheet = contact_sheet(Comparison(session, Subset(dataset, indices)), columns, rows)
    return sheet, [key_of(dataset, index) for index in indices]
