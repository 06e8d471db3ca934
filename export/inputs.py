"""What the engines of one export share, each made when it is first needed and then kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fptk.benchmarks.processors import GoldenImages, MatrixImages
from fptk.calibration.calibration_set import DEFAULT_POOL, CalibrationSet, select_calibration_set
from fptk.calibration.images import CalibrationStream
from fptk.calibration.sensitivity import Sensitivity, SensitivityPlan, measure_sensitivity
from fptk.core.classes import CELEBAMASK, check_same
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate
from fptk.core.files import kind_of, sha256_json
from fptk.core.host import usable_cores
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener, track
from fptk.data import image_file, open_calibration
from fptk.data.class_file import class_set_of
from fptk.data.identity import check_files
from fptk.data.photographs import Photographs, PredictedMasks, holds_photographs
from fptk.data.splits import Subset, limit, refuse_overlap
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.golden import FOLDER as GOLDEN_FOLDER
from fptk.export.golden import GoldenSet, make_golden, write_golden
from fptk.export.network_source import GraphRequest
from fptk.export.plan import ExportPlan
from fptk.export.sources import open_network
from fptk.export.targets.base import Target, TargetOptions
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource

FAULT_IMAGES = 4
"""Calibration images that an INT8 engine is compared with its own graph on."""

PROOF_IMAGES = 4
"""Evaluation images, or drawn faces where there are none, that rewrites of a foreign graph are proven on."""


POOL_OF_PREDICTED = 4
"""Photographs without masks that are labelled for each one that is chosen."""


def content_sha256(dataset: FaceParsingDataset) -> str:
    """Hash over the content hashes of a set's images, in order; masks are no part of it."""
    return sha256_json([dataset.content_hash(index) for index in range(len(dataset))])


class ExportInputs:
    """Network, data, graphs and reference of one export.

    Args:
        source: the weights.
        plan: what to build.
        scratch: folder for graphs that no bundle keeps.
        listener: hears what is measured.

    Raises:
        InputError: weights or data are not usable.
    """

    def __init__(self, source: ModelSource, plan: ExportPlan, scratch: Path, listener: Listener = SILENT) -> None:
        self.source, self.plan, self.scratch, self.listener = source, plan, scratch, listener
        self.network = open_network(source, plan.data)
        self.card = self.network.card
        self.spec, self.classes = self.card.preprocess, self.card.classes
        self._graph_records: dict[str, dict[str, Any]] = {}
        self._check_calibration(plan.calib)
        self.dataset = self._evaluation_set()

    def _check_calibration(self, calib: Path | None) -> None:
        """Refuse calibration data that cannot be the network's, before any work."""
        if calib is None:
            return
        kind = kind_of(calib, "calibration data")
        if kind not in ("file", "folder"):
            raise InputError(f"--calib {calib} is neither a folder of images nor a file that lists them")
        if _is_data_set(calib) and not (kind == "folder" and holds_photographs(calib)):
            check_same(self.classes, "the network", class_set_of(calib), f"the calibration data {calib}")

    def _evaluation_set(self) -> FaceParsingDataset | None:
        """The evaluation images, every file of them looked at."""
        found = self.source.evaluation_set(self.plan.data)
        if found is None:
            self.listener.say("no evaluation data: engines are built, not judged; give --data DIR to judge them")
            return None
        check_same(self.classes, "the network", found.classes, f"the evaluation data {found.name}")
        dataset = limit(found, self.plan.eval_images)
        check_files(dataset, workers=usable_cores(), listener=self.listener)
        return dataset

    @property
    def checkpoint_sha256(self) -> str:
        """Hash of the weights' file."""
        return self.network.checkpoint_sha256

    @cached_property
    def dataset_sha256(self) -> str:
        """Hash of the evaluation images."""
        assert self.dataset is not None
        return content_sha256(self.dataset)

    @cached_property
    def reference(self) -> Scores:
        """Scores of the network itself, in FP32."""
        assert self.dataset is not None
        with self.network.session() as session:
            return evaluate(session, self.dataset, listener=self.listener)

    @cached_property
    def fault_images(self) -> tuple[UInt8Array, UInt8Array]:
        """A few calibration images, uint8 (N, H, W, 3), and their labels by the FP32 reference, uint8 (N, H, W)."""
        pixels = np.concatenate(list(itertools.islice(self.calibration(shown=False).images(), FAULT_IMAGES)))
        return pixels, self._reference_labels(pixels)

    @cached_property
    def matrix_images(self) -> MatrixImages:
        """Evenly spaced evaluation images, with their labels by the FP32 reference."""
        assert self.dataset is not None
        part = limit(self.dataset, self.plan.matrix_images)
        samples = [part[index] for index in range(len(part))]
        pixels = np.stack([self.spec.apply(sample.image) for sample in samples])
        golden = GoldenImages(self.golden.images, self.golden.labels)
        masks = [sample.mask for sample in samples]
        return MatrixImages(pixels, masks, self._reference_labels(pixels), golden, self.classes)

    @cached_property
    def golden(self) -> GoldenSet:
        """The samples that every bundle takes along, labelled by the FP32 reference.

        Raises:
            InputError: evaluation images are asked for, and there are none or too few.
        """
        if self.plan.golden_data and self.dataset is None:
            raise InputError("--golden data takes evaluation images, and there are none; give --data DIR")
        with self.network.session() as session:
            return make_golden(session, self.plan.golden, self.dataset if self.plan.golden_data else None)

    @cached_property
    def golden_folder(self) -> Path:
        """Folder in the scratch that holds the files of :attr:`golden`, to be copied into each bundle."""
        write_golden(self.golden, self.scratch)
        return self.scratch / GOLDEN_FOLDER

    def _reference_labels(self, pixels: UInt8Array) -> UInt8Array:
        with self.network.session() as session:
            return np.concatenate([session(image[None]) for image in pixels])

    @cached_property
    def _calibration_data(self) -> FaceParsingDataset:
        """Where calibration images are chosen from; its masks are predicted ones where there are no others."""
        dataset = self._calibration_images()
        if isinstance(dataset, Photographs) or (isinstance(dataset, SyntheticFaces) and not self._draws_our_classes):
            self.listener.say(f"the network itself labels {dataset.name}, to tell which classes each image shows")
            return PredictedMasks(dataset, self.network.session())
        return dataset

    @property
    def _draws_our_classes(self) -> bool:
        return self.classes.difference(CELEBAMASK) is None

    def _calibration_images(self) -> FaceParsingDataset:
        data = self.plan.calib
        if data is not None and _is_data_set(data):
            unlabelled = data.is_dir() and holds_photographs(data)
            return Photographs(data, self.classes) if unlabelled else open_calibration(data)
        dataset = self.source.training_set(self.plan.data)
        if dataset is None and data is None:
            self.listener.say(
                "no calibration images: INT8 ranges come from synthetic faces; give --data DIR for real ones"
            )
            return SyntheticFaces(self.plan.calib_size, self.spec.size)
        if dataset is None:
            raise InputError(f"--calib {data} lists training images; give --data DIR, the data set that holds them")
        return dataset

    @cached_property
    def calibration_set(self) -> CalibrationSet:
        """The images that INT8 ranges are measured on; none of them is an evaluation image."""
        dataset, calib = self._calibration_data, self.plan.calib
        if calib is not None and not _is_data_set(calib):
            chosen = CalibrationSet.from_list(calib, dataset)
        else:
            # A predicted mask costs an inference, so fewer of them are looked at.
            count = self.plan.calib_size
            pool = POOL_OF_PREDICTED * count if isinstance(dataset, PredictedMasks) else DEFAULT_POOL
            strategy = self.plan.calib_strategy
            chosen = select_calibration_set(dataset, count, strategy=strategy, pool=pool, listener=self.listener)
        images = Subset(dataset, [image.index for image in chosen.images])
        check_files(images, workers=usable_cores(), listener=self.listener)
        if self.dataset is not None:
            refuse_overlap(images, self.dataset)
        chosen = chosen.with_paths(lambda index: image_file(dataset, index))
        chosen.save(self._run.calibration_list)
        self.listener.say(_coverage(chosen))
        return chosen

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self.plan.out)

    def calibration(self, *, shown: bool = True) -> CalibrationStream:
        """The calibration set as builders take it; ``shown`` counts every pass over it."""
        dataset, chosen, spec = self._calibration_data, self.calibration_set, self.spec
        stream, listener = chosen.stream(dataset, spec), self.listener if shown else SILENT

        def labelled() -> Iterator[tuple[UInt8Array, UInt8Array]]:
            for image in chosen.images:
                sample = dataset[image.index]
                yield spec.apply(sample.image)[None], spec.apply_mask(sample.mask)

        return CalibrationStream(
            images=lambda: track(listener, stream(), "calibrating", total=len(chosen)),
            labelled=labelled,
            sha256=chosen.sha256,
            preprocess_sha256=spec.sha256,
            cache=self._run.calibration,
        )

    def sensitivity(self, target: Target) -> Sensitivity:
        """Layer groups ranked by what INT8 costs each alone; measured once and kept in the run's cache."""
        calibration = self.calibration(shown=False)
        return measure_sensitivity(
            self.onnx(target, Precision.INT8),
            calibration.images,
            calibration.ranges(),
            SensitivityPlan(images=self.plan.sensitivity_images),
            listener=self.listener,
        )

    def options(self, target: Target) -> TargetOptions:
        """What the plan says to this target; the rest are its defaults."""
        return target.options.model_validate(self.plan.options.get(target.name, {}))

    def batch(self, target: Target) -> int | None:
        """Batch of the target's graph; ``None`` is an open one."""
        return target.batch(self.options(target))

    def onnx(self, target: Target, precision: Precision) -> Path:
        """The FP32 graph that a target builds a precision from; one that several share is exported once."""
        form, shared = (self.network.heeded(each) for each in (target.form_of(precision), target.form))
        if self.plan.graph == "original":
            form = shared
        path = self.scratch / (f"{target.name}.onnx" if form == shared else f"{target.name}-{precision}.onnx")
        if not path.is_file():
            batch, listener = self.batch(target), self.listener
            request = GraphRequest(form, self.plan.graph, batch, lambda: self._proof_images, listener)
            self._graph_records[path.name] = self.network.write_onnx(path, request)
        return path

    def graph_record(self, target: Target, precision: Precision) -> dict[str, Any]:
        """What a bundle keeps of how its FP32 graph was made; empty where there is nothing to tell."""
        return self._graph_records[self.onnx(target, precision).name]

    @cached_property
    def _proof_images(self) -> UInt8Array:
        """The images that rewrites of a graph are proven on, uint8 (N, H, W, 3)."""
        faces = self.dataset or SyntheticFaces(PROOF_IMAGES, self.spec.size)
        part = limit(faces, PROOF_IMAGES)
        return np.stack([self.spec.apply(part[index].image) for index in range(len(part))])


def _is_data_set(calib: Path) -> bool:
    """Whether ``--calib`` holds images itself: a folder, or a list of pairs. Other files name training images."""
    return calib.is_dir() or calib.suffix.lower() == ".csv"


def _coverage(chosen: CalibrationSet) -> str:
    """One line: how many images, and which classes they show too little of."""
    line = f"calibrating on {len(chosen)} images of {chosen.dataset}"
    short = ", ".join(chosen.short_classes())
    if not short:
        return line
    least = chosen.minimum
    wanted = f"in under {least.images} images or {least.pixels} pixels" if least else "in none of them"
    return f"{line}; {wanted}: {short}"
