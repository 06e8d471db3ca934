"""The tables of ``fptk verify``."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fptk.workflows.verify import Verification, VerifyReport, same_bundles

FIGURES = ("as FP32, %", "least", "lowest class", "photo, %", "ms", "at export")
"""Headings of the columns that :func:`_figures` fills."""


def render(report: VerifyReport) -> Table:
    """One row for each bundle; below them what is worth knowing of each."""
    host = report.host
    table = Table(title=f"{host['cpu']}, {host['cores']} cores", title_justify="left", box=box.SIMPLE_HEAD)
    _add_columns(table, "bundle", *FIGURES, "verdict")
    for each in report.bundles:
        table.add_row(each.label or each.folder, *_figures(each), each.verdict)
    notes = dict.fromkeys(
        f"{each.label}: {check.text}"
        for each in report.bundles
        for check in each.checks
        if check.outcome == "note" and check.name != "latency"
    )
    legend = "least: refused below; lowest class: IoU with FP32, in points; ms: median of a call, never refuses"
    table.caption, table.caption_justify = "\n".join([legend, *notes]), "left"
    return table


def render_comparison(reports: Sequence[VerifyReport]) -> Table:
    """Each bundle on every machine; copies of one bundle stand together."""
    table = Table(title="the same bundles on several machines", title_justify="left", box=box.SIMPLE_HEAD)
    _add_columns(table, "bundle", "processor", *FIGURES, "verdict")
    for group in same_bundles(reports):
        name = group[0][1].label or group[0][1].folder
        for report, each in group:
            table.add_row(name, str(report.host["cpu"]), *_figures(each), each.verdict)
            name = ""
        table.add_section()
    return table


def _add_columns(table: Table, *headings: str) -> None:
    for heading in headings:
        left = heading in ("bundle", "processor", "lowest class", "verdict")
        table.add_column(heading, justify="left" if left else "right")


def _figures(each: Verification) -> list[str]:
    lowest = f"{each.lowest_class[0]} {100 * each.lowest_class[1]:.1f}" if each.lowest_class else "-"
    times = [f"{timed.p50_ms:.1f}" if timed else "-" for timed in (each.latency, each.latency_at_export)]
    return [
        _percent(each.agreement.pixels if each.agreement else None),
        _percent(each.least_agreement),
        lowest,
        _percent(each.photograph),
        *times,
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
