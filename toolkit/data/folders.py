"""Faces in a folder of images beside a folder of masks, paired by file stem."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fptk.dataset import Sample
from fptk.errors import InputError
from fptk.files import sha256_file
from fptk.preprocess import read_image, read_mask

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""File names taken for photographs, in any case; masks are ``.png`` only, because they must be lossless."""

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

    Attributes:
        images: image files by stem, in sorted order of the stems.
        masks: mask files by stem, in sorted order of the stems.
        clashes: image files whose stem another image has already, e.g. ``a.png`` beside ``a.jpg``.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    clashes: list[Path]

    @property
    def without_mask(self) -> list[str]:
        """Stems of images that have no mask."""
        return [stem for stem in self.images if stem not in self.masks]

    @property
    def without_image(self) -> list[str]:
        """Stems of masks that have no image."""
        return [stem for stem in self.masks if stem not in self.images]


class FolderDataset:
    """The pairs of one split folder: a :class:`~fptk.dataset.FaceParsingDataset` sorted by stem.

    Opening looks at names only; a file is decoded when its index is read.

    Args:
        folder: the split folder, holding ``images`` + ``masks`` or ``train_image`` + ``train_mask`` (also ``val_``,
            ``test_``).
        name: what tables and errors call it; None for the last two parts of the path.

    Raises:
        InputError: the folder is missing, empty or of no known layout, an image has no mask, or two images share a
            stem.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = folder
        self.name = name or "/".join(folder.resolve().parts[-2:])
        pairing = pair_files(*split_pair(folder))
        check_pairing(folder, pairing)
        self._keys = tuple(pairing.images)
        self._images = tuple(pairing.images.values())
        self._masks = tuple(pairing.masks[key] for key in self._keys)
        self._hashes: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        """Decode the pair at ``index``: uint8 (H, W, 3) RGB and uint8 (H, W) labels 0-18.

        Raises:
            InputError: a file is missing, damaged or no image, a label is above 18, or the sizes differ.
        """
        image, mask = read_image(self._images[index]), read_mask(self._masks[index])
        if image.shape[:2] != mask.shape:
            raise InputError(size_mismatch(self._masks[index], mask.shape, image.shape))
        return Sample(image, mask, self._keys[index])

    def key(self, index: int) -> str:
        """File stem of the pair at ``index``, without opening it."""
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
            try:
                self._hashes[index] = sha256_file(self._images[index])
            except OSError as error:
                raise InputError(f"image {self._images[index]} cannot be read: {error.strerror}") from error
        return self._hashes[index]


def size_mismatch(mask: Path, mask_size: tuple[int, ...], image_size: tuple[int, ...]) -> str:
    """The sentence for a mask of another size than its image; sizes are (height, width, ...)."""
    return (
        f"mask {mask} is {mask_size[1]}x{mask_size[0]} pixels, its image {image_size[1]}x{image_size[0]}; "
        "make them the same size"
    )


def check_folder(folder: Path) -> list[str]:
    """Sorted names of the visible entries of a data folder.

    Raises:
        InputError: it does not exist, is no folder, is empty, or may not be read.
    """
    if not folder.exists():
        raise InputError(f"data folder {folder} does not exist; check the path")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a data folder ({KNOWN_LAYOUTS})")
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"data folder {folder} cannot be read: {error.strerror}") from error
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
    found: dict[str, Path] = {}
    clashes: list[Path] = []
    for path in _with_suffix(images, IMAGE_SUFFIXES):
        if path.stem in found:
            clashes.append(path)
        else:
            found[path.stem] = path
    return Pairing(
        images=dict(sorted(found.items())),
        masks={path.stem: path for path in sorted(_with_suffix(masks, (".png",)), key=lambda path: path.stem)},
        clashes=clashes,
    )


def check_pairing(folder: Path, pairing: Pairing) -> None:
    """Refuse a split whose names already show that it can't be read.

    Raises:
        InputError: no image, an image without a mask, or two images with one stem.
    """
    if not pairing.images:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); expected {KNOWN_LAYOUTS}")
    if pairing.clashes:
        clash = pairing.clashes[0]
        raise InputError(f"images {pairing.images[clash.stem]} and {clash.name} share one mask name; remove one")
    orphans = pairing.without_mask
    if orphans:
        first = pairing.images[orphans[0]]
        count = f"{len(orphans)} of {len(pairing.images)} images have no mask"
        raise InputError(f"{count} in {folder}, the first is {first.name}; add its mask {first.stem}.png or remove it")


def _with_suffix(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    wanted = tuple(suffixes)
    return [folder / name for name in check_folder(folder) if name.lower().endswith(wanted)]
