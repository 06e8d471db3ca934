"""What every data set of fptk looks like to the code that reads it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fptk.core.classes import ClassSet

UInt8Array = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """One face.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class of each pixel, an index of the data set's class list, or
            :data:`fptk.core.classes.IGNORE` where the pixel counts nowhere. Always of the image's own size.
        key: name of the sample, unique within its data set (the file stem for folders).
    """

    image: UInt8Array
    mask: UInt8Array
    key: str


class FaceParsingDataset(Protocol):
    """A finite, randomly accessible set of faces.

    Reading the same index twice gives the same pixels, from any process. Augmentation is not a data set's business.
    """

    name: str
    """What a table or an error calls this data set."""

    classes: ClassSet
    """What its labels mean."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index`` (0 <= index < len).

        Raises:
            InputError: the file behind it is missing, truncated, no image, or its mask is not valid.
        """
        ...

    def content_hash(self, index: int) -> str:
        """sha256 (hex) that two samples share only where their images are the same, byte for byte."""
        ...


@runtime_checkable
class PixelHashedDataset(FaceParsingDataset, Protocol):
    """A data set that knows the hash of an image's pixels by a cheaper way than decoding it."""

    def pixel_hash(self, index: int) -> str:
        """:func:`pixel_hash` of the image at ``index``."""
        ...


def pixel_hash(image: UInt8Array) -> str:
    """sha256 (hex) of an image's shape and pixels: files that decode to the same picture share it.

    It finds photographs again that were saved anew without loss. The identity of an image is ``content_hash``.

    Args:
        image: uint8 (H, W, 3), RGB.
    """
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def pixel_hash_of(dataset: FaceParsingDataset, index: int) -> str:
    """:func:`pixel_hash` of the image at ``index``, by way of the data set's own method where it has one."""
    if isinstance(dataset, PixelHashedDataset):
        return dataset.pixel_hash(index)
    return pixel_hash(dataset[index].image)
