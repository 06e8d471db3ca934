"""Label images with the engines of a report: what each mistakes for what, and the faces on which INT8 differs most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fptk.core.classes import IGNORE
from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array, pixel_hash
from fptk.core.errors import FptkError, InputError
from fptk.core.evaluation import joint_predictions
from fptk.core.metrics import ConfusionMatrix
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.data import open_evaluation
from fptk.data.splits import Subset, key_of, limit
from fptk.export.bundle import Bundle, open_bundle
from fptk.export.golden import FREE, GoldenSet, read_golden
from fptk.report.sources import Engine, Material, ReportRequest
from fptk.runs.source import find_source

PLACES = ("worst", "median", "best")


@dataclass(frozen=True)
class Images:
    """What the engines label."""

    dataset: FaceParsingDataset
    truth: str
    """What the masks are, in words."""
    shown: bool
    """Whether the images themselves may stand in the report."""


@dataclass(frozen=True)
class Mistakes:
    """What one engine takes for what."""

    engine: Engine
    counts: npt.NDArray[np.int64]
    """Pixels, (C, C); row = truth, column = prediction."""


@dataclass(frozen=True)
class ShownFace:
    """One face on which an engine was chosen to be shown."""

    place: str
    """One of :data:`PLACES`."""
    key: str
    agreement: float
    """Share of the pixels on which engine and baseline agree, 0-1."""
    image: UInt8Array | None
    """uint8 (H, W, 3); ``None`` where it may not be shown."""
    truth: UInt8Array
    """uint8 (H, W)."""
    baseline: UInt8Array | None
    """Labels of the baseline; ``None`` where that is the truth."""
    labels: UInt8Array
    """Labels of the engine."""


@dataclass(frozen=True)
class Comparison:
    """One engine beside its baseline."""

    engine: Engine
    baseline: Engine | None
    """The FP32 engine; ``None`` for the truth itself."""
    faces: tuple[ShownFace, ...]


@dataclass(frozen=True)
class Labelled:
    """What came of the labelling."""

    images: Images
    mistakes: tuple[Mistakes, ...]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[str, ...]
    """Engines that did not take part, and why."""


class NothingToLabelError(Exception):
    """There is no engine that runs here, or no image; the message says why, in one line."""


class GoldenFaces:
    """The golden samples of a bundle as a data set whose masks are the FP32 reference's labels."""

    def __init__(self, golden: GoldenSet) -> None:
        self.name = f"the golden samples ({golden.source})"
        self.classes = golden.classes
        self._golden = golden

    def __len__(self) -> int:
        return len(self._golden.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._golden.images[index], self._golden.labels[index], f"sample {index + 1}")

    def content_hash(self, index: int) -> str:
        """sha256 (hex) of the image's size and pixels: what is held in memory has no file."""
        return pixel_hash(self._golden.images[index])


def label_faces(material: Material, request: ReportRequest, listener: Listener = SILENT) -> Labelled:
    """Label the images with every engine that runs here.

    Raises:
        NothingToLabelError: there is no such engine, or there are no images.
        InputError: an image cannot be read.
    """
    with ExitStack() as stack:
        sessions, left_out = _open(material.engines, request.threads, stack)
        if not sessions:
            raise NothingToLabelError("; ".join(left_out) or "there is no engine")
        images, golden_of = _images(material, [engine for engine, _ in sessions], request)
        if golden_of is not None:
            others = [engine for engine, _ in sessions if not _same_weights(engine.bundle, golden_of)]
            left_out += [f"{engine.name}: the samples are labelled by another network" for engine in others]
            sessions = [each for each in sessions if each[0] not in others]
        return _label(sessions, images, tuple(left_out), listener)


def _open(
    engines: Sequence[Engine], threads: int | None, stack: ExitStack
) -> tuple[list[tuple[Engine, Session]], list[str]]:
    """Load what runs here and has the classes of the first; the reason for each of the others."""
    sessions: list[tuple[Engine, Session]] = []
    left_out = []
    for engine in engines:
        if engine.bundle.engine is None:
            continue
        if sessions and engine.bundle.classes != sessions[0][0].bundle.classes:
            left_out.append(f"{engine.name}: it has other classes than {sessions[0][0].name}")
            continue
        try:
            session = open_bundle(engine.bundle.folder, threads=threads)[1]
        except FptkError as error:
            left_out.append(f"{engine.name}: {error}")
            continue
        sessions.append((engine, stack.enter_context(session)))
    return sessions, left_out


def _images(material: Material, engines: Sequence[Engine], request: ReportRequest) -> tuple[Images, Bundle | None]:
    """The images: those asked for, else those of the run, else golden samples, with the bundle that these are from."""
    count = request.eval_images
    if request.data is not None:
        return Images(limit(open_evaluation(request.data), count), "truth", request.with_photos), None
    reason = "the bundles stand in no run"
    if material.training is not None:
        try:
            source = find_source(material.training.folder.path)
            found = source.evaluation_set(None)
            if found is not None:
                return Images(limit(found, count), "truth", request.with_photos or not source.data), None
        except InputError as error:
            reason = str(error)
    for engine in engines:
        bundle = engine.bundle
        if bundle.golden is not None:
            samples = GoldenFaces(read_golden(bundle.folder, bundle.golden, bundle.preprocess, bundle.class_set))
            shown = request.with_photos or bundle.golden.license == FREE
            return Images(samples, "labels of PyTorch FP32", shown), bundle
    raise NothingToLabelError(f"{reason}, and no bundle that runs here holds golden samples; give --data DIR")


def _same_weights(one: Bundle, other: Bundle) -> bool:
    return one.checkpoint_sha256 == other.checkpoint_sha256


def _label(
    sessions: Sequence[tuple[Engine, Session]], images: Images, left_out: tuple[str, ...], listener: Listener
) -> Labelled:
    engines = [engine for engine, _ in sessions]
    matrices = [ConfusionMatrix(engines[0].bundle.class_set) for _ in engines]
    pairs = _pairs(engines)
    agreements: list[list[float]] = [[] for _ in pairs]
    loaded = [session for _, session in sessions]
    for sample, labels in joint_predictions(loaded, images.dataset, listener=listener):
        for matrix, each in zip(matrices, labels, strict=True):
            matrix.add(sample.mask, each)
        for found, (engine, baseline) in zip(agreements, pairs, strict=True):
            other = sample.mask if baseline is None else labels[baseline]
            found.append(float(((labels[engine] == other) | (other == IGNORE)).mean()))
    comparisons = []
    for found, (engine, baseline) in zip(agreements, pairs, strict=True):
        chosen = [loaded[engine], *([loaded[baseline]] if baseline is not None else [])]
        faces = _faces(chosen, images, found)
        comparisons.append(Comparison(engines[engine], None if baseline is None else engines[baseline], faces))
    mistakes = tuple(Mistakes(engine, matrix.counts) for engine, matrix in zip(engines, matrices, strict=True))
    return Labelled(images, mistakes, tuple(comparisons), left_out)


def _pairs(engines: Sequence[Engine]) -> list[tuple[int, int | None]]:
    """Each engine that is not FP32 with its FP32 engine; where there is none but FP32, the first with the truth."""
    pairs = [
        (place, _baseline(engine, engines))
        for place, engine in enumerate(engines)
        if engine.bundle.precision is not Precision.FP32
    ]
    return pairs or [(0, None)]


def _baseline(engine: Engine, engines: Sequence[Engine]) -> int | None:
    """The FP32 engine of the same weights, of the same target if there is one."""
    floats = [
        place
        for place, other in enumerate(engines)
        if other.bundle.precision is Precision.FP32 and _same_weights(other.bundle, engine.bundle)
    ]
    return min(floats, key=lambda place: engines[place].bundle.target != engine.bundle.target, default=None)


def _faces(sessions: Sequence[Session], images: Images, agreements: Sequence[float]) -> tuple[ShownFace, ...]:
    """The faces of the lowest, the median and the highest agreement, labelled again by engine and baseline."""
    order = np.argsort(np.asarray(agreements), kind="stable")
    indices: dict[int, str] = {}
    for place, word in zip((0, (len(order) - 1) // 2, len(order) - 1), PLACES, strict=True):
        indices.setdefault(int(order[place]), word)
    faces = []
    subset = Subset(images.dataset, [*indices])
    for (index, word), (sample, labels) in zip(indices.items(), joint_predictions(sessions, subset), strict=True):
        faces.append(
            ShownFace(
                place=word,
                key=key_of(images.dataset, index),
                agreement=agreements[index],
                image=sample.image if images.shown else None,
                truth=sample.mask,
                baseline=labels[1] if len(labels) > 1 else None,
                labels=labels[0],
            )
        )
    return tuple(faces)
