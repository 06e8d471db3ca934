"""A contact sheet: rows of images, each over the row of their masks in the palette's colours."""

from __future__ import annotations

import numpy as np

from fptk.core.classes import flat_palette
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError


def color_mask(mask: UInt8Array) -> UInt8Array:
    """The palette's colours of a mask: uint8 (H, W) class indices to uint8 (H, W, 3) RGB."""
    return np.array(flat_palette(), dtype=np.uint8).reshape(256, 3)[mask]


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
        sheet[row, 1, :, column] = color_mask(sample.mask)
    return sheet.reshape(2 * rows * height, columns * width, 3)
