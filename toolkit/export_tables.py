"""The tables of ``fptk export``."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from fptk.benchmarks.processors import NATIVE, ProcessorMatrix, ProcessorRow
from fptk.bundle import Bundle
from fptk.calibration.isa import INSTRUCTION_SETS


def render_classes(bundle: Bundle) -> Table:
    """What the gate saw of each class, the worst first, and why a class failed or was not judged."""
    assert bundle.gate is not None
    policy = bundle.gate["policy"]
    table = Table(title=f"{bundle.label}: IoU by class, in points", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("class", "FP32", "engine", "Δ", "pixels", "verdict"):
        table.add_column(heading, justify="left" if heading in ("class", "verdict") else "right")
    for row in sorted(bundle.gate["classes"], key=lambda row: -(row["drop"] or 0.0)):
        if row["drop"] is None:
            continue
        verdict = "" if row["judged"] else f"not judged: under {policy['min_class_pixels']} pixels"
        if row["failed"]:
            verdict = f"fell by more than {policy['max_class_drop']:g}"
        scores = (f"{100 * row[name]:.2f}" for name in ("reference_iou", "iou"))
        table.add_row(row["name"], *scores, f"{-row['drop']:+.2f}", str(row["pixels"]), verdict)
    return table


def render_processors(measured: Sequence[tuple[str, ProcessorMatrix]]) -> Table:
    """The processor matrices of several engines: a row for each instruction set, a column for each engine."""
    first = measured[0][1]
    table = Table(
        title=f"instruction sets, {first.images} images: % of pixels as FP32, mIoU, ms ({first.processor})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("instruction set", no_wrap=True)
    for label, _ in measured:
        table.add_column(escape(label), justify="right")
    columns = [{row.instruction_set: row for row in matrix.rows} for _, matrix in measured]
    for name in [*(each.name for each in INSTRUCTION_SETS), NATIVE]:
        rows = [column.get(name) for column in columns]
        if any(rows):
            table.add_row(name, *(_processor_cell(row) if row else "" for row in rows))
    table.caption = f"FP32 reference: mIoU {100 * first.reference_mean_miou:.2f}, each image's own, averaged"
    table.caption_justify = "left"
    if any(not row.promised for _, matrix in measured for row in matrix.rows):
        table.caption += "; in brackets: not promised"
    return table


def _processor_cell(row: ProcessorRow) -> str:
    text: str = row.status
    if row.agreement is not None and row.mean_miou is not None and row.milliseconds is not None:
        text = f"{100 * row.agreement:.2f}  {100 * row.mean_miou:.2f}  {row.milliseconds:5.1f}"
    if row.failed:
        return f"refused: {text}"
    return text if row.promised else f"({text})"


def render_sensitivity(bundle: Bundle) -> Table:
    """The ranking of layer groups that the bundle keeps, the most sensitive first."""
    ranking = bundle.build["sensitivity"]
    table = Table(title=f"{bundle.label}: INT8 in one group alone", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("layer group")
    table.add_column("logits SNR, dB", justify="right")
    table.add_column("layers", justify="right")
    for row in ranking["rows"]:
        table.add_row(row["group"], f"{row['snr_db']:.1f}", str(len(row["nodes"])))
    if ranking["unmeasured"]:
        table.caption = f"time ran out before {len(ranking['unmeasured'])} more groups: run it again, it goes on there"
        table.caption_justify = "left"
    return table
