"""Faces in a folder of images beside a folder of masks, paired by file stem."""

from __future__ import annotations

import os
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fptk.core.dataset import Sample
from fptk.core.errors import FptkWarning, InputError
from fptk.core.files import reason_of, sha256_file
from fptk.core.preprocess import Decoded, decode_image, decode_mask, regular_file
from fptk.data.pixels import hash_files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""File names taken for photographs, in any case."""

MASK_SUFFIXES = (".png", ".webp")
"""File names taken for masks, in any case: masks must be lossless, and WebP can be."""

MASK_SUFFIX = MASK_SUFFIXES[0]
"""What advice names."""

_OTHER_MASK_SUFFIXES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix not in MASK_SUFFIXES), ".gif", ".tif", ".tiff")

SPLITS = ("train", "val", "test")
"""Split folders that a data set root may hold."""

PAIRS: tuple[tuple[str, str], ...] = (("images", "masks"), *((f"{s}_image", f"{s}_mask") for s in SPLITS))
"""Known names of the image folder and the mask folder inside a split folder."""

KNOWN_LAYOUTS = "train/images + train/masks, train/train_image + train/train_mask, or images + masks directly"
"""The layouts in words, for error messages."""

RELEASE_FOLDERS = ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno")
"""Folders of the original CelebAMask-HQ release, which has to be converted first."""


class Pairing(NamedTuple):
    """What the names in an image folder and a mask folder say, before a file is opened.

    Stems are those of :func:`stem_of`, which two Unicode forms of one name share.

    Attributes:
        images: image files by stem, in sorted order of the stems.
        masks: mask files by stem, in sorted order of the stems.
        clashes: image files whose stem another image has already, e.g. ``a.png`` beside ``a.jpg``.
        mask_clashes: mask files whose stem another mask has already, e.g. ``a.png`` beside ``a.PNG``.
        other_masks: files of the mask folder that are pictures but neither PNG nor WebP, by stem.
        irregular: files among ``images`` and ``masks`` that are no regular files: folders, FIFOs, broken links.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    clashes: list[Path]
    mask_clashes: list[Path]
    other_masks: dict[str, Path]
    irregular: list[Path]

    @property
    def without_mask(self) -> list[str]:
        """Stems of images that have no mask."""
        return [stem for stem in self.images if stem not in self.masks]

    @property
    def without_image(self) -> list[str]:
        """Stems of masks that have no image."""
        return [stem for stem in self.masks if stem not in self.images]

    def advice(self, stem: str) -> str:
        """What to do about an image that has no mask, by what the mask folder holds in its place."""
        name = f"{self.images[stem].stem}{MASK_SUFFIX}"
        other = self.other_masks.get(stem)
        if other is not None:
            kind = "a JPEG" if other.suffix.lower() in (".jpg", ".jpeg") else "no PNG"
            return f"{other.name} is {kind}, and masks must be lossless PNG: save the original labels as {name}"
        alike = next((mask for key, mask in self.masks.items() if key.casefold() == stem.casefold()), None)
        if alike is not None:
            return f"rename {alike.name} to {self.images[stem].stem}{alike.suffix.lower()}"
        return f"add its mask {name} or remove it"


class FolderDataset:
    """The pairs of one split folder: a :class:`~fptk.core.dataset.FaceParsingDataset` sorted by stem.

    Opening looks at names only; a file is decoded when its index is read.

    Args:
        folder: the split folder, holding ``images`` + ``masks`` or ``train_image`` + ``train_mask`` (also ``val_``,
            ``test_``).
        name: what tables and errors call it; None for the last two parts of the path.

    Raises:
        InputError: the folder is missing, empty or of no known layout, an image has no mask, two images or two masks
            share a stem, or one of them is no regular file.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        pairing = pair_files(*split_pair(folder))
        check_pairing(folder, pairing)
        self.folder = folder
        self.name = name or "/".join(folder.resolve().parts[-2:])
        self._keys = tuple(pairing.images)
        self._images = tuple(pairing.images.values())
        self._masks = tuple(pairing.masks[key] for key in self._keys)
        self._hashes: dict[int, str] = {}
        self._warned = False

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        """Decode the pair at ``index``: uint8 (H, W, 3) RGB and uint8 (H, W) labels 0-18.

        Image and mask are each turned upright by their own EXIF orientation. The first pair in which only one of them
        has such a tag is named in an :class:`~fptk.core.errors.FptkWarning`.

        Raises:
            InputError: a file is missing, damaged or no image, a label is above 18, or the sizes differ.
        """
        image, mask = decode_image(self._images[index]), decode_mask(self._masks[index])
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


def is_hidden(name: str) -> bool:
    """Whether every reader of folders passes a file of this name over: ``.DS_Store``, ``._a.jpg``."""
    return name.startswith(".")


def stem_of(path: Path) -> str:
    """The stem that pairs ``path``, in Unicode form NFC: some systems store an accent apart from its letter (NFD)."""
    return unicodedata.normalize("NFC", path.stem)


def visible_names(folder: Path) -> list[str]:
    """Sorted names of the visible entries of a data folder, which may have none.

    Raises:
        InputError: it does not exist, is no folder, or may not be read.
    """
    try:
        mode = folder.stat().st_mode
        if not stat.S_ISDIR(mode):
            kind = "a file" if stat.S_ISREG(mode) else "a FIFO, device or socket"
            raise InputError(f"{folder} is {kind}; expected a data folder ({KNOWN_LAYOUTS})")
        return sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"data folder {folder} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"data folder {folder} cannot be read: {reason_of(error)}") from error


def check_folder(folder: Path) -> list[str]:
    """Sorted names of the visible entries of a data folder.

    Raises:
        InputError: it does not exist, is no folder, is empty, or may not be read.
    """
    names = visible_names(folder)
    if not names:
        raise InputError(f"data folder {folder} is empty; expected {KNOWN_LAYOUTS}")
    return names


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """Image folder and mask folder of a split folder, or None where it holds no such pair.

    Raises:
        InputError: the folder is missing or empty, or holds more than one pair.
    """
    names = set(check_folder(folder))
    found = [pair for pair in PAIRS if set(pair) <= names]
    if len(found) > 1:
        listed = " and ".join("+".join(pair) for pair in found)
        raise InputError(f"{folder} holds {listed}; keep one pair of image and mask folder in a split")
    return (folder / found[0][0], folder / found[0][1]) if found else None


def split_pair(folder: Path) -> tuple[Path, Path]:
    """Image folder and mask folder of a split folder.

    Raises:
        InputError: the folder is missing, empty or of no known layout.
    """
    pair = find_pair(folder)
    if pair is None:
        raise unknown_layout(folder)
    return pair


def unknown_layout(folder: Path) -> InputError:
    """The error for a folder that is neither a data set root nor a split folder."""
    names = check_folder(folder)
    if all(name in names for name in RELEASE_FOLDERS):
        return InputError(
            f"{folder} is the original CelebAMask-HQ release; run: fptk data convert {folder} --out NEW_DIR"
        )
    for images, masks in PAIRS:
        if images in names or masks in names:
            there, missing = (images, masks) if images in names else (masks, images)
            return InputError(f"{folder} holds {there}/ but no {missing}/; put the two side by side")
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return InputError(f"{folder} is of no known layout: found {shown}; expected {KNOWN_LAYOUTS}")


def pair_files(images: Path, masks: Path) -> Pairing:
    """Pair the files of two folders by stem; hidden files and other suffixes are passed over.

    Raises:
        InputError: a folder is missing, empty or unreadable.
    """
    found, clashes = _by_stem(_with_suffix(images, IMAGE_SUFFIXES))
    labels, mask_clashes = _by_stem(_with_suffix(masks, MASK_SUFFIXES))
    return Pairing(
        images=found,
        masks=labels,
        clashes=clashes,
        mask_clashes=mask_clashes,
        other_masks=_by_stem(_with_suffix(masks, _OTHER_MASK_SUFFIXES))[0],
        irregular=[*_irregular(images, found), *_irregular(masks, labels)],
    )


def check_pairing(folder: Path, pairing: Pairing) -> None:
    """Refuse a split whose names already show that it can't be read.

    Raises:
        InputError: no image, an image without a mask, two images or two masks with one stem, or no regular file.
    """
    if not pairing.images:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); expected {KNOWN_LAYOUTS}")
    if pairing.clashes:
        clash = pairing.clashes[0]
        first = pairing.images[stem_of(clash)]
        raise InputError(f"images {first} and {clash.name} share one mask name{unicode_note(first, clash)}; remove one")
    if pairing.mask_clashes:
        clash = pairing.mask_clashes[0]
        first = pairing.masks[stem_of(clash)]
        note = unicode_note(first, clash)
        raise InputError(f"masks {first} and {clash.name} belong to one image name{note}; remove one")
    orphans = pairing.without_mask
    if orphans:
        first = pairing.images[orphans[0]]
        count = f"{len(orphans)} of {len(pairing.images)} images have no mask"
        raise InputError(f"{count} in {folder}, the first is {first.name}; {pairing.advice(orphans[0])}")
    for path in pairing.irregular:
        regular_file(path, "image" if pairing.images.get(stem_of(path)) == path else "mask")


def unicode_note(first: Path, second: Path) -> str:
    """Words for two names that look the same because only their Unicode form differs; nothing for others."""
    return " (they differ in Unicode form)" if first.stem != second.stem else ""


def _with_suffix(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    return (folder / name for name in check_folder(folder) if name.lower().endswith(suffixes))


def _by_stem(paths: Iterator[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Files by stem, in sorted order of the stems, and those whose stem was taken."""
    found: dict[str, Path] = {}
    clashes = [path for path in paths if found.setdefault(stem_of(path), path) is not path]
    return dict(sorted(found.items())), clashes


def _irregular(folder: Path, files: dict[str, Path]) -> Iterator[Path]:
    """The files that are no regular ones; the folder's own listing tells without looking at each."""
    with os.scandir(folder) as entries:
        regular = {entry.name for entry in entries if _is_file(entry)}
    return (path for path in files.values() if path.name not in regular)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads in a circle, or to where this user may not look
        return False
