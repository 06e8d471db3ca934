"""The tables of ``fptk export``."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fptk.benchmarks.processors import ProcessorMatrix, ProcessorRow
from fptk.calibration.gate import Verdict
from fptk.calibration.sensitivity import Sensitivity
from fptk.core.cpu import INSTRUCTION_SETS


def render_classes(label: str, verdict: Verdict) -> Table:
    """What the gate saw of each class, the worst first, and why a class failed or was not judged."""
    policy = verdict.policy
    table = Table(title=f"{label}: IoU by class, in points", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("class", "FP32", "engine", "Δ", "pixels", "verdict"):
        table.add_column(heading, justify="left" if heading in ("class", "verdict") else "right")
    for row in sorted(verdict.classes, key=lambda row: -(row.drop or 0.0)):
        if row.drop is None or row.reference_iou is None or row.iou is None:
            continue
        word = "" if row.judged else f"not judged: under {policy.min_class_pixels} pixels"
        if row.failed:
            word = f"fell by more than {policy.max_class_drop:g}"
        scores = (f"{100 * value:.2f}" for value in (row.reference_iou, row.iou))
        table.add_row(row.name, *scores, f"{-row.drop:+.2f}", str(row.pixels), word)
    return table


def render_processors(measured: Sequence[tuple[str, ProcessorMatrix]]) -> Table:
    """The processor matrices of several engines: what was measured or refused, and below it what was not measured."""
    first = measured[0][1]
    table = Table(
        title=f"instruction sets of {first.processor}, {first.images} images", title_justify="left", box=box.SIMPLE_HEAD
    )
    for heading in ("engine", "instruction set", "as FP32, %", "mIoU", "ms", ""):
        table.add_column(heading, justify="left" if heading in ("engine", "instruction set", "") else "right")
    for label, matrix in measured:
        name = label
        for row in matrix.rows:
            if row.status in ("measured", "crashed"):
                table.add_row(name, row.instruction_set, *_processor_cells(row))
                name = ""
    notes = [f"FP32: mIoU {100 * first.reference_mean_miou:.2f}; the mean of each image's own"]
    found = {status: _with_status(measured, status) for status in ("not offered", "not tested")}
    notes += [f"{status}: {sets}" for status, sets in found.items() if sets]
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def _processor_cells(row: ProcessorRow) -> list[str]:
    note = "refused" if row.failed else "" if row.promised else "not promised"
    if row.agreement is None or row.mean_miou is None or row.milliseconds is None:
        return ["-", "-", "-", f"{note}, {row.reason}" if note else row.reason]
    return [f"{100 * row.agreement:.2f}", f"{100 * row.mean_miou:.2f}", f"{row.milliseconds:.1f}", note]


def _with_status(measured: Sequence[tuple[str, ProcessorMatrix]], status: str) -> str:
    """The instruction sets of that status, each group with the engines that it holds for."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for label, matrix in measured:
        sets = tuple(row.instruction_set for row in matrix.rows if row.status == status)
        if sets:
            groups.setdefault(sets, []).append(label)
    known = tuple(each.name for each in INSTRUCTION_SETS)
    named = {sets: "every set by itself" if sets == known else ", ".join(sets) for sets in groups}
    return "; ".join(f"{named[sets]} ({', '.join(labels)})" for sets, labels in groups.items())


def render_sensitivity(label: str, ranking: Sensitivity) -> Table:
    """A ranking of layer groups, the most sensitive first."""
    table = Table(title=f"{label}: INT8 in one group alone", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("layer group")
    table.add_column("logits SNR, dB", justify="right")
    table.add_column("layers", justify="right")
    for row in ranking.rows:
        table.add_row(row.group, f"{row.snr_db:.1f}", str(len(row.nodes)))
    if ranking.unmeasured:
        table.caption = f"time ran out before {len(ranking.unmeasured)} more groups: run it again, it goes on there"
        table.caption_justify = "left"
    return table
