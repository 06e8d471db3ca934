"""Which mask belongs to which image: by name, before a file is opened."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fptk.core.errors import InputError
from fptk.core.preprocess import regular_file
from fptk.data.listing import check_folder, shown

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""File names taken for photographs, in any case."""

MASK_SUFFIXES = (".png", ".webp")
"""File names taken for masks, in any case: masks must be lossless, and WebP can be."""

MASK_SUFFIX = MASK_SUFFIXES[0]
"""What advice names."""

_OTHER_MASK_SUFFIXES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix not in MASK_SUFFIXES), ".gif", ".tif", ".tiff")

PICTURE_SUFFIXES = (*MASK_SUFFIXES, *_OTHER_MASK_SUFFIXES)
"""Every file name taken for a picture, a photograph or a mask, in any case."""

NAMINGS = (
    "{stem}",
    *(f"{{stem}}{mark}{word}" for word in ("mask", "masks", "label", "labels", "seg") for mark in "_-"),
    "{name}",
)
"""How a mask's stem follows from its image's ``stem`` or whole ``name``: ``a.png``, ``a_mask.png``, ``a.jpg.png``."""


class Pairing(NamedTuple):
    """What the names of images and masks say.

    Stems are those of :func:`stem_of`, which two Unicode forms of one name share.

    Attributes:
        images: image files by key, which is the stem for files of a folder, in sorted order.
        masks: mask files by the key of their image, in sorted order.
        unused: mask files that belong to no image.
        clashes: two image files of one stem, e.g. ``a.jpg`` and ``a.png``; the second is not among ``images``.
        mask_clashes: two mask files of one stem, e.g. ``a.PNG`` and ``a.png``; the second is not among ``masks``.
        other_masks: files of the mask folder that are pictures but neither PNG nor WebP, by the key of their image.
        irregular: files that are no regular ones (folders, FIFOs, broken links), each with the word that errors use.
        naming: how a mask's stem follows from its image; one of :data:`NAMINGS`.
        found: sorted names of what the image folder and the mask folder hold.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    unused: list[Path]
    clashes: list[tuple[Path, Path]]
    mask_clashes: list[tuple[Path, Path]]
    other_masks: dict[str, Path]
    irregular: list[tuple[Path, str]]
    naming: str = NAMINGS[0]
    found: tuple[Sequence[str], Sequence[str]] = ((), ())

    @property
    def without_mask(self) -> list[str]:
        """Keys of images that have no mask."""
        return [key for key in self.images if key not in self.masks]

    def advice(self, key: str) -> str:
        """What to do about an image that has no mask, by what the mask folder holds in its place."""
        image = self.images[key]
        stem = self.naming.format(stem=image.stem, name=image.name)
        name = f"{stem}{MASK_SUFFIX}"
        other = self.other_masks.get(key)
        if other is not None:
            kind = "a JPEG" if other.suffix.lower() in (".jpg", ".jpeg") else "no PNG"
            return f"{other.name} is {kind}, and masks must be lossless PNG: save the original labels as {name}"
        alike = next((mask for mask in self.unused if stem_of(mask).casefold() == _nfc(stem).casefold()), None)
        if alike is not None:
            return f"rename {alike.name} to {stem}{alike.suffix.lower()}"
        return f"add its mask {name} or remove it"


def stem_of(path: Path) -> str:
    """The stem that pairs ``path``, in Unicode form NFC: some systems store an accent apart from its letter (NFD)."""
    return _nfc(path.stem)


def pair_files(images: Path, masks: Path, namings: Sequence[str] = NAMINGS) -> Pairing:
    """Pair the files of two folders by name; hidden files and other suffixes are passed over.

    Of ``namings`` the one that pairs most images holds for the whole folder; the same stem comes before others.

    Raises:
        InputError: a folder is missing, empty or unreadable, or two namings pair equally many images.
    """
    names = check_folder(images), check_folder(masks)
    found, clashes = _by_stem(_with_suffix(images, names[0], IMAGE_SUFFIXES))
    labels, mask_clashes = _by_stem(_with_suffix(masks, names[1], MASK_SUFFIXES))
    others, _ = _by_stem(_with_suffix(masks, names[1], _OTHER_MASK_SUFFIXES))
    naming = _naming(masks, found, {**others, **labels}, namings)
    stems = {key: _mask_stem(naming, image) for key, image in found.items()}
    paired = {key: labels[stem] for key, stem in stems.items() if stem in labels}
    used = set(paired.values())
    return Pairing(
        images=found,
        masks=paired,
        unused=[mask for mask in labels.values() if mask not in used],
        clashes=clashes,
        mask_clashes=mask_clashes,
        other_masks={key: others[stem] for key, stem in stems.items() if stem in others},
        irregular=[*_irregular(images, found, "image"), *_irregular(masks, labels, "mask")],
        naming=naming,
        found=names,
    )


def check_pairing(folder: Path, pairing: Pairing) -> None:
    """Refuse a split whose names already show that it can't be read.

    Args:
        folder: what errors name: the split's folder, or its list.
        pairing: of the split.

    Raises:
        InputError: no image, an image without a mask, two images or two masks with one stem, or no regular file.
    """
    if not pairing.images:
        raise InputError(no_image(folder, pairing))
    if pairing.clashes:
        first, clash = pairing.clashes[0]
        raise InputError(f"images {first} and {clash.name} share one mask name{unicode_note(first, clash)}; remove one")
    if pairing.mask_clashes:
        first, clash = pairing.mask_clashes[0]
        note = unicode_note(first, clash)
        raise InputError(f"masks {first} and {clash.name} belong to one image name{note}; remove one")
    orphans = pairing.without_mask
    if orphans:
        first = pairing.images[orphans[0]]
        count = f"{len(orphans)} of {len(pairing.images)} images have no mask"
        held = "" if pairing.masks or pairing.other_masks else f"; its mask folder holds {shown(pairing.found[1])}"
        raise InputError(f"{count} in {folder}, the first is {first.name}{held}; {pairing.advice(orphans[0])}")
    for path, what in pairing.irregular:
        regular_file(path, what)


def no_image(folder: Path, pairing: Pairing) -> str:
    """The sentence for a split without an image."""
    found = f", its image folder {shown(pairing.found[0])}" if pairing.found[0] else ""
    return f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}){found}; add photographs of such a name"


def unicode_note(first: Path, second: Path) -> str:
    """Words for two names that look the same because only their Unicode form differs; nothing for others."""
    return " (they differ in Unicode form)" if first.stem != second.stem else ""


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _mask_stem(naming: str, image: Path) -> str:
    return _nfc(naming.format(stem=image.stem, name=image.name))


def _naming(folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path], namings: Sequence[str]) -> str:
    """The naming that pairs most images; the first of ``namings`` where it pairs as many as any other."""
    if all(_mask_stem(namings[0], image) in masks for image in images.values()):
        return namings[0]
    paired = {
        naming: [masks[stem] for image in images.values() if (stem := _mask_stem(naming, image)) in masks]
        for naming in namings
    }
    most = max(map(len, paired.values()))
    best = [naming for naming, found in paired.items() if len(found) == most]
    if best[0] == namings[0] or len(best) == 1:
        return best[0]
    both = " and ".join(paired[naming][0].name for naming in best[:2])
    raise InputError(f"{folder} holds masks of two kinds of name, such as {both}; keep one kind in the folder")


def _with_suffix(folder: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> Iterator[Path]:
    return (folder / name for name in names if name.lower().endswith(suffixes))


def _by_stem(paths: Iterator[Path]) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    """Files by stem, in sorted order of the stems, and those whose stem was taken, each after the one that took it."""
    found: dict[str, Path] = {}
    clashes = [(first, path) for path in paths if (first := found.setdefault(stem_of(path), path)) is not path]
    return dict(sorted(found.items())), clashes


def _irregular(folder: Path, files: Mapping[str, Path], what: str) -> Iterator[tuple[Path, str]]:
    """The files that are no regular ones; the folder's own listing tells without looking at each."""
    with os.scandir(folder) as entries:
        regular = {entry.name for entry in entries if is_file(entry)}
    return ((path, what) for path in files.values() if path.name not in regular)


def is_file(entry: os.DirEntry[str] | Path) -> bool:
    """Whether it is a regular file, links followed; what the system doesn't tell is none."""
    try:
        return entry.is_file()
    except (OSError, ValueError):  # a link that leads in a circle, or to where this user may not look
        return False
