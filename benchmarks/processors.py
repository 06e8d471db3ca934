"""The processor matrix: one engine under every instruction set that this host can be told to use.

An engine's kernels are chosen on the machine where it runs. OpenVINO can be told to forget instruction sets when it is
loaded, so each row is a process of its own: ``python -m fptk.benchmarks.processors`` with one JSON argument. It labels
a few images, writes the label maps, and answers with one JSON line on stdout. Its parent compares and judges.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from fptk.calibration.gate import GatePolicy
from fptk.core.cpu import (
    INSTRUCTION_SETS,
    ISA_VARIABLE,
    Cpu,
    Family,
    InstructionSet,
    cpu_family,
    cpu_model,
    host_instruction_sets,
    promised_families,
)
from fptk.core.dataset import UInt8Array
from fptk.core.errors import TargetUnavailableError
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.export.targets.registry import get_target

NATIVE = "native"
"""Row of an engine that cannot be told which instruction set to use."""

Status = Literal["measured", "not offered", "not tested", "crashed"]


class ProcessorRow(BaseModel):
    """One instruction set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction_set: str
    """oneDNN's name, or :data:`NATIVE` for an engine that cannot be told which to use."""
    family: Family
    promised: bool
    """Whether the bundle promises to be right there."""
    status: Status
    """``not offered``: this precision does not exist there; ``not tested``: this host cannot be made to use it."""
    reason: str = ""
    """Why there are no figures."""
    agreement: float | None = None
    """Share of the pixels labelled as by the FP32 reference, 0-1."""
    mean_miou: float | None = None
    """Mean over the images of each image's own mIoU over the classes in its truth, 0-1. A rare class weighs little in
    it, and a stray pixel of a class that is not there nothing, so that a few images are enough."""
    milliseconds: float | None = None
    """Median of one synchronous call; of a process that measured nothing against it, so compare with care."""
    failed: bool = False
    """Promised, and below a limit."""


class ProcessorMatrix(BaseModel):
    """What became of one engine under each instruction set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    """The host's."""
    images: int
    threads: int | None
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

    target: str
    engine: Path
    spec: PreprocessSpec
    precision_hint: str | None
    """As for :meth:`fptk.export.targets.base.Target.load`; ``bf16`` does not exist on every instruction set."""
    cpu: Cpu
    """The bundle's promise."""
    threads: int | None


@dataclass(frozen=True)
class MatrixImages:
    """The images of a matrix, with what is known of them."""

    pixels: UInt8Array
    """uint8 (N, H, W, 3), preprocessed."""
    masks: Sequence[UInt8Array]
    """Truth of each, uint8 (h, w), at its own size."""
    reference: UInt8Array
    """Labels of the FP32 reference, uint8 (N, H, W)."""


def measure_processors(
    request: MatrixRequest,
    images: MatrixImages,
    policy: GatePolicy | None,
    on_row: Callable[[int], None] | None = None,
) -> ProcessorMatrix:
    """Run an engine under every instruction set of this host, each in a process of its own, and judge what is promised.

    Args:
        request: the engine.
        images: at least one.
        policy: limits; ``None`` judges nothing.
        on_row: called with the number of rows done.
    """
    promised = promised_families(request.cpu)
    variable = get_target(request.target).isa_variable
    host = {each.name for each in host_instruction_sets()}
    rows: list[ProcessorRow] = []
    with tempfile.TemporaryDirectory(prefix="fptk-") as name:
        folder = Path(name)
        np.save(folder / "images.npy", images.pixels)
        for each in INSTRUCTION_SETS:
            if variable is None:
                row = _untold_row(each, promised)
            else:
                row = _row(request, each, each.name in host, images, folder, promised)
            rows.append(row)
            if on_row:
                on_row(len(rows))
        if variable is None:
            rows.append(_native_row(request, images, folder, promised))
    reference = _mean_miou(images.reference, images.masks)
    if policy is not None:
        rows = mark_failed(rows, reference, policy)
    return ProcessorMatrix(
        processor=cpu_model(),
        images=len(images.pixels),
        threads=request.threads,
        reference_mean_miou=reference,
        rows=tuple(rows),
    )


def mark_failed(rows: Sequence[ProcessorRow], reference: float, policy: GatePolicy) -> list[ProcessorRow]:
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
            100 * (reference - row.mean_miou) > policy.max_miou_drop + 1e-9
            or 100 * (best - row.agreement) > policy.max_agreement_drop + 1e-9
        )

    return [row.model_copy(update={"failed": fails(row)}) for row in rows]


def _row(
    request: MatrixRequest,
    isa: InstructionSet,
    on_host: bool,
    images: MatrixImages,
    folder: Path,
    promised: Sequence[Family],
) -> ProcessorRow:
    row = ProcessorRow(
        instruction_set=isa.name,
        family=isa.family,
        promised=isa.family in promised,
        status="not offered",
        reason="no bf16 arithmetic",
    )
    if request.precision_hint == "bf16" and not isa.bf16:
        return row
    if not on_host:
        reason = f"this processor ({cpu_model()}) does not have it"
        return row.model_copy(update={"status": "not tested", "reason": reason})
    return row.model_copy(update=_measured(request, images, folder, {ISA_VARIABLE: isa.name}))


def _untold_row(isa: InstructionSet, promised: Sequence[Family]) -> ProcessorRow:
    return ProcessorRow(
        instruction_set=isa.name,
        family=isa.family,
        promised=isa.family in promised,
        status="not tested",
        reason="this engine cannot be told which instruction set to use",
    )


def _native_row(request: MatrixRequest, images: MatrixImages, folder: Path, promised: Sequence[Family]) -> ProcessorRow:
    """Of an engine that cannot be told which instruction set to use: as it runs on this processor."""
    row = ProcessorRow(
        instruction_set=NATIVE, family=cpu_family(), promised=cpu_family() in promised, status="not tested"
    )
    return row.model_copy(update=_measured(request, images, folder, {}))


def _measured(
    request: MatrixRequest, images: MatrixImages, folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """The figures of one process, or why there are none."""
    argument = {
        "target": request.target,
        "engine": str(request.engine),
        "spec": request.spec.model_dump(mode="json"),
        "options": {"threads": request.threads, "precision_hint": request.precision_hint},
        "images": str(folder / "images.npy"),
        "labels": str(folder / "labels.npy"),
    }
    command = [sys.executable, "-m", "fptk.benchmarks.processors", json.dumps(argument)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode == TargetUnavailableError.exit_code:
        return {"status": "not offered", "reason": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        died = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"status": "crashed", "reason": f"{died}: {lines[-1] if lines else 'no message'}"}
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return {
        "status": "measured",
        "reason": "",
        "agreement": float((labels == images.reference).mean()),
        "mean_miou": _mean_miou(labels, images.masks),
        "milliseconds": float(json.loads(done.stdout.splitlines()[-1])["milliseconds"]),
    }


def _mean_miou(labels: UInt8Array, masks: Sequence[UInt8Array]) -> float:
    values = []
    for label, mask in zip(labels, masks, strict=True):
        matrix = ConfusionMatrix()
        matrix.add(mask, resize_labels(label, (mask.shape[0], mask.shape[1])))
        present = [score.iou for score in matrix.scores().per_class.values() if score.pixels and score.iou is not None]
        values.append(statistics.fmean(present))
    return statistics.fmean(values)


def _figures(row: ProcessorRow) -> str:
    if row.agreement is None or row.mean_miou is None:
        return f"{row.instruction_set} ({row.reason})"
    return f"{row.instruction_set} {100 * row.agreement:.2f} % of pixels as FP32, mIoU {100 * row.mean_miou:.2f}"


def _run(request: dict[str, Any]) -> float:
    """Label every image; returns the median milliseconds of a call."""
    spec = PreprocessSpec.model_validate(request["spec"])
    images = np.load(request["images"], allow_pickle=False)
    labels, times = [], []
    with get_target(request["target"]).load(Path(request["engine"]), spec, **request["options"]) as session:
        session(images[:1])
        for image in images:
            start = time.perf_counter_ns()
            labels.append(session(image[None]))
            times.append((time.perf_counter_ns() - start) / 1e6)
        np.save(request["labels"], np.concatenate(labels))
    return statistics.median(times)


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps({"milliseconds": _run(json.loads(sys.argv[1]))}) + "\n")
    except TargetUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
