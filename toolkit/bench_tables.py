"""The tables of ``fptk bench``."""

from __future__ import annotations

from rich import box
from rich.table import Table

from fptk.bench import BenchReport, Row
from fptk.benchmarks.profile import by_type, slowest
from fptk.export.targets.base import NodeTime

HEADINGS = ("target", "prec.", "mIoU", "f1", "Δ", "FPS", "p50", "p90", "p99", "MB", "peak", "verdict")


def render(report: BenchReport) -> Table:
    """The table that ``fptk bench`` prints."""
    conditions = report.conditions
    cpu = f"{report.host['cpu']}, {conditions['threads']} threads, batch {conditions['batch']}"
    table = Table(
        title=f"{cpu}, {conditions['interleaved_rounds']} interleaved rounds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    if report.several:
        table.add_column("network", no_wrap=True)
    for heading in HEADINGS:
        left = heading in ("target", "prec.", "verdict")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    if report.reference:
        miou, f1 = (f"{100 * report.reference[name]:.2f}" for name in ("miou", "f1"))
        table.add_row("pytorch", "fp32", miou, f1, *[""] * 7, "reference")
    for row in report.rows:
        accuracy = [_points(row.miou), _points(row.f1), _points(row.delta_miou, signed=True)]
        if row.accuracy == "simulated":
            accuracy = [f"{text}*" for text in accuracy]
        figures = (row.fps, row.p50_ms, row.p90_ms, row.p99_ms)
        speed = ["-" if value is None else f"{value:.1f}" for value in figures]
        table.add_row(
            *_network(report, row),
            _name(row),
            row.precision,
            *accuracy,
            *speed,
            _megabytes(row.size_bytes),
            _megabytes(row.peak_bytes),
            row.verdict,
        )
    table.caption = "mIoU, f1, Δ (to the reference) in points; p50, p90, p99 in ms of a call; peak: MB that a call adds"
    table.caption_justify = "left"
    if any(row.accuracy == "simulated" for row in report.rows):
        table.caption += (
            "\n* simulated: the graph was scored by ONNX Runtime; the engine itself cannot run on this host"
        )
    return table


def render_roofline(report: BenchReport) -> Table:
    """What share of the host's GEMM rate each engine reaches."""
    rate = report.conditions["gemm_gmacs_per_s"]
    table = Table(
        title=f"sgemm in the same run: {rate:.1f} G multiply-adds/s", title_justify="left", box=box.SIMPLE_HEAD
    )
    if report.several:
        table.add_column("network")
    for heading in ("target", "prec.", "M multiply-adds", "ms at that rate", "p50 ms", "fraction"):
        table.add_column(heading, justify="left" if heading in ("target", "prec.") else "right")
    for row in report.rows:
        if row.macs and row.roofline_ms and row.p50_ms and row.roofline_fraction:
            figures = (f"{row.macs / 1e6:.0f}", f"{row.roofline_ms:.1f}", f"{row.p50_ms:.1f}")
            table.add_row(*_network(report, row), _name(row), row.precision, *figures, f"{row.roofline_fraction:.0%}")
    return table


def render_profile(label: str, nodes: list[NodeTime]) -> Table:
    """Time by operator type, then the ten slowest nodes."""
    whole = sum(node.milliseconds for node in nodes)
    table = Table(title=f"{label}: {whole:.1f} ms in {len(nodes)} nodes", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("operator", "ms", "share", "nodes"):
        table.add_column(heading, justify="left" if heading == "operator" else "right", overflow="fold")
    for kind, milliseconds, count in by_type(nodes):
        table.add_row(kind, f"{milliseconds:.2f}", f"{milliseconds / whole:.0%}", str(count))
    table.add_section()
    for node in slowest(nodes):
        table.add_row(f"{node.type} {node.name}", f"{node.milliseconds:.2f}", f"{node.milliseconds / whole:.0%}", "")
    return table


def _network(report: BenchReport, row: Row) -> list[str]:
    """The cell of the column that tables of several checkpoints begin with."""
    return [f"{row.network} {row.checkpoint_sha256[:6]}"] if report.several else []


def _name(row: Row) -> str:
    return row.target + (" naive" if row.variant == "naive" else "")


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def _points(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"
