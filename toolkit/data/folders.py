"""Faces in a folder of images beside a folder of masks, or in a list of pairs."""

from __future__ import annotations

import warnings
from pathlib import Path

from fptk.core.dataset import Sample
from fptk.core.errors import FptkWarning, InputError
from fptk.core.files import sha256_file
from fptk.core.masks import decode_mask
from fptk.core.preprocess import Decoded, decode_image, regular_file
from fptk.data.layouts import Split, find_pair, find_splits
from fptk.data.listing import is_hidden
from fptk.data.lists import SPLITS
from fptk.data.pairing import IMAGE_SUFFIXES, check_pairing
from fptk.data.pixels import hash_files

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "FolderDataset", "find_pair", "is_hidden", "one_turned", "size_mismatch"]


class FolderDataset:
    """The pairs of one split: a :class:`~fptk.core.dataset.FaceParsingDataset` sorted by key, which is the file stem.

    Opening looks at names only; a file is decoded when its index is read.

    Args:
        source: the split, or a folder or list of pairs that is one split itself, such as ``images`` + ``masks``; see
            :data:`~fptk.data.layouts.LAYOUTS`.
        name: what tables and errors call it; None for the last two parts of the path.

    Raises:
        InputError: the folder is missing, empty or of no known layout, or has several splits; an image has no mask, two
            images or two masks share a stem, or one of them is no regular file.
    """

    def __init__(self, source: Path | Split, name: str | None = None) -> None:
        split = source if isinstance(source, Split) else _only_split(source)
        pairing = split.pairing()
        check_pairing(split.folder, pairing)
        self.folder, self.classes = split.folder, split.classes
        self.name = name or split.title
        self._keys = tuple(pairing.images)
        self._images = tuple(pairing.images.values())
        self._masks = tuple(pairing.masks[key] for key in self._keys)
        self._hashes: dict[int, str] = {}
        self._warned = False

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        """Decode the pair at ``index``: uint8 (H, W, 3) RGB and labels, uint8 (H, W).

        Image and mask are each turned upright by their own EXIF orientation. The first pair in which only one of them
        has such a tag is named in an :class:`~fptk.core.errors.FptkWarning`.

        Raises:
            InputError: a file is missing, damaged or no image, a mask holds what is no class, or the sizes differ.
        """
        image, mask = decode_image(self._images[index]), decode_mask(self._masks[index], self.classes)
        if image.pixels.shape[:2] != mask.pixels.shape:
            raise InputError(size_mismatch(self._masks[index], mask, image))
        if image.turned != mask.turned and not self._warned:
            self._warned = True
            text = f"{self.name}: {one_turned(self._masks[index], mask)}; other pairs of this data set aren't named"
            warnings.warn(text, FptkWarning, stacklevel=2)
        return Sample(image.pixels, mask.pixels, self._keys[index])

    def key(self, index: int) -> str:
        """File stem (in Unicode form NFC) of the pair at ``index``, without opening it."""
        return self._keys[index]

    def image_path(self, index: int) -> Path:
        """Image file of the pair at ``index``."""
        return self._images[index]

    def mask_path(self, index: int) -> Path:
        """Mask file of the pair at ``index``."""
        return self._masks[index]

    def content_hash(self, index: int) -> str:
        """sha256 (hex) of the image file's bytes; computed once.

        Raises:
            InputError: the file cannot be read.
        """
        if index not in self._hashes:
            regular_file(self._images[index], "image")
            try:
                self._hashes[index] = sha256_file(self._images[index])
            except OSError as error:
                raise InputError(f"image {self._images[index]} cannot be read: {error.strerror}") from error
        return self._hashes[index]

    def pixel_hash(self, index: int) -> str:
        """:func:`~fptk.core.dataset.pixel_hash` of the image, from the user's cache where the file is unchanged.

        Raises:
            InputError: the file is missing, damaged or no image.
        """
        return hash_files([self._images[index]])[0]


def _only_split(source: Path) -> Split:
    found = find_splits(source)
    if found.parted:
        raise InputError(f"{source} holds the splits {', '.join(found.by_name)}; say which of them is meant")
    return found.only


def size_mismatch(path: Path, mask: Decoded, image: Decoded) -> str:
    """The sentence for the mask ``path`` whose size is not its image's; it names EXIF where that is why."""
    (mask_height, mask_width), (height, width) = mask.pixels.shape, image.pixels.shape[:2]
    found = f"mask {path} is {mask_width}x{mask_height} pixels, its image {width}x{height}"
    if image.turned != mask.turned and (mask_height, mask_width) == (width, height):
        turned, other = ("image", "mask") if image.turned else ("mask", "image")
        return f"{found}, because the {turned} has an EXIF orientation and the {other} has none; turn both alike"
    return f"{found}; make them the same size"


def one_turned(path: Path, mask: Decoded) -> str:
    """The sentence for a pair of which only one file has an EXIF orientation; ``path`` and ``mask`` are its mask."""
    has, lacks = ("its mask", "the image") if mask.turned else ("the image", "its mask")
    return f"mask {path}: {has} has an EXIF orientation and {lacks} has none; check that the two lie on each other"
