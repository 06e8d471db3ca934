"""Photographs without masks, and masks that a network predicts where labels are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fptk.core.classes import IGNORE, ClassSet
from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array, pixel_hash_of
from fptk.core.errors import InputError
from fptk.core.files import sha256_file
from fptk.core.preprocess import read_image, resize_labels
from fptk.core.session import Session
from fptk.data.layouts import find_splits
from fptk.data.listing import visible_names
from fptk.data.pairing import IMAGE_SUFFIXES, stem_of
from fptk.data.pixels import hash_files


def holds_photographs(folder: Path) -> bool:
    """Whether a folder holds image files side by side, and is no data set.

    Raises:
        InputError: the folder is missing or unreadable.
    """
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in visible_names(folder)):
        return False
    try:
        find_splits(folder)
    except InputError:
        return True
    return False


class Photographs:
    """The image files of a folder: a :class:`~fptk.core.dataset.FaceParsingDataset` whose pixels are all ignored.

    Args:
        folder: holds them side by side.
        classes: what their masks would hold.

    Raises:
        InputError: there is none, two share a stem, or the folder cannot be read.
    """

    def __init__(self, folder: Path, classes: ClassSet) -> None:
        self.name, self.classes = folder.resolve().name, classes
        self._files = [folder / name for name in visible_names(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
        if not self._files:
            raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); give a folder of photographs")
        first: dict[str, Path] = {}
        for file in self._files:
            if (before := first.setdefault(stem_of(file), file)) is not file:
                raise InputError(f"images {before} and {file.name} share one name; remove one")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        """The photograph at ``index``, uint8 (H, W, 3), and a mask, uint8 (H, W), of ignored pixels.

        Raises:
            InputError: the file is missing, damaged or no image.
        """
        image = read_image(self._files[index])
        return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), self.key(index))

    def key(self, index: int) -> str:
        """File stem of the photograph at ``index``."""
        return stem_of(self._files[index])

    def image_path(self, index: int) -> Path:
        """File of the photograph at ``index``."""
        return self._files[index]

    def content_hash(self, index: int) -> str:
        """sha256 (hex) of the file's bytes.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            return sha256_file(self._files[index])
        except OSError as error:
            raise InputError(f"image {self._files[index]} cannot be read: {error.strerror}") from error

    def pixel_hash(self, index: int) -> str:
        """sha256 (hex) of the photograph's pixels, from the user's cache where the file is unchanged."""
        return hash_files([self._files[index]])[0]


class PredictedMasks:
    """The images of a data set with the masks that a network predicts.

    They tell which classes the images probably show, e.g. to calibrate on all of them. They are no truth to score on.

    Args:
        dataset: where the images come from; its masks are not looked at.
        session: labels them; each image once, and the labels are kept.
    """

    def __init__(self, dataset: FaceParsingDataset, session: Session) -> None:
        self.name = f"{dataset.name} (labels predicted)"
        self.classes = session.classes
        self.dataset = dataset
        self._session = session
        self._labels: dict[int, UInt8Array] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The image at ``index`` and its predicted mask, uint8 (H, W).

        Raises:
            InputError: the file behind it is not usable.
        """
        sample = self.dataset[index]
        if index not in self._labels:
            self._labels[index] = self._session(self._session.spec.apply(sample.image)[None])[0]
        height, width = sample.image.shape[:2]
        return sample._replace(mask=resize_labels(self._labels[index], (height, width)))

    def content_hash(self, index: int) -> str:
        """That of the image."""
        return self.dataset.content_hash(index)

    def pixel_hash(self, index: int) -> str:
        """That of the image."""
        return pixel_hash_of(self.dataset, index)
