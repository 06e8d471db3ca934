"""The images that quantisers calibrate on: chosen so that every class is seen, written down, read one at a time."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from fptk.calibration.images import ImageStream
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import read_json, sha256_json, write_json
from fptk.core.masks import class_counts
from fptk.core.preprocess import PreprocessSpec, regular_file
from fptk.core.progress import SILENT, Listener

DEFAULT_POOL = 1000
"""Candidates whose masks are read before choosing; reading more costs about 5 ms each at 512x512."""


class ClassCoverage(BaseModel):
    """How much of one class a calibration set shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    """Images in which the class has at least one pixel."""
    pixels: int
    """Pixels of the class over all images, at the data set's own size."""


class CalibrationImage(BaseModel):
    """One image of a calibration set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    """Index in the data set that it was chosen from."""
    key: str
    """Key of the sample (the file stem for folders)."""
    path: str | None = None
    """Where the file lay: data set, split, image folder and name; ``None`` where there is no file."""
    sha256: str
    """Content hash of the image."""


class CalibrationSet(BaseModel):
    """A list of calibration images and what it covers; the manifest that a bundle keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    dataset: str
    """Name of the data set that the indices refer to."""
    strategy: Literal["coverage", "random", "list"]
    seed: int
    minimum: ClassCoverage | None = None
    """What the strategy ``coverage`` wanted of every class; ``None`` for the others."""
    images: tuple[CalibrationImage, ...]
    coverage: dict[str, ClassCoverage]
    """By class name, in class order."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """Hash of the images' content in their order: equal hashes calibrate to equal ranges."""
        return sha256_json([image.sha256 for image in self.images])

    def short_classes(self) -> tuple[str, ...]:
        """Names of the classes that are shown less than :attr:`minimum`, or not at all where none was wanted."""
        least = self.minimum or ClassCoverage(images=1, pixels=1)
        return tuple(
            name
            for name, covered in self.coverage.items()
            if covered.images < least.images or covered.pixels < least.pixels
        )

    def with_paths(self, image_file: Callable[[int], Path | None]) -> CalibrationSet:
        """The same set with the place of every image noted.

        Args:
            image_file: the file behind an index of the data set; ``None`` where there is none.
        """

        def place(image: CalibrationImage) -> CalibrationImage:
            file = image_file(image.index)
            return image.model_copy(update={"path": "/".join(file.resolve().parts[-4:]) if file else None})

        return self.model_copy(update={"images": tuple(place(image) for image in self.images)})

    def stream(self, dataset: FaceParsingDataset, spec: PreprocessSpec) -> ImageStream:
        """A source of passes over the preprocessed images that never holds more than one of them.

        Args:
            dataset: the data set that the set was chosen from.
            spec: preprocessing of the network.

        Returns:
            A callable without arguments; each call starts a pass of uint8 (1, H, W, 3) RGB batches.

        Raises:
            InputError: (while reading) the data set no longer holds an image under its index.
        """

        def start() -> Iterator[UInt8Array]:
            for image in self.images:
                if image.index >= len(dataset) or (sample := dataset[image.index]).key != image.key:
                    raise InputError(
                        f"calibration image {image.key} is no longer at index {image.index} of {dataset.name}; "
                        "choose the calibration set anew"
                    )
                yield np.ascontiguousarray(spec.apply(sample.image)[None])

        return start

    def manifest(self) -> dict[str, Any]:
        """The set as plain JSON values, with the list's hash beside the fields."""
        return {**self.model_dump(mode="json"), "sha256": self.sha256}

    def save(self, path: Path) -> None:
        """Write :meth:`manifest` as JSON."""
        write_json(path, self.manifest())

    @classmethod
    def from_list(cls, path: Path, dataset: FaceParsingDataset) -> CalibrationSet:
        """The calibration set that a file names (``--calib FILE``).

        Args:
            path: a text file with one sample key or relative image path a line (a line that starts with ``#`` is a
                comment), or a manifest written by :meth:`CalibrationSet.save`, whose content hashes must then match.
            dataset: the data set that the names refer to.

        Raises:
            InputError: no such file, an empty list, a name that the data set does not hold, or an image that changed.
        """
        regular_file(path, "calibration list")
        hashes: dict[str, str] = {}
        if path.suffix == ".json":
            manifest = load_calibration_set(path)
            names = [image.key for image in manifest.images]
            hashes = {image.key: image.sha256 for image in manifest.images}
        else:
            names = _read_names(path)
        indices = _indices_by_key(dataset)
        chosen = []
        for name in dict.fromkeys(names):
            index = next((indices[form] for form in _forms(name) if form in indices), None)
            if index is None:
                raise InputError(f"{path} names '{name}', which data set {dataset.name} does not hold")
            candidate = _Candidate.read(dataset, index)
            if hashes and hashes[name] != candidate.sha256:
                raise InputError(
                    f"image {name} of {dataset.name} is not the one that {path} lists: its content changed"
                )
            chosen.append(candidate)
        if not chosen:
            raise InputError(f"{path} names no image; write one sample key a line")
        return _describe(dataset, chosen, "list", 0)


def load_calibration_set(path: Path) -> CalibrationSet:
    """Read a manifest that :meth:`CalibrationSet.save` wrote.

    Raises:
        InputError: no such file, not JSON, not a manifest, or its hash does not fit its list.
    """
    return _parse_manifest(path, read_json(path, "calibration manifest"))


def select_calibration_set(
    dataset: FaceParsingDataset,
    count: int,
    *,
    strategy: Literal["coverage", "random"] = "coverage",
    seed: int = 0,
    min_images_per_class: int = 4,
    min_pixels: int = 2000,
    pool: int = DEFAULT_POOL,
    listener: Listener = SILENT,
) -> CalibrationSet:
    """Choose ``count`` distinct images, the same ones for the same arguments.

    ``coverage`` reads the masks of ``pool`` candidates (a seeded sample; up to twice as many while a class is short),
    then takes greedily the image that fills most of what the classes still lack, until each has
    ``min_images_per_class`` images and ``min_pixels`` pixels, or no candidate helps. The rest follow in the
    seeded order, which keeps them a fair sample: calibrating on odd faces alone would stretch the ranges.
    ``random`` takes the seeded order from the start.

    Args:
        dataset: the training split; never the evaluation split (see :func:`fptk.data.splits.refuse_overlap`).
        count: images to choose; fewer are taken where the data set holds fewer distinct ones.
        strategy: see above.
        seed: seed of the order of candidates.
        min_images_per_class: images that each class should appear in.
        min_pixels: pixels that each class should have over the whole set, at the data set's own size.
        pool: candidates whose masks are read.
        listener: told of each candidate that was read.

    Raises:
        InputError: ``count`` is not positive, or the data set is empty.
    """
    if count < 1:
        raise InputError(f"a calibration set of {count} images was asked for; it needs at least 1")
    if len(dataset) == 0:
        raise InputError(f"data set {dataset.name} is empty: there is nothing to calibrate on")
    order = list(range(len(dataset)))
    random.Random(seed).shuffle(order)
    need = _Need(min_images_per_class, min_pixels, len(dataset.classes)) if strategy == "coverage" else None
    candidates = _read_candidates(dataset, order, count, pool, need, listener)
    chosen = _greedy(candidates, count, need) if need else []
    taken = {candidate.index for candidate in chosen}
    chosen += [candidate for candidate in candidates if candidate.index not in taken][: count - len(chosen)]
    minimum = ClassCoverage(images=min_images_per_class, pixels=min_pixels) if need else None
    return _describe(dataset, chosen, strategy, seed, minimum)


@dataclass(frozen=True)
class _Candidate:
    index: int
    key: str
    sha256: str
    pixels: npt.NDArray[np.int64]
    """int64 (C,), pixels per class."""

    @classmethod
    def read(cls, dataset: FaceParsingDataset, index: int) -> _Candidate:
        sample = dataset[index]
        pixels = class_counts(sample.mask, len(dataset.classes))
        return cls(index, sample.key, dataset.content_hash(index), pixels)


@dataclass
class _Need:
    """What the classes still lack."""

    min_images: int
    min_pixels: int
    classes: int

    def __post_init__(self) -> None:
        self.images = np.full(self.classes, self.min_images, np.int64)
        self.pixels = np.full(self.classes, self.min_pixels, np.int64)

    def add(self, pixels: npt.NDArray[np.int64]) -> None:
        self.images = np.maximum(0, self.images - (pixels > 0))
        self.pixels = np.maximum(0, self.pixels - pixels)

    def gain(self, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Share of the lack that each candidate, int64 (M, C), would fill: float64 (M,)."""
        images = np.minimum(self.images, pixels > 0) / max(1, self.min_images)
        return np.asarray((images + np.minimum(self.pixels, pixels) / max(1, self.min_pixels)).sum(axis=1))

    def met(self) -> bool:
        return not (self.images.any() or self.pixels.any())


def _read_candidates(
    dataset: FaceParsingDataset,
    order: Sequence[int],
    count: int,
    pool: int,
    need: _Need | None,
    listener: Listener,
) -> list[_Candidate]:
    """Distinct candidates in ``order``: as many as asked for, twice that while a class is short."""
    wanted = min(len(order), max(count, pool) if need else count)
    limit = min(len(order), 2 * wanted)
    seen: set[str] = set()
    available = _Need(need.min_images, need.min_pixels, need.classes) if need else None
    candidates: list[_Candidate] = []
    with listener.counting("choosing calibration images", wanted) as update:
        for done, index in enumerate(order[: limit if available else len(order)], start=1):
            candidate = _Candidate.read(dataset, index)
            if candidate.sha256 not in seen:
                seen.add(candidate.sha256)
                candidates.append(candidate)
                if available:
                    available.add(candidate.pixels)
            update(min(done, wanted))
            if len(candidates) >= wanted and (available is None or available.met()):
                break
    return candidates


def _greedy(candidates: Sequence[_Candidate], count: int, need: _Need) -> list[_Candidate]:
    """The candidates that fill ``need``, best first; the earlier one where two are equal."""
    pixels = np.stack([candidate.pixels for candidate in candidates])
    free = np.ones(len(candidates), bool)
    chosen: list[_Candidate] = []
    while len(chosen) < count and not need.met():
        gain = np.where(free, need.gain(pixels), 0.0)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        free[best] = False
        need.add(pixels[best])
        chosen.append(candidates[best])
    return chosen


def _describe(
    dataset: FaceParsingDataset,
    chosen: Sequence[_Candidate],
    strategy: Literal["coverage", "random", "list"],
    seed: int,
    minimum: ClassCoverage | None = None,
) -> CalibrationSet:
    pixels = np.stack([candidate.pixels for candidate in chosen])
    return CalibrationSet(
        dataset=dataset.name,
        strategy=strategy,
        seed=seed,
        minimum=minimum,
        images=tuple(CalibrationImage(index=c.index, key=c.key, sha256=c.sha256) for c in chosen),
        coverage={
            name: ClassCoverage(images=int((pixels[:, i] > 0).sum()), pixels=int(pixels[:, i].sum()))
            for i, name in enumerate(dataset.classes.names)
        },
    )


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"calibration list {path} cannot be read: {error}") from error
    names = (line.strip() for line in lines)
    return [name for name in names if name and not name.startswith("#")]


def _forms(name: str) -> Iterator[str]:
    """The keys that a name of a list may mean: itself, the last part of a path, and that without its suffix.

    Keys of folders are in Unicode form NFC, names in a list may not be.
    """
    normal = unicodedata.normalize("NFC", name)
    yield from (name, normal, Path(normal).name, Path(normal).stem)


def _indices_by_key(dataset: FaceParsingDataset) -> dict[str, int]:
    """Index of every key; a data set without a method ``key`` has to be read through once."""
    key = getattr(dataset, "key", None) or (lambda index: dataset[index].key)
    return {str(key(index)): index for index in range(len(dataset))}


def _parse_manifest(path: Path, value: Any) -> CalibrationSet:
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a calibration manifest: expected a JSON object")
    stated = value.pop("sha256", None)
    try:
        manifest = CalibrationSet.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a calibration manifest: {where}: {first['msg']}") from error
    if stated != manifest.sha256:
        raise InputError(f"{path} was edited: its list hashes to {manifest.sha256[:12]}, it states {str(stated)[:12]}")
    return manifest
