"""Pictures of faces and labels: contact sheets, true against predicted maps, overlays, label maps as PNG.

The photographs of research data sets may not be passed on; the colour maps of :func:`comparison_sheet` show what a
session gets right and wrong without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fptk.core.classes import CELEBAMASK, IGNORE, ClassSet
from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import atomic_file, png_mark
from fptk.core.preprocess import resize_labels
from fptk.core.session import Session
from fptk.data.splits import Subset, evenly_spaced, key_of

Choice = Literal["even", "worst"]

SHEET_SIZE = (256, 256)
"""Height and width of one map in a sheet."""

OVERLAY_STRENGTH = 0.5
"""Share of the class colour in an overlay; background pixels keep the photograph."""


def color_mask(mask: UInt8Array, classes: ClassSet) -> UInt8Array:
    """The palette's colours of a mask: labels, uint8 (H, W), to uint8 (H, W, 3) RGB; ignored pixels are white."""
    return np.array(classes.flat_palette(), dtype=np.uint8).reshape(256, 3)[mask]


def contact_sheet(dataset: FaceParsingDataset, columns: int, rows: int) -> UInt8Array:
    """The first ``columns * rows`` samples, whose images must be of one size (H, W).

    Returns:
        uint8 (2 * rows * H, columns * W, 3) RGB; places that ``dataset`` is too short for stay white.

    Raises:
        InputError: the images differ in size, or ``columns`` or ``rows`` is below 1, or there is no sample.
    """
    if min(columns, rows, len(dataset)) < 1:
        raise InputError(f"contact sheet of {columns} columns and {rows} rows over {len(dataset)} samples is empty")
    samples = [dataset[index] for index in range(min(columns * rows, len(dataset)))]
    height, width = samples[0].mask.shape
    sheet = np.full((rows, 2, height, columns, width, 3), 255, dtype=np.uint8)
    for place, sample in enumerate(samples):
        if sample.mask.shape != (height, width):
            found = "x".join(map(str, sample.mask.shape))
            raise InputError(
                f"contact sheet: {sample.key} of {dataset.name} is {found}, the first sample {height}x{width}; "
                "resize the images to one size first"
            )
        row, column = divmod(place, columns)
        sheet[row, 0, :, column] = sample.image
        sheet[row, 1, :, column] = color_mask(sample.mask, dataset.classes)
    return sheet.reshape(2 * rows * height, columns * width, 3)


class Comparison:
    """A data set of the same faces whose image is the true label map in colours, and whose mask is the predicted one.

    Args:
        session: any engine.
        dataset: faces with their true masks.
        size: height and width that all maps are brought to, by nearest neighbour.
    """

    def __init__(self, session: Session, dataset: FaceParsingDataset, size: tuple[int, int] = SHEET_SIZE) -> None:
        self.name = f"{session.name} on {dataset.name}"
        self.classes = dataset.classes
        self._session, self._dataset, self._size = session, dataset, size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        """True colours, uint8 (H, W, 3), and predicted labels, uint8 (H, W)."""
        sample = self._dataset[index]
        labels = self._session(self._session.spec.apply(sample.image)[None])[0]
        truth, prediction = (resize_labels(each, self._size) for each in (sample.mask, labels))
        return Sample(color_mask(truth, self.classes), prediction, sample.key)

    def content_hash(self, index: int) -> str:
        """That of the face."""
        return self._dataset.content_hash(index)


def choose(scores: Sequence[float], count: int, choice: Choice) -> list[int]:
    """Indices of ``count`` images: those of the lowest scores, lowest first, or evenly spaced over the order of scores.

    Args:
        scores: one per image, as of :meth:`fptk.core.metrics.ConfusionMatrix.add`.
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


def overlay(image: UInt8Array, labels: UInt8Array, classes: ClassSet) -> UInt8Array:
    """The photograph, uint8 (H, W, 3), tinted by the class colours of ``labels``, uint8 (H, W).

    Background and ignored pixels keep the photograph.
    """
    colors = color_mask(labels, classes).astype(np.float32)
    tinted = (labels != classes.outside) & (labels != IGNORE)
    strength = np.where(tinted, OVERLAY_STRENGTH, 0.0).astype(np.float32)[..., None]
    return np.rint(image * (1 - strength) + colors * strength).astype(np.uint8)


def save_labels(labels: UInt8Array, path: Path, *, command: str, classes: ClassSet = CELEBAMASK) -> None:
    """Write a label map, uint8 (H, W), as an 8-bit palette PNG whose pixel value is the class; as :func:`save_png`."""
    picture = Image.fromarray(labels)
    picture.putpalette(classes.flat_palette())
    save_png(picture, path, command=command)


def save_overlay(
    image: UInt8Array, labels: UInt8Array, path: Path, *, command: str, classes: ClassSet = CELEBAMASK
) -> None:
    """Write :func:`overlay` as PNG; as :func:`save_png`."""
    save_png(Image.fromarray(overlay(image, labels, classes)), path, command=command)


def save_png(picture: Image.Image, path: Path, *, command: str, option: str = "--out") -> None:
    """Write a picture as PNG, whole or not at all, marked as drawn by ``fptk COMMAND``.

    What it may replace is checked before any work, by :func:`fptk.core.files.check_pictures`.

    Args:
        picture: what to write.
        path: ends in ``.png``.
        command: the command of fptk that may replace the file later.
        option: where the user gave ``path``, for messages.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_file(path, option=option) as temporary:
        picture.save(temporary, format="PNG", pnginfo=png_mark(command))
