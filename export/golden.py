"""Golden samples: inputs that travel with an engine, each with the labels that the FP32 reference gives it.

They lie in the bundle's ``golden/``: ``1.png`` with ``1-labels.png`` and so on at the engine's size, ``photograph.png``
with ``photograph-labels.png`` for the whole way through preprocessing. A device without data set and without torch
compares its engine with them (``fptk verify``).

What an engine may differ by is measured, not guessed: its lowest agreement at export, less a margin. INT8 rounds
differently on other processors, float arithmetic hardly (``docs/measurements/golden.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from fptk.benchmarks.processors import ProcessorMatrix
from fptk.core.agreement import LabelAgreement
from fptk.core.classes import ClassSet
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import predict
from fptk.core.masks import read_mask
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec, read_image
from fptk.core.session import Session
from fptk.data.splits import evenly_spaced
from fptk.data.synthetic.faces import SyntheticFaces, draw_face

FOLDER = "golden"
"""Folder in the bundle."""
PHOTOGRAPH = "photograph"
"""Name of the sample that goes through preprocessing."""
MOST_SAMPLES = 64

SEED, PHOTOGRAPH_INDEX = 7, 1000
"""Series of the synthetic samples, which no other command draws from, and the face in the photograph."""
FREE = "synthetic faces drawn by fptk: nobody's likeness, free to pass on"
"""Licence of synthetic samples."""
SEARCHED_IMAGES = 200
"""Evaluation images, evenly spaced, among which those that show most classes are looked for."""

MARGINS: dict[Precision, tuple[float, float]] = {
    Precision.FP32: (0.5, 3.0),
    Precision.BF16: (1.0, 5.0),
    Precision.FP16: (1.0, 5.0),
    Precision.INT8: (2.0, 10.0),
}
"""Points (hundredths) that an engine may agree less than at its export: of all pixels, and of one class's IoU."""
LEAST_SHARE, LEAST_PIXELS = 1 / 2048, 64
"""A class is judged if the reference gives it this share of the pixels, and so many."""


class GoldenLimits(BaseModel):
    """Agreement with the reference below which ``fptk verify`` refuses the engine, 0-1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: float = Field(ge=0, le=1)
    """Of all pixels of the samples."""
    photograph: float = Field(ge=0, le=1)
    """Of the pixels of the photograph, at its own size."""
    classes: dict[str, float]
    """IoU of each judged class."""
    margin: float
    """Points between the lowest agreement that was measured and :attr:`pixels`."""
    class_margin: float
    """The same between the lowest IoU and the limit of a class."""
    measured_on: tuple[str, ...]
    """Where the lowest agreement was looked for: the exporting host, or the instruction sets of its matrix."""


class GoldenRecord(BaseModel):
    """The golden samples of a bundle, and how far its engine agreed with the FP32 reference on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1, le=MOST_SAMPLES)
    """Samples at the engine's size: ``golden/1.png``, ``golden/1-labels.png`` and so on."""
    source: str
    """Where the images of the samples are from. The photograph is always drawn."""
    license: str
    """Who may pass them on."""
    agreement: LabelAgreement | None = None
    """On the samples, on the exporting host; ``None`` where there is no engine."""
    photograph: float | None = Field(default=None, ge=0, le=1)
    """Share of the photograph's pixels labelled as by the reference, at the photograph's own size, 0-1."""
    simulated_by: str | None = None
    """Name of the engine that the figures come from where this host cannot run the bundle's own."""
    limits: GoldenLimits | None = None
    """``None`` where there is no engine."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files, relative to the bundle."""
        return tuple(name for stem in _stems(self.samples) for name in _names(stem))


@dataclass(frozen=True)
class GoldenSet:
    """Samples with the labels of the FP32 reference."""

    source: str
    license: str
    images: UInt8Array
    """uint8 (N, H, W, 3) RGB, preprocessed."""
    labels: UInt8Array
    """uint8 (N, H, W)."""
    photograph: UInt8Array
    """uint8 (h, w, 3) RGB, larger than the engine's size and of another aspect ratio."""
    photograph_labels: UInt8Array
    """uint8 (h, w): labelled at the engine's size, brought to the photograph's."""
    classes: ClassSet
    """What the labels mean."""


def _stems(samples: int) -> Iterator[str]:
    yield from (str(number) for number in range(1, samples + 1))
    yield PHOTOGRAPH


def _names(stem: str) -> tuple[str, str]:
    """Files of one sample: the image and its labels."""
    return f"{FOLDER}/{stem}.png", f"{FOLDER}/{stem}-labels.png"


def photograph_size(spec: PreprocessSpec) -> tuple[int, int]:
    """Height and width of the photograph: 960 x 720 for engines of 512 x 512, neither a whole multiple."""
    return 15 * spec.size[0] // 8, 45 * spec.size[1] // 32


def make_golden(reference: Session, count: int, dataset: FaceParsingDataset | None = None) -> GoldenSet:
    """Choose the samples and label them.

    Args:
        reference: the network in PyTorch FP32.
        count: samples at the engine's size.
        dataset: evaluation images to take those from that show most classes; ``None`` draws faces.

    Raises:
        InputError: the data set has fewer images.
    """
    spec = reference.spec
    source, terms = f"synthetic faces (seed {SEED})", FREE
    if dataset is None:
        faces = SyntheticFaces(count, spec.size, seed=SEED)
        images = np.stack([faces[index].image for index in range(count)])
    else:
        source = dataset.name
        terms = f"photographs of {dataset.name}: pass this bundle on only as the licence of that data set allows"
        images = np.stack([spec.apply(dataset[index].image) for index in _richest(dataset, count)])
    photograph = draw_face(SEED, PHOTOGRAPH_INDEX, photograph_size(spec))[0]
    labels = np.concatenate([reference(image[None]) for image in images])
    return GoldenSet(source, terms, images, labels, photograph, predict(reference, photograph), reference.classes)


def _richest(dataset: FaceParsingDataset, count: int) -> list[int]:
    """Indices of the images that show most classes, in the order of the data set."""
    if len(dataset) < count:
        raise InputError(f"--golden {count} asks for more images than {dataset.name} holds ({len(dataset)})")
    looked_at = evenly_spaced(len(dataset), max(count, min(len(dataset), SEARCHED_IMAGES)))
    shown = {index: np.count_nonzero(np.bincount(dataset[index].mask.ravel())) for index in looked_at}
    return sorted(sorted(looked_at, key=lambda index: -shown[index])[:count])


def write_golden(golden: GoldenSet, folder: Path) -> None:
    """Write the samples into ``golden/`` of a bundle's folder."""
    pairs = [*zip(golden.images, golden.labels, strict=True), (golden.photograph, golden.photograph_labels)]
    (folder / FOLDER).mkdir()
    for stem, (image, labels) in zip(_stems(len(golden.images)), pairs, strict=True):
        image_name, labels_name = _names(stem)
        # Level 1 takes a quarter of the time and a sixth more space: the grain hardly compresses.
        Image.fromarray(image).save(folder / image_name, compress_level=1)
        picture = Image.fromarray(labels)
        picture.putpalette(golden.classes.flat_palette())
        picture.save(folder / labels_name)


def read_golden(folder: Path, record: GoldenRecord, spec: PreprocessSpec, classes: ClassSet) -> GoldenSet:
    """Read the samples of a bundle whose files were checked.

    Raises:
        InputError: a file is no picture of its kind, or of another size than the engine or its counterpart.
    """
    found = [
        (read_image(folder / image), read_mask(folder / labels, classes))
        for image, labels in map(_names, _stems(record.samples))
    ]
    for stem, (image, labels) in zip(_stems(record.samples), found, strict=True):
        size = image.shape[:2] if stem == PHOTOGRAPH else spec.size
        if image.shape[:2] != size or labels.shape != size:
            sides = f"{image.shape[0]}x{image.shape[1]} with labels of {labels.shape[0]}x{labels.shape[1]}"
            raise InputError(
                f"golden sample {folder / _names(stem)[0]} is {sides}; expected {size[0]}x{size[1]}: export it again"
            )
    *samples, (photograph, photograph_labels) = found
    images, labels = (np.stack(parts) for parts in zip(*samples, strict=True))
    return GoldenSet(record.source, record.license, images, labels, photograph, photograph_labels, classes)


def label_golden(session: Session, golden: GoldenSet) -> tuple[list[UInt8Array], UInt8Array]:
    """Labels of the samples, uint8 (H, W) each, and of the photograph at its own size, by one engine."""
    return [session(image[None])[0] for image in golden.images], predict(session, golden.photograph)


def limits_of(
    agreement: LabelAgreement, photograph: float, matrix: ProcessorMatrix | None, precision: Precision
) -> GoldenLimits:
    """The lowest agreement that was measured, less the margin of the precision.

    Args:
        agreement: on the samples, on the exporting host.
        photograph: share of the photograph's pixels, 0-1; it was labelled on the exporting host alone.
        matrix: the engine under each instruction set; its promised rows count.
        precision: of the engine.
    """
    rows = [row for row in matrix.rows if row.promised and row.golden] if matrix else []
    measured = [agreement, *(row.golden for row in rows if row.golden)]
    lowest = min(each.pixels for each in measured)
    margin, class_margin = MARGINS[precision]
    least = max(LEAST_PIXELS, LEAST_SHARE * sum(agreement.class_pixels.values()))
    classes = {
        name: _less(min(each.classes.get(name, 0.0) for each in measured), class_margin) for name in agreement.classes
    }
    return GoldenLimits(
        pixels=_less(lowest, margin),
        photograph=_less(photograph - (agreement.pixels - lowest), margin),
        classes={name: limit for name, limit in classes.items() if agreement.class_pixels[name] >= least and limit > 0},
        margin=margin,
        class_margin=class_margin,
        measured_on=("exporting host", *(row.instruction_set for row in rows)),
    )


def _less(share: float, points: float) -> float:
    return max(0.0, share - points / 100)


def shortfalls(
    found: LabelAgreement, photograph: float, limits: GoldenLimits
) -> list[tuple[Literal["golden", "photograph"], str]]:
    """What an engine falls short of, one clause each, classes by name; empty where it keeps every limit.

    Args:
        found: agreement on the samples.
        photograph: share of the photograph's pixels that have the reference's label, 0-1.
        limits: what is expected.
    """
    faults: list[tuple[Literal["golden", "photograph"], str]] = []
    short = {name: found.classes.get(name, 0.0) for name, limit in limits.classes.items()}
    worst = sorted((name for name in short if short[name] < limits.classes[name]), key=lambda name: short[name])
    if found.pixels < limits.pixels:
        faults.append(("golden", _clause(found.pixels, "golden pixels", limits.pixels)))
    if worst:
        named = ", ".join(
            f"{name} {_percent(short[name])} (at least {_percent(limits.classes[name])})" for name in worst
        )
        faults.append(("golden", f"IoU with FP32 by class: {named}"))
    if photograph < limits.photograph:
        faults.append(("photograph", _clause(photograph, "photograph", limits.photograph)))
    return faults


def _clause(share: float, what: str, least: float) -> str:
    return f"{_percent(share)} of the {what} as FP32, at least {_percent(least)} expected"


def lowest_class(found: LabelAgreement, names: Sequence[str]) -> tuple[str, float] | None:
    """Of the named classes the one that agrees least, with its IoU; ``None`` where none is named."""
    return min(((name, found.classes.get(name, 0.0)) for name in names), key=lambda pair: pair[1], default=None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
