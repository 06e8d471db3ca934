"""The one table as values: a row for each engine, the conditions of the figures, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fptk.benchmarks.photo import PhotoSplit
from fptk.benchmarks.throughput import Concurrency
from fptk.core.cpu import has_vnni
from fptk.core.errors import GateRefusedError


@dataclass(frozen=True)
class Row:
    """One engine. Accuracy is a fraction of 1, times are milliseconds of one batch; ``None`` is "not measured"."""

    network: str
    """Name of the network in the registry."""
    checkpoint_sha256: str
    """Whose weights the engine holds."""
    target: str
    precision: str
    graph: str
    """``deploy``: the rewritten graph; ``original``: the network as it is written."""
    miou: float | None
    f1: float | None
    delta_miou: float | None
    """mIoU minus that of ``reference`` on the same images."""
    fps: float | None
    """Images a second: batch / median latency of one synchronous call, or the rate of the median turn where
    ``concurrency`` says that several requests were in flight."""
    p50_ms: float | None
    """Of a call; of one request among those in flight where there are several. Likewise the next two."""
    p90_ms: float | None
    p99_ms: float | None
    size_bytes: int
    peak_bytes: int | None
    """Peak memory that one inference adds to a process with the engine loaded."""
    macs: int | None
    """Multiply-adds of one image through the exported graph."""
    roofline_ms: float | None
    """Milliseconds that ``macs`` would take at this host's rate of products in the engine's precision; ``None`` where
    that was not measured, and for an engine that does not run on the CPU."""
    roofline_fraction: float | None
    """``roofline_ms`` over the milliseconds of one image."""
    verdict: str
    """``pass``, ``refused``, ``not judged`` or ``unavailable``; judged now where ``accuracy`` is ``measured``."""
    accuracy: str
    """``measured`` now, ``manifest`` (measured at export), ``simulated`` by another engine at export, or ``none``."""
    note: str = ""
    """Why a figure is missing, or the command of the engine's own tool that measures the same."""
    measured_on: str | None = None
    """Processor that accuracy and verdict are from; ``None`` where there is neither."""
    same_machine: bool = False
    """Whether a verdict from the manifest is from this machine and this version of the engine."""
    reference: str | None = None
    """What accuracy and verdict are relative to: ``manifest``, the network itself (``pytorch fp32``, ``onnx file
    fp32``), or the name of an FP32 engine."""
    judged_classes: tuple[str, ...] = ()
    """Classes that the verdict stands on."""
    unjudged_classes: tuple[str, ...] = ()
    """Classes that the images show nothing or too little of."""
    reason: str = ""
    """Why the verdict is what it is, in one line."""
    concurrency: Concurrency | None = None
    """What was in flight while throughput was measured; ``None`` for latency."""
    photo: PhotoSplit | None = None
    """The stages of a photograph of the size in the conditions."""
    calls_ms: tuple[float, ...] = ()
    """Milliseconds of every timed call, or of every request where several were in flight, in order."""

    @property
    def label(self) -> str:
        """Short name, e.g. ``onnx int8``."""
        return f"{self.target} {self.precision}" + (" original" if self.graph == "original" else "")

    @property
    def holds_here(self) -> bool:
        """Whether the verdict is from this machine, now or at export."""
        return self.accuracy == "measured" or self.same_machine


@dataclass(frozen=True)
class BenchReport:
    """Rows with the conditions they were measured under."""

    host: dict[str, Any]
    conditions: dict[str, Any]
    reference: dict[str, Any] | None
    """``miou`` and ``f1`` of the network itself, whose ``name`` is ``pytorch`` or ``onnx file``, with ``accuracy`` and
    ``measured_on`` as in :class:`Row` (and ``same_machine`` where they are the manifest's); ``None`` where the rows are
    of several networks, or none is known."""
    rows: list[Row]

    @property
    def several(self) -> bool:
        """Whether the rows are engines of several checkpoints."""
        return len({row.checkpoint_sha256 for row in self.rows}) > 1

    def __str__(self) -> str:
        """A plain table, one line for each engine; ``fptk bench`` prints a fuller one."""
        lines: list[tuple[str, ...]] = [("engine", "mIoU", "FPS", "p50 ms", "MB", "verdict")]
        for row in self.rows:
            name = f"{row.network} {row.label}" if self.several else row.label
            miou = "-" if row.miou is None else f"{100 * row.miou:.2f}"
            speed = ("-" if value is None else f"{value:.1f}" for value in (row.fps, row.p50_ms))
            lines.append((name, miou, *speed, f"{row.size_bytes / 1e6:.1f}", str(row.verdict)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = (0, len(widths) - 1)
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place in left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def recommend(report: BenchReport) -> str | None:
    """One sentence: the fastest engine that passed on this machine, and what INT8 did on this host.

    A verdict from another machine recommends nothing, and the sentence says so. There is no sentence (``None``) without
    figures, and none between engines of several checkpoints: each passed a gate of its own.
    """
    passed = [row for row in report.rows if row.verdict == "pass" and row.fps and row.graph == "deploy"]
    if not passed or report.several:
        return None
    foreign = [row for row in passed if not row.holds_here]
    passed = [row for row in passed if row.holds_here]
    elsewhere = ", ".join(row.label for row in foreign)
    if not passed:
        return f"nothing is recommended: {elsewhere} passed on another machine; run with --data DIR to judge here"
    at_once = " with several requests at once" if report.conditions.get("mode") == "throughput" else ""
    sentence = _fastest(passed, report.host["isa"], at_once)
    return (
        f"{sentence}; left out: {elsewhere}, judged on another machine (run with --data DIR)" if foreign else sentence
    )


def _fastest(passed: list[Row], isa: Sequence[str], at_once: str) -> str:
    best = max(passed, key=lambda row: row.fps or 0)
    sentence = f"fastest here{at_once} among what passed the gate: {best.target} {best.precision} ({best.fps:.1f} FPS)"
    by_precision = {row.precision: row.fps for row in passed if row.target == best.target}
    int8, fp32 = by_precision.get("int8"), by_precision.get("fp32")
    if not (int8 and fp32):
        return sentence
    ratio = f"; INT8 runs at {int8 / fp32:.2f}x the speed of FP32 in {best.target}"
    if has_vnni(isa):
        return f"{sentence}{ratio} on this processor with VNNI"
    return f"{sentence}{ratio}: this processor has no VNNI; on AVX-VNNI, AMX or an NPU expect more"


def raise_if_refused(report: BenchReport) -> None:
    """Raise for the refused engines of a report; a command calls it after printing the table.

    Raises:
        GateRefusedError: an engine is refused; the message names each one and the reason.
    """
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.verdict == "refused":
            origin = "" if row.accuracy == "measured" else f" (from the manifest, judged on {row.measured_on})"
            reasons.setdefault(row.reason + origin, []).append(row.label)
    if reasons:
        raise GateRefusedError("; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()))
