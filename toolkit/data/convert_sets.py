"""LaPa and Helen as index masks in the CE7454 layout, with their own splits and classes.

LaPa (https://github.com/JDAI-CV/lapa-dataset) holds ``{train,val,test}/{images,labels}``; its labels are index masks.
Helen as Smith et al. published it (Exemplar-Based Face Parsing, CVPR 2013) holds ``images/NAME.jpg``, one soft mask per
part (``labels/NAME/NAME_lbl00.png`` to ``NAME_lbl10.png``), and the names of each split in ``exemplars.txt`` (train),
``tuning.txt`` (val) and ``testing.txt`` (test). A pixel gets the part whose mask is brightest there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fptk.core.classes import HELEN, LAPA, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import atomic_file, kind_of, make_folder, open_regular, reason_of, write_text
from fptk.core.masks import read_mask
from fptk.core.preprocess import decode_image, opened_image, resize_labels
from fptk.core.progress import SILENT, Listener, track
from fptk.data.class_file import CLASS_FILE, class_file_text
from fptk.data.convert import JPEG_QUALITY, KEPT, Conversion, claim, convert_release
from fptk.data.layouts import find_splits
from fptk.data.lists import SPLITS
from fptk.data.parallel import parallel_map

HELEN_LISTS = {"train": "exemplars.txt", "val": "tuning.txt", "test": "testing.txt"}


@dataclass(frozen=True)
class Pair:
    """One face of a source: the photograph, and what its mask is made of."""

    split: str
    stem: str
    image: Path
    mask: Path
    """A mask file, or the folder of the parts."""


def convert(
    source: Path,
    out: Path,
    *,
    splits: Sequence[str] = SPLITS,
    size: int = 512,
    jobs: int | None = None,
    listener: Listener = SILENT,
) -> Conversion:
    """Convert CelebAMask-HQ, LaPa or Helen, whichever ``source`` is, to ``OUT/{train,val,test}/{images,masks}``.

    See :func:`fptk.data.convert.convert_release` for CelebAMask-HQ, arguments and errors. The others keep their aspect
    ratio: ``size`` is the longest side that a picture keeps, and a photograph that isn't larger is copied byte for
    byte. ``classes.yaml`` names their classes.
    """
    found = _pairs(source, splits)
    if found is None:
        return convert_release(source, out, splits=splits, size=size, jobs=jobs, listener=listener)
    name, classes, pairs = found
    claim(out, name, size)
    write_text(out / CLASS_FILE, class_file_text(classes))
    for split in {pair.split for pair in pairs}:
        make_folder(out / split / "images")
        make_folder(out / split / "masks")
    result = Conversion()
    outcomes = track(
        listener, parallel_map(partial(_convert, out, classes, size), pairs, jobs), "converting faces", len(pairs)
    )
    for pair, outcome in zip(pairs, outcomes, strict=True):
        result.count(pair.split, pair.stem, outcome)
    return result


def _pairs(source: Path, splits: Sequence[str]) -> tuple[str, ClassSet, list[Pair]] | None:
    """Name, classes and faces of a source; None where it is neither LaPa nor Helen."""
    if all(kind_of(source / name, "list of faces") for name in HELEN_LISTS.values()):
        return "Helen", HELEN, [pair for split in splits for pair in _helen(source, split)]
    if kind_of(source / "train" / "labels", "labels") == "folder":
        found = find_splits(source).by_name
        lapa = []
        for split in (each for each in splits if each in found):
            pairing = found[split].pairing()
            lapa += [Pair(split, key, pairing.images[key], mask) for key, mask in pairing.masks.items()]
        return "LaPa", LAPA, lapa
    return None


def _helen(source: Path, split: str) -> list[Pair]:
    path = source / HELEN_LISTS[split]
    try:
        with open_regular(path) as handle:
            lines = handle.read().decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"list of faces {path} cannot be read: {reason_of(error)}") from error
    names = [re.split(r"[\s,]+", line.strip())[-1] for line in lines if line.strip()]
    for name in names:
        if not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"list of faces {path} names '{name[:60]}'; expected the name of a photograph a line")
    return [Pair(split, name, source / "images" / f"{name}.jpg", source / "labels" / name) for name in names]


def _convert(out: Path, classes: ClassSet, size: int, pair: Pair) -> str | None:
    """Write what is missing of one pair; None when done, ``KEPT`` when it was there, else why it can't be read."""
    image_file = out / pair.split / "images" / f"{pair.stem}.jpg"
    mask_file = out / pair.split / "masks" / f"{pair.stem}.png"
    if image_file.exists() and mask_file.exists():
        return KEPT
    try:
        image = decode_image(pair.image)
        mask = _part_labels(pair.mask, len(classes)) if pair.mask.is_dir() else read_mask(pair.mask, classes)
    except InputError as error:
        return str(error)
    height, width = image.pixels.shape[:2]
    if mask.shape != (height, width):
        return f"mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {width}x{height}"
    scale = min(1.0, size / max(height, width))
    target = max(1, round(scale * height)), max(1, round(scale * width))
    # The mask goes first: a mask whose image is still missing is ignored by the readers, the reverse is an error.
    picture = Image.fromarray(resize_labels(mask, target))
    picture.putpalette(classes.flat_palette())
    with atomic_file(mask_file) as temporary:
        picture.save(temporary, format="PNG")
    with atomic_file(image_file) as temporary:
        if target == (height, width) and not image.turned and pair.image.suffix.lower() in (".jpg", ".jpeg"):
            shutil.copyfile(pair.image, temporary)
        else:
            resized = Image.fromarray(image.pixels).resize(target[::-1], Image.Resampling.LANCZOS)
            resized.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return None


def _part_labels(folder: Path, count: int) -> UInt8Array:
    """The brightest of the soft masks of a face, uint8 (H, W); of equal ones the first, which is the background.

    Raises:
        InputError: a part is missing, damaged or of another size than the first.
    """
    parts: list[UInt8Array] = []
    for label in range(count):
        path = folder / f"{folder.name}_lbl{label:02d}.png"
        with opened_image(path, "part") as image:
            parts.append(np.array(image.convert("L")))
        if parts[-1].shape != parts[0].shape:
            raise InputError(f"part {path} is of another size than the parts before it")
    labels: UInt8Array = np.argmax(np.stack(parts), axis=0).astype(np.uint8)
    return labels
