"""The processor matrix: one engine under every instruction set that this host can be told to use.

An engine's kernels are chosen on the machine where it runs. OpenVINO can be told to forget instruction sets when it is
loaded, so each row comes from a process of its own (:mod:`fptk.benchmarks.own_process`). It labels a few images and
writes the label maps. Its parent compares and judges.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from fptk.core.agreement import LabelAgreement, compare_labels
from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.cpu import INSTRUCTION_SETS, Family, InstructionSet, cpu_family, cpu_model, host_instruction_sets
from fptk.core.crash import crash_of
from fptk.core.dataset import UInt8Array
from fptk.core.errors import TargetUnavailableError
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import resize_labels
from fptk.core.progress import SILENT, Listener, track
from fptk.core.session import Session

LABELS = "labels"
"""Name of the task in :mod:`fptk.benchmarks.own_process`."""

NATIVE = "native"
"""Row of an engine that cannot be told which instruction set to use."""

Status = Literal["measured", "not offered", "not tested", "crashed"]


class ProcessorRow(BaseModel):
    """One instruction set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction_set: str
    """oneDNN's name, or :data:`NATIVE` for an engine that cannot be told which to use."""
    family: Family
    """Kind of processor that the instruction set stands for."""
    promised: bool
    """Whether the engine is promised to be right there."""
    status: Status
    """``not offered``: this precision does not exist there; ``not tested``: this host cannot be made to use it."""
    reason: str = ""
    """Why there are no figures."""
    agreement: float | None = None
    """Share of the pixels labelled as by the FP32 reference, 0-1."""
    mean_miou: float | None = None
    """Mean over the images of each image's own mIoU over the classes in its truth, 0-1. Rare classes weigh little and
    stray pixels of absent classes nothing, so that a few images are enough."""
    milliseconds: float | None = None
    """Median of one synchronous call. Rows are timed one after the other, not in turns: compare with care."""
    failed: bool = False
    """Promised, and below a limit."""
    golden: LabelAgreement | None = None
    """The bundle's golden samples, held against the FP32 reference; they decide nothing here."""


class ProcessorMatrix(BaseModel):
    """One engine under each instruction set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    """The host's."""
    images: int
    """Evaluation images that each row labelled."""
    threads: int | None
    """CPU threads of one inference; ``None`` is the engine's default."""
    reference_mean_miou: float
    """Of the FP32 reference on the same images."""
    rows: tuple[ProcessorRow, ...]
    """Weakest instruction set first."""

    @property
    def failed(self) -> tuple[ProcessorRow, ...]:
        """Promised rows below a limit."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def summary(self) -> str:
        """One line: what failed, or the lowest agreement among what was promised and measured."""
        if self.failed:
            return "wrong on a promised processor: " + ", ".join(_figures(row) for row in self.failed)
        measured = [row for row in self.rows if row.promised and row.agreement is not None]
        if not measured:
            return "no promised instruction set could be measured here"
        worst = min(measured, key=lambda row: row.agreement or 0.0)
        return f"{len(measured)} promised instruction sets measured, lowest {_figures(worst)}"


@dataclass(frozen=True)
class MatrixRequest:
    """What to measure."""

    name: str
    """What the engine is called, e.g. ``openvino int8``."""
    command: Sequence[str]
    """Loads the engine in a process of its own; see :mod:`fptk.benchmarks.own_process`."""
    isa_variable: str | None
    """Environment variable that limits its instruction sets; ``None`` for an engine that cannot be told."""
    promised: Sequence[Family]
    """Processors that the engine is promised to be right on."""
    needs_bf16: bool = False
    """Whether it computes in bf16, which does not exist on every instruction set."""
    threads: int | None = None
    """CPU threads that the command gives it."""


@dataclass(frozen=True)
class MatrixLimits:
    """What an instruction set may lose."""

    max_miou_drop: float
    """Points (hundredths) of mIoU, to the FP32 reference."""
    max_agreement_drop: float
    """Points (hundredths of the pixels) of agreement with the reference, to the set that agrees best."""


@dataclass(frozen=True)
class GoldenImages:
    """The samples that a bundle takes along."""

    pixels: UInt8Array
    """uint8 (N, H, W, 3), preprocessed."""
    reference: UInt8Array
    """Labels of the FP32 reference, uint8 (N, H, W)."""


@dataclass(frozen=True)
class MatrixImages:
    """The images of a matrix, with what is known of them."""

    pixels: UInt8Array
    """uint8 (N, H, W, 3), preprocessed."""
    masks: Sequence[UInt8Array]
    """Truth of each, uint8 (h, w), at its own size."""
    reference: UInt8Array
    """Labels of the FP32 reference, uint8 (N, H, W)."""
    golden: GoldenImages | None = None
    classes: ClassSet = CELEBAMASK
    """What the labels mean."""
    """Labelled by each row too, and not judged."""


def measure_processors(
    request: MatrixRequest, images: MatrixImages, limits: MatrixLimits | None, listener: Listener = SILENT
) -> ProcessorMatrix:
    """Run an engine under every instruction set of this host, each in a process of its own, and judge what is promised.

    Args:
        request: the engine.
        images: at least one.
        limits: ``None`` judges nothing.
        listener: is told how many rows are done.
    """
    rows: list[ProcessorRow] = []
    with tempfile.TemporaryDirectory(prefix="fptk-") as name:
        folder = Path(name)
        golden = [images.golden.pixels] if images.golden else []
        np.save(folder / "images.npy", np.concatenate([images.pixels, *golden]))
        for place in track(listener, list(_places(request)), f"{request.name}: instruction sets"):
            figures = place.obstacle or _measured(request, images, folder, place.environment)
            row = {"instruction_set": place.name, "family": place.family, "promised": place.family in request.promised}
            rows.append(ProcessorRow(**row, **figures))
    reference = _mean_miou(images.reference, images.masks, images.classes)
    if limits is not None:
        rows = mark_failed(rows, reference, limits)
    return ProcessorMatrix(
        processor=cpu_model(),
        images=len(images.pixels),
        threads=request.threads,
        reference_mean_miou=reference,
        rows=tuple(rows),
    )


def mark_failed(rows: Sequence[ProcessorRow], reference: float, limits: MatrixLimits) -> list[ProcessorRow]:
    """Mark the promised rows that fall below a limit.

    A promised instruction set fails if its mean mIoU is more than ``max_miou_drop`` points under ``reference``, if its
    pixel agreement is more than ``max_agreement_drop`` points under the best one's, or if the engine crashed there.
    Classes are never judged: the images are too few.
    """
    best = max((row.agreement for row in rows if row.agreement is not None), default=0.0)

    def fails(row: ProcessorRow) -> bool:
        if not row.promised:
            return False
        if row.status == "crashed":
            return True
        if row.agreement is None or row.mean_miou is None:
            return False
        # 1e-9 keeps binary fractions from deciding a figure on the limit.
        return (
            100 * (reference - row.mean_miou) > limits.max_miou_drop + 1e-9
            or 100 * (best - row.agreement) > limits.max_agreement_drop + 1e-9
        )

    return [row.model_copy(update={"failed": fails(row)}) for row in rows]


@dataclass(frozen=True)
class _Place:
    """Where an engine is to run: a row of the matrix."""

    name: str
    family: Family
    environment: Mapping[str, str]
    """What tells the engine."""
    obstacle: dict[str, Any]
    """Status and reason of a row that cannot be measured; else empty."""


def _places(request: MatrixRequest) -> Iterator[_Place]:
    """Every instruction set, and this processor as it is for an engine that cannot be told which to use."""
    host = {each.name for each in host_instruction_sets()}
    for isa in INSTRUCTION_SETS:
        environment = {request.isa_variable: isa.name} if request.isa_variable else {}
        yield _Place(isa.name, isa.family, environment, _obstacle(request, isa, host))
    if request.isa_variable is None:
        yield _Place(NATIVE, cpu_family(), {}, {})


def _obstacle(request: MatrixRequest, isa: InstructionSet, host: set[str]) -> dict[str, Any]:
    if request.isa_variable is None:
        return {"status": "not tested", "reason": "this engine cannot be told which instruction set to use"}
    if request.needs_bf16 and not isa.bf16:
        return {"status": "not offered", "reason": "no bf16 arithmetic"}
    if isa.name not in host:
        return {"status": "not tested", "reason": f"this processor ({cpu_model()}) does not have it"}
    return {}


def _measured(
    request: MatrixRequest, images: MatrixImages, folder: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The figures of one process, or why there are none."""
    task = {"measure": LABELS, "images": str(folder / "images.npy"), "labels": str(folder / "labels.npy")}
    command = [*request.command, json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode == TargetUnavailableError.exit_code:
        return {"status": "not offered", "reason": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        died = crash_of(done.returncode) or f"exit code {done.returncode}"
        return {"status": "crashed", "reason": f"{died}: {lines[-1] if lines else 'no message'}"}
    both = np.load(folder / "labels.npy", allow_pickle=False)
    labels, golden = both[: len(images.pixels)], both[len(images.pixels) :]
    return {
        "status": "measured",
        "agreement": float((labels == images.reference).mean()),
        "mean_miou": _mean_miou(labels, images.masks, images.classes),
        "milliseconds": float(json.loads(done.stdout.splitlines()[-1])["milliseconds"]),
        "golden": _compared(golden, images),
    }


def label_images(session: Session, images: Path, labels: Path) -> dict[str, Any]:
    """Label every image of a file, in the process of the engine.

    Args:
        session: the engine.
        images: ``.npy`` of uint8 (N, H, W, 3), preprocessed.
        labels: ``.npy`` to write, uint8 (N, H, W).

    Returns:
        ``milliseconds``: the median of a call.
    """
    found, times = [], []
    pixels = np.load(images, allow_pickle=False)
    session(pixels[:1])
    for image in pixels:
        start = time.perf_counter_ns()
        found.append(session(image[None]))
        times.append((time.perf_counter_ns() - start) / 1e6)
    np.save(labels, np.concatenate(found))
    return {"milliseconds": statistics.median(times)}


def _compared(labels: UInt8Array, images: MatrixImages) -> LabelAgreement | None:
    reference = images.golden
    return compare_labels([*labels], [*reference.reference], images.classes) if reference else None


def _mean_miou(labels: UInt8Array, masks: Sequence[UInt8Array], classes: ClassSet) -> float:
    values = []
    for label, mask in zip(labels, masks, strict=True):
        matrix = ConfusionMatrix(classes)
        matrix.add(mask, resize_labels(label, (mask.shape[0], mask.shape[1])))
        present = [score.iou for score in matrix.scores().per_class.values() if score.pixels and score.iou is not None]
        if present:
            values.append(statistics.fmean(present))
    return statistics.fmean(values) if values else 0.0


def _figures(row: ProcessorRow) -> str:
    if row.agreement is None or row.mean_miou is None:
        return f"{row.instruction_set} ({row.reason})"
    return f"{row.instruction_set} {100 * row.agreement:.2f} % of pixels as FP32, mIoU {100 * row.mean_miou:.2f}"
