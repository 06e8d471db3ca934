"""The tables of ``fptk export``."""

from __future__ import annotations

from rich import box
from rich.table import Table

from fptk.bundle import Bundle


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
