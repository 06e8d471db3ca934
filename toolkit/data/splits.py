"""Which faces train, which validate: splits of folders, held-out parts, and views on data sets."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fptk.core.classes import check_same
from fptk.core.dataset import FaceParsingDataset, Sample, pixel_hash_of
from fptk.core.errors import InputError
from fptk.core.files import open_regular, reason_of
from fptk.core.progress import SILENT, Listener
from fptk.data.folders import FolderDataset
from fptk.data.layouts import Split, Splits, find_splits
from fptk.data.photographs import Photographs, PredictedMasks
from fptk.data.pixels import equal_images

VAL_FRACTION = 0.1
"""Share of a training split that is held out where a data set has no ``val/`` (1,000 faces: 900 / 100)."""

SPLIT_SEED = 42
"""Seed of the held-out part; it is apart from the training seed so that every run shares one validation set."""


@runtime_checkable
class KeyedDataset(FaceParsingDataset, Protocol):
    """A data set that can name a sample without decoding it."""

    def key(self, index: int) -> str:
        """The ``key`` of the sample at ``index``."""
        ...


class Subset:
    """The samples of ``dataset`` at ``indices``, in that order.

    Args:
        dataset: the data set looked into.
        indices: 0 <= index < len(dataset).
        name: what tables and errors call it; None for the data set's own.
    """

    def __init__(self, dataset: FaceParsingDataset, indices: Sequence[int], name: str | None = None) -> None:
        self.dataset = dataset
        self.indices = tuple(int(index) for index in indices)
        self.name = name or dataset.name
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def key(self, index: int) -> str:
        """Key of the sample at ``index``."""
        return key_of(self.dataset, self.indices[index])

    def content_hash(self, index: int) -> str:
        """sha256 of the image at ``index``, as ``dataset`` computes it."""
        return self.dataset.content_hash(self.indices[index])

    def pixel_hash(self, index: int) -> str:
        """sha256 of the pixels of the image at ``index``."""
        return pixel_hash_of(self.dataset, self.indices[index])


class ConcatDataset:
    """Several data sets, one after the other.

    Keys stay as they are where they're unique; where any two members share a key, every key gets its member's
    position in front (``0__KEY``, ``1__KEY``), so that keys remain unique and usable as file names.

    Raises:
        ValueError: no data set was given.
        InputError: two of them have other classes.
    """

    def __init__(self, datasets: Sequence[FaceParsingDataset], name: str | None = None) -> None:
        if not datasets:
            raise ValueError("ConcatDataset needs at least one data set")
        self.datasets = tuple(datasets)
        self.name = name or " + ".join(dataset.name for dataset in datasets)
        self.classes = datasets[0].classes
        for other in datasets[1:]:
            check_same(self.classes, datasets[0].name, other.classes, other.name)
        self._ends = tuple(accumulate(len(dataset) for dataset in datasets))
        counts = Counter(key_of(member, i) for member in datasets for i in range(len(member)))
        self._prefixed = any(count > 1 for count in counts.values())

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        member, inner = self.locate(index)
        sample = self.datasets[member][inner]
        return sample._replace(key=f"{member}__{sample.key}") if self._prefixed else sample

    def locate(self, index: int) -> tuple[int, int]:
        """Position of the member that holds ``index``, and the index inside it.

        Raises:
            IndexError: ``index`` is not in 0 <= index < len.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0-{len(self) - 1}")
        member = bisect_right(self._ends, index)
        return member, index - (self._ends[member - 1] if member else 0)

    def key(self, index: int) -> str:
        """Key of the sample at ``index``, without decoding it."""
        member, inner = self.locate(index)
        key = key_of(self.datasets[member], inner)
        return f"{member}__{key}" if self._prefixed else key

    def content_hash(self, index: int) -> str:
        """sha256 of the image at ``index``, as its member computes it."""
        member, inner = self.locate(index)
        return self.datasets[member].content_hash(inner)

    def pixel_hash(self, index: int) -> str:
        """sha256 of the pixels of the image at ``index``."""
        member, inner = self.locate(index)
        return pixel_hash_of(self.datasets[member], inner)


def limit(dataset: FaceParsingDataset, count: int | None) -> FaceParsingDataset:
    """``count`` samples evenly spaced over ``dataset``; all of them for ``None`` or where it holds no more."""
    if count is None or count >= len(dataset):
        return dataset
    return Subset(dataset, evenly_spaced(len(dataset), count))


def named(dataset: FaceParsingDataset, names: Path, *, others: bool = False) -> FaceParsingDataset:
    """The samples whose keys stand in a file, or with ``others`` all but those, in the order of ``dataset``.

    Args:
        dataset: the data set looked into.
        names: UTF-8 text, one key a line; empty lines and lines that begin with # do not count.
        others: choose the samples that it does not name.

    Raises:
        InputError: the file cannot be read, names a sample that is not there, or leaves none.
    """
    try:
        with open_regular(names) as handle:
            text = handle.read().decode()
    except (OSError, ValueError) as error:
        raise InputError(f"list of faces {names} cannot be read: {reason_of(error)}") from error
    wanted = {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}
    keys = [key_of(dataset, index) for index in range(len(dataset))]
    if missing := sorted(wanted.difference(keys)):
        raise InputError(
            f"{names} names {len(missing)} faces that {dataset.name} does not hold, '{missing[0]}' for one; "
            "give the list that belongs to the data"
        )
    indices = [index for index, key in enumerate(keys) if (key in wanted) != others]
    if not indices:
        raise InputError(f"{names} leaves no face of {dataset.name} to score")
    return Subset(dataset, indices)


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` of the places 0 to ``total`` - 1, the first and the last among them."""
    places: list[int] = np.linspace(0, total - 1, count).round().astype(int).tolist()
    return places


def key_of(dataset: FaceParsingDataset, index: int) -> str:
    """Key of the sample at ``index``; decodes it only where the data set has no cheaper way."""
    return dataset.key(index) if isinstance(dataset, KeyedDataset) else dataset[index].key


def image_file(dataset: FaceParsingDataset, index: int) -> Path | None:
    """The image file of a sample, looked up through what wraps it; None where there is none."""
    member, inner = innermost(dataset, index)
    return member.image_path(inner) if isinstance(member, FolderDataset | Photographs) else None


def innermost(dataset: FaceParsingDataset, index: int) -> tuple[FaceParsingDataset, int]:
    """The data set that a sample comes from, through what wraps it, and its index there."""
    if isinstance(dataset, Subset):
        return innermost(dataset.dataset, dataset.indices[index])
    if isinstance(dataset, ConcatDataset):
        member, inner = dataset.locate(index)
        return innermost(dataset.datasets[member], inner)
    if isinstance(dataset, PredictedMasks):
        return innermost(dataset.dataset, index)
    return dataset, index


def open_split(folder: Path, split: str) -> FolderDataset:
    """The split ``train``, ``val`` or ``test`` of a data set root.

    Raises:
        InputError: the root is no data set, has no such split, or the split is not readable.
    """
    found = find_splits(folder)
    if not found.parted:
        raise InputError(f"{folder} is one split itself; give the folder above it to choose the split '{split}'")
    if split not in found.by_name:
        raise InputError(f"{folder} has no split '{split}', it has {', '.join(found.by_name)}")
    return FolderDataset(found.by_name[split])


def hold_out(
    dataset: FaceParsingDataset, val_fraction: float = VAL_FRACTION, seed: int = SPLIT_SEED
) -> tuple[Subset, Subset]:
    """Part a data set into (train, val), the same way on every machine.

    The indices of the sorted keys are permuted by ``numpy.random.Generator(PCG64(seed))``; the first
    ``round(val_fraction * n)`` of them, at least one, are held out.

    Args:
        dataset: at least two samples.
        val_fraction: share that is held out, 0 < fraction < 1.
        seed: seed of the permutation, >= 0.

    Raises:
        InputError: the fraction or seed is out of range, or the data set is too small to part.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"validation fraction {val_fraction} is not between 0 and 1; 0.1 is usual")
    if seed < 0:
        raise InputError(f"split seed {seed} is negative; give 0 or more")
    n = len(dataset)
    if n < 2:
        raise InputError(f"{dataset.name} holds {n} image(s); at least 2 are needed to hold out a validation part")
    order = sorted(range(n), key=lambda index: key_of(dataset, index))
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    held = min(max(1, round(val_fraction * n)), n - 1)
    val = [order[i] for i in sorted(shuffled[:held])]
    train = [order[i] for i in sorted(shuffled[held:])]
    return Subset(dataset, train, f"{dataset.name} (train part)"), Subset(dataset, val, f"{dataset.name} (held out)")


def open_training(
    dirs: Sequence[Path], *, val_fraction: float = VAL_FRACTION, seed: int = SPLIT_SEED
) -> tuple[FaceParsingDataset, FaceParsingDataset]:
    """Training and validation set of one or more data folders.

    Train is the training split of every folder. Val is the ``val/`` split of those that have one. Where none has,
    :func:`hold_out` parts each folder on its own, so that :func:`open_evaluation` of a folder later finds what was
    held out of it here.

    Args:
        dirs: data set roots (with ``train/`` and maybe ``val/``), split folders, or lists of pairs.
        val_fraction: share held out where there is no ``val/``, 0 < fraction < 1.
        seed: seed of the held-out part.

    Raises:
        InputError: a folder is no data set, has no ``train/``, is given twice, or is not readable.
    """
    if not dirs:
        raise InputError("no data folder was given; give at least one with --data DIR")
    found = [find_splits(folder) for folder in dirs]
    train_splits = [_training_split(folder, each) for folder, each in zip(dirs, found, strict=True)]
    val_splits = [each.by_name["val"] for each in found if each.parted and "val" in each.by_name]
    counts = Counter(split.place for split in (*train_splits, *val_splits))
    twice = [folder for (folder, _), count in counts.items() if count > 1]
    if twice:
        raise InputError(f"data folder {twice[0]} is used twice; give each folder once, and no val/ as training data")
    train: list[FaceParsingDataset] = [FolderDataset(split) for split in train_splits]
    val: list[FaceParsingDataset] = [FolderDataset(split) for split in val_splits]
    if not val:
        parts = [hold_out(dataset, val_fraction, seed) for dataset in train]
        train, val = [part[0] for part in parts], [part[1] for part in parts]
    return _joined(train), _joined(val)


def open_evaluation(folder: Path, *, val_fraction: float = VAL_FRACTION, seed: int = SPLIT_SEED) -> FaceParsingDataset:
    """The faces that an engine is scored on.

    A split folder is taken as it is; of a root, its ``val/``, or else the part that :func:`open_training` holds out
    of its ``train/`` when it is trained on without another folder's ``val/``.

    Raises:
        InputError: the folder is no data set, holds neither ``val/`` nor ``train/``, or is not readable.
    """
    found = find_splits(folder)
    if not found.parted:
        return FolderDataset(found.only)
    if "val" in found.by_name:
        return FolderDataset(found.by_name["val"])
    if "train" not in found.by_name:
        raise InputError(f"{folder} has neither val/ nor train/; {_instead(found.by_name['test'], 'score on')}")
    return hold_out(FolderDataset(found.by_name["train"]), val_fraction, seed)[1]


def open_calibration(folder: Path) -> FaceParsingDataset:
    """The faces of a folder that quantisers may calibrate on: a split folder as it is, of a root its training part.

    Raises:
        InputError: the folder is no data set, has no ``train/``, or is not readable.
    """
    found = find_splits(folder)
    return open_training([folder])[0] if found.parted else FolderDataset(found.only)


def refuse_overlap(calibration: FaceParsingDataset, evaluation: FaceParsingDataset) -> None:
    """Check by content, as :func:`find_duplicates` does, that no calibration image is also evaluated on.

    Raises:
        InputError: one is; both names are given.
    """
    for key, twin in find_duplicates(calibration, evaluation):
        raise InputError(
            f"calibration image '{key}' is also image '{twin}' of the evaluation set {evaluation.name}; "
            "calibrate on training images only"
        )


def find_duplicates(a: FaceParsingDataset, b: FaceParsingDataset, listener: Listener = SILENT) -> list[tuple[str, str]]:
    """Samples of ``a`` and ``b`` that show the same photograph, as (key in ``a``, key in ``b``).

    Files with the same content are found by their bytes, those that were saved again without loss by their pixels.
    Only images whose file size, or whose decoded size, occurs on both sides are read; what they decode to is kept in
    the user's cache folder.

    Args:
        a: one data set.
        b: the other.
        listener: is told how many images are decoded.

    Raises:
        InputError: an image file cannot be read.
    """
    files_a, files_b = ([image_file(each, index) for index in range(len(each))] for each in (a, b))
    paths_a, paths_b = ([path for path in files if path is not None] for files in (files_a, files_b))
    if len(paths_a) == len(a) and len(paths_b) == len(b):
        pairs = {*_equal_bytes(a, b), *equal_images(paths_a, paths_b, listener=listener)}
    else:
        # A sample without a file (a drawn face) could equal one of any size: nothing can be ruled out.
        pairs = _equal_pixels(a, b)
    return [(key_of(a, index), key_of(b, twin)) for index, twin in sorted(pairs)]


def _equal_bytes(a: FaceParsingDataset, b: FaceParsingDataset) -> set[tuple[int, int]]:
    """Indices of samples whose image files hold the same bytes."""
    sizes_a, sizes_b = _by_size(a), _by_size(b)
    common = sizes_a.keys() & sizes_b.keys()
    hashes: dict[str, list[int]] = defaultdict(list)
    for index in _indices(sizes_b, common):
        hashes[b.content_hash(index)].append(index)
    return {(index, twin) for index in _indices(sizes_a, common) for twin in hashes.get(a.content_hash(index), ())}


def _equal_pixels(a: FaceParsingDataset, b: FaceParsingDataset) -> set[tuple[int, int]]:
    """Indices of samples with the same pixels, without files."""
    hashes: dict[str, list[int]] = defaultdict(list)
    for index in range(len(b)):
        hashes[pixel_hash_of(b, index)].append(index)
    return {(index, twin) for index in range(len(a)) for twin in hashes.get(pixel_hash_of(a, index), ())}


def _by_size(dataset: FaceParsingDataset) -> dict[int | None, list[int]]:
    found: dict[int | None, list[int]] = defaultdict(list)
    for index in range(len(dataset)):
        path = image_file(dataset, index)
        try:
            found[None if path is None else path.stat().st_size].append(index)
        except OSError as error:
            raise InputError(f"image {path} cannot be read: {error.strerror}") from error
    return found


def _indices(sizes: dict[int | None, list[int]], wanted: set[int | None]) -> Iterator[int]:
    return (index for size in wanted for index in sizes.get(size, ()))


def _training_split(folder: Path, found: Splits) -> Split:
    if not found.parted:
        return found.only
    if "train" not in found.by_name:
        first = next(iter(found.by_name.values()))
        raise InputError(f"{folder} has no train/, only {', '.join(found.by_name)}; {_instead(first, 'train on')}")
    return found.by_name["train"]


def _instead(split: Split, purpose: str) -> str:
    """How to use a split for something else than what its name says."""
    if split.alone:
        return f"to {purpose} its {split.name} split give {split.folder}"
    return f"to {purpose} its {split.name} split list its pairs in a CSV file without splits"


def _joined(datasets: Sequence[FaceParsingDataset]) -> FaceParsingDataset:
    return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
