"""The tables of ``fptk bench``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich import box
from rich.table import Table

from fptk.benchmarks.report import BenchReport, Row
from fptk.workflows.verdicts import describe

MARKS = {"manifest": "†", "simulated": "*"}
"""What stands behind figures that were not measured now, by :attr:`fptk.benchmarks.report.Row.accuracy`."""

HEADINGS = ("target", "prec.", "mIoU", "f1", "Δ", "FPS", "p50", "p90", "p99", "MB", "peak", "verdict")


def render(report: BenchReport) -> Table:
    """The table that ``fptk bench`` prints."""
    conditions = report.conditions
    cpu = f"{report.host['cpu']}, {conditions['threads']} threads, batch {conditions['batch']}"
    measured = "throughput" if _throughput(report) else "latency"
    timed = any(row.fps for row in report.rows)
    table = Table(
        title=f"{cpu}, {measured}, {conditions['interleaved_rounds']} interleaved rounds" if timed else cpu,
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
        mark = MARKS.get(report.reference["accuracy"], "")
        miou, f1 = (_points(report.reference[name], mark) for name in ("miou", "f1"))
        table.add_row(report.reference.get("name", "pytorch"), "fp32", miou, f1, *[""] * 7, "reference")
    for row in report.rows:
        mark = MARKS.get(row.accuracy, "")
        accuracy = [_points(row.miou, mark), _points(row.f1, mark), _points(row.delta_miou, mark, signed=True)]
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
            _verdict(row),
        )
    table.caption = "\n".join(_caption(report))
    table.caption_justify = "left"
    return table


def _caption(report: BenchReport) -> Iterator[str]:
    """What the figures mean, where they are from, and why some are missing; one line each."""
    rows = [(_label(report, row), row) for row in report.rows]
    if _throughput(report):
        yield "mIoU, f1, Δ (to the reference) in points; FPS of all requests; p50, p90, p99 in ms of one request"
        flying = [
            (label, f"{at_once.requests} requests in {at_once.streams} streams on {at_once.threads} threads")
            for label, row in rows
            if (at_once := row.concurrency)
        ]
        yield from _grouped("at once:", flying)
    else:
        yield "mIoU, f1, Δ (to the reference) in points; p50, p90, p99 in ms of a call; peak: MB that a call adds"
    now = [(label, row) for label, row in rows if row.accuracy == "measured"]
    yield from _grouped("judged against", [(label, describe(row.reference)) for label, row in now if row.reference])
    yield from _grouped("not judged:", [(label, row.reason) for label, row in now if row.verdict == "not judged"])
    unjudged = [(label, ", ".join(row.unjudged_classes) or "none") for label, row in rows if row.judged_classes]
    yield from _grouped("classes not judged, which the images show too little of:", unjudged)
    manifest = [
        (label, _place(row.measured_on, row.same_machine, report))
        for label, row in rows
        if row.accuracy != "simulated" and _mark(row)
    ]
    if report.reference and report.reference["accuracy"] == "manifest":
        known = report.reference
        manifest.insert(
            0, (f"{known.get('name', 'pytorch')} fp32", _place(known["measured_on"], known["same_machine"], report))
        )
    yield from _grouped(f"{MARKS['manifest']} from the manifest, measured on", manifest)
    simulated = [
        (label, _place(row.measured_on, row.same_machine, report)) for label, row in rows if row.accuracy == "simulated"
    ]
    yield from _grouped(
        f"{MARKS['simulated']} from the manifest, scored by ONNX Runtime on the engine's graph on", simulated
    )
    yield from (f"{label}: {row.note}" for label, row in rows if row.note)


def _throughput(report: BenchReport) -> bool:
    return report.conditions.get("mode") == "throughput"


def _grouped(heading: str, texts: list[tuple[str, str]]) -> Iterator[str]:
    """One line of what each row has to say, each text once; with the rows' names where they do not all say the same."""
    rows: dict[str, list[str]] = defaultdict(list)
    for label, text in texts:
        rows[text].append(label)
    if len(rows) == 1:
        yield f"{heading} {next(iter(rows))}"
    elif rows:
        yield f"{heading} " + "; ".join(f"{text} ({', '.join(labels)})" for text, labels in rows.items())


def _place(measured_on: str | None, same_machine: bool, report: BenchReport) -> str:
    """The machine that figures in a manifest are from."""
    if same_machine:
        return "this processor"
    here = report.host.get("cpu")
    return f"{here}, with other instruction sets or engine versions" if measured_on == here else str(measured_on)


def _mark(row: Row) -> str:
    """The mark of a verdict that was not had now; none where there is no verdict."""
    if row.accuracy == "none":
        return MARKS["manifest"] if row.verdict in ("pass", "refused") else ""
    return MARKS.get(row.accuracy, "")


def _verdict(row: Row) -> str:
    """The verdict, with how many classes it stands on."""
    if row.verdict not in ("pass", "refused"):
        return row.verdict
    judged, total = len(row.judged_classes), len(row.judged_classes) + len(row.unjudged_classes)
    return row.verdict + (f" {judged}/{total}" if total else "") + _mark(row)


def render_roofline(report: BenchReport) -> Table:
    """What share of its own limit each engine reaches: the host's rate of products in its precision."""
    limits = report.conditions["limits"]
    rates = [f"{name} {rate:.1f}" if rate else f"{name} not measured" for name, rate in limits["gmacs_per_s"].items()]
    memory = f"memory {limits['memory_gb_per_s']:.1f} GB/s"
    table = Table(
        title=f"limits in the same run, G multiply-adds/s: {', '.join(rates)}; {memory}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    if report.several:
        table.add_column("network")
    for heading in ("target", "prec.", "M multiply-adds", "ms at its limit", "p50 ms", "of its limit"):
        table.add_column(heading, justify="left" if heading in ("target", "prec.") else "right")
    for row in report.rows:
        if row.macs and row.p50_ms:
            least, share = row.roofline_ms, row.roofline_fraction
            bound = (f"{least:.1f}", f"{share:.0%}") if least and share else ("not measured", "-")
            figures = (f"{row.macs / 1e6:.0f}", bound[0], f"{row.p50_ms:.1f}", bound[1])
            table.add_row(*_network(report, row), _name(row), row.precision, *figures)
    lines = ["its limit: all multiply-adds at the rate of the engine's precision; fp16 computes in float32"]
    table.caption = "\n".join([*lines, *(f"{name}: {note}" for name, note in limits["notes"].items())])
    table.caption_justify = "left"
    return table


def render_photo(report: BenchReport) -> Table:
    """The stages of a photograph, from its decoded pixels to labels of its size."""
    width, height = report.conditions["photo"]
    batch = report.conditions["batch"]
    what = f"a photograph of {width}x{height}" if batch == 1 else f"{batch} photographs of {width}x{height} in one call"
    table = Table(title=f"{what}, ms", title_justify="left", box=box.SIMPLE_HEAD)
    if report.several:
        table.add_column("network")
    for heading in ("target", "prec.", "preprocess", "infer", "postprocess", "whole"):
        table.add_column(heading, justify="left" if heading in ("target", "prec.") else "right")
    for row in report.rows:
        if row.photo:
            stages = (row.photo.preprocess_ms, row.photo.infer_ms, row.photo.postprocess_ms, row.photo.whole_ms)
            table.add_row(*_network(report, row), _name(row), row.precision, *(f"{stage:.2f}" for stage in stages))
    table.caption = (
        "preprocess: resize to the engine's size; postprocess: labels to the photograph's size; not timed: decoding"
    )
    table.caption_justify = "left"
    return table


def _network(report: BenchReport, row: Row) -> list[str]:
    """The cell of the column that tables of several checkpoints begin with."""
    return [f"{row.network} {row.checkpoint_sha256[:6]}"] if report.several else []


def _label(report: BenchReport, row: Row) -> str:
    """A row's name in the caption."""
    return " ".join([*_network(report, row), row.label])


def _name(row: Row) -> str:
    return row.target + (" original" if row.graph == "original" else "")


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def _points(value: float | None, mark: str = "", *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return (f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}") + mark
