"""What every data set of fptk looks like to the code that reads it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """One face.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class index 0-18 of each pixel. Always of the image's own size.
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
