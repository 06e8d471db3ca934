"""The one table: accuracy and speed of every bundle of a run, on the same images with the same code."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fptk.benchmarks.latency import Latency, LatencyPlan, measure
from fptk.bundle import Bundle, find_bundles, open_bundle, read_bundle
from fptk.cli.console import counting, log
from fptk.data import open_evaluation
from fptk.data.splits import limit
from fptk.data.synthetic import draw_face
from fptk.dataset import FaceParsingDataset, UInt8Array
from fptk.errors import InputError, TargetUnavailableError
from fptk.evaluate import evaluate_all
from fptk.host import describe_host, usable_cores
from fptk.metrics import Scores
from fptk.recipes.schema import BenchSection
from fptk.runs import BUNDLES, Source
from fptk.session import Session

HEADINGS = ("target", "prec.", "mIoU", "f1", "Δ", "FPS", "p50", "p90", "p99", "MB", "verdict")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    fps: bool = True
    """Measure speed."""
    dataset: FaceParsingDataset | None = None
    """Score every engine on these images; ``None`` takes the scores that the bundles carry from their export."""
    reference: Session | None = None
    """The FP32 network itself, scored beside the engines; ``None`` takes its scores from the bundles."""
    threads: int | None = None
    """CPU threads of one inference; ``None`` is every core this process may use."""
    batch: int = 1
    latency: LatencyPlan = field(default_factory=LatencyPlan)


@dataclass(frozen=True)
class Row:
    """One engine. Accuracy is a fraction of 1, times are milliseconds of one batch; ``None`` is "not measured"."""

    target: str
    precision: str
    variant: str
    miou: float | None
    f1: float | None
    delta_miou: float | None
    """mIoU minus that of the FP32 reference on the same images."""
    fps: float | None
    """Images a second: batch / median latency of one synchronous call."""
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    size_bytes: int
    verdict: str
    accuracy: str
    """``measured`` now, ``manifest`` (measured at export), ``simulated`` by another engine at export, or ``none``."""
    note: str = ""
    """Why a figure is missing."""


@dataclass(frozen=True)
class BenchReport:
    """Rows with the conditions they were measured under."""

    host: dict[str, Any]
    conditions: dict[str, Any]
    reference: dict[str, float] | None
    """mIoU and f1 of the FP32 reference."""
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass
class _Contender:
    """A bundle on its way through the benchmark."""

    bundle: Bundle
    session: Session | None
    note: str = ""
    scores: Scores | None = None
    latency: Latency | None = None


def bench(folders: Sequence[Path], image: UInt8Array, plan: BenchPlan) -> BenchReport:
    """Measure the bundles in ``folders`` against each other.

    Args:
        folders: bundle folders, at least one.
        image: uint8 (H, W, 3) photograph that the speed is measured with.
        plan: what to measure.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    if not folders:
        raise InputError("there is no bundle to measure; run `fptk export` first")
    threads = plan.threads or usable_cores()
    with ExitStack() as stack:
        contenders = [_open(folder, threads, stack) for folder in folders]
        running = [contender for contender in contenders if contender.session is not None]
        reference = _score(running, plan)
        if plan.fps and running:
            _time(running, image, plan)
    rows = [_row(contender, reference) for contender in contenders]
    known = reference or next((_from_manifest(c.bundle) for c in contenders if c.bundle.evaluation), None)
    conditions = {
        "mode": "latency",
        "threads": threads,
        "batch": plan.batch,
        "interleaved_rounds": plan.latency.rounds,
        "calls_per_round": plan.latency.calls,
        "dataset": plan.dataset.name if plan.dataset else None,
        "images": len(plan.dataset) if plan.dataset else None,
    }
    return BenchReport(describe_host(), conditions, known, rows)


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
    for heading in HEADINGS:
        left = heading in ("target", "prec.", "verdict")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    if report.reference:
        miou, f1 = (f"{100 * report.reference[name]:.2f}" for name in ("miou", "f1"))
        table.add_row("pytorch", "fp32", miou, f1, "", "", "", "", "", "", "reference")
    for row in report.rows:
        name = row.target + (" naive" if row.variant == "naive" else "")
        accuracy = [_points(row.miou), _points(row.f1), _points(row.delta_miou, signed=True)]
        if row.accuracy == "simulated":
            accuracy = [f"{text}*" for text in accuracy]
        figures = (row.fps, row.p50_ms, row.p90_ms, row.p99_ms)
        speed = ["-" if value is None else f"{value:.1f}" for value in figures]
        table.add_row(name, row.precision, *accuracy, *speed, f"{row.size_bytes / 1e6:.2f}", row.verdict)
    table.caption = "mIoU, f1 and Δ (to the reference) in points; p50, p90, p99 in ms of one call"
    table.caption_justify = "left"
    if any(row.accuracy == "simulated" for row in report.rows):
        table.caption += (
            "\n* simulated: the graph was scored by ONNX Runtime; the engine itself cannot run on this host"
        )
    return table


def _open(folder: Path, threads: int, stack: ExitStack) -> _Contender:
    bundle = read_bundle(folder)
    if bundle.engine is None:
        return _Contender(bundle, None, note=bundle.unavailable or "")
    try:
        bundle, session = open_bundle(folder, threads=threads)
    except TargetUnavailableError as error:
        log.print(f"{bundle.label}: {error}")
        return _Contender(bundle, None, note=str(error))
    return _Contender(bundle, stack.enter_context(session))


def _score(contenders: list[_Contender], plan: BenchPlan) -> dict[str, float] | None:
    """Score every session on ``plan.dataset`` in one pass; returns the reference's figures if it was scored."""
    if plan.dataset is None:
        return None
    sessions = [contender.session for contender in contenders if contender.session]
    if plan.reference:
        sessions.append(plan.reference)
    with counting("scoring", len(plan.dataset)) as on_image:
        scores = evaluate_all(sessions, plan.dataset, on_image=on_image)
    for contender, result in zip(contenders, scores, strict=False):
        contender.scores = result
    return {"miou": scores[-1].miou, "f1": scores[-1].f1} if plan.reference else None


def _time(contenders: list[_Contender], image: UInt8Array, plan: BenchPlan) -> None:
    sessions = [contender.session for contender in contenders if contender.session]
    with counting("timing, in turns", plan.latency.rounds, animated=False) as on_round:
        results = measure(sessions, image, batch=plan.batch, plan=plan.latency, on_round=on_round)
    for contender, result in zip(contenders, results, strict=True):
        contender.latency = result


def _from_manifest(bundle: Bundle) -> dict[str, float]:
    assert bundle.evaluation is not None
    return {name: float(bundle.evaluation.reference[name]) for name in ("miou", "f1")}


def _row(contender: _Contender, reference: dict[str, float] | None) -> Row:
    bundle, latency = contender.bundle, contender.latency
    miou = f1 = delta = None
    accuracy = "none"
    if contender.scores:
        miou, f1, accuracy = contender.scores.miou, contender.scores.f1, "measured"
        delta = miou - reference["miou"] if reference else None
    elif bundle.evaluation:
        miou, f1 = float(bundle.evaluation.engine["miou"]), float(bundle.evaluation.engine["f1"])
        delta = miou - _from_manifest(bundle)["miou"]
        accuracy = "simulated" if bundle.evaluation.simulated_by else "manifest"
    return Row(
        target=bundle.target,
        precision=str(bundle.precision),
        variant=bundle.variant,
        miou=miou,
        f1=f1,
        delta_miou=delta,
        fps=latency.fps if latency else None,
        p50_ms=latency.percentile(50) if latency else None,
        p90_ms=latency.percentile(90) if latency else None,
        p99_ms=latency.percentile(99) if latency else None,
        size_bytes=bundle.size_bytes,
        verdict=bundle.verdict,
        accuracy=accuracy,
        note=contender.note,
    )


def _points(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


@dataclass(frozen=True)
class BenchRequest:
    """What ``fptk bench`` was asked for, before data and bundles are looked up."""

    fps: bool = True
    accuracy: bool = True
    data: Path | None = None
    eval_images: int | None = None
    threads: int | None = None
    batch: int = 1
    rounds: int | None = None


def bench_source(source: Source, request: BenchRequest) -> BenchReport:
    """Measure every bundle of a run, with the run's own data and recipe where the request names none.

    Raises:
        InputError: the run has no bundle, or its data is gone.
    """
    folders = find_bundles(source.folder / BUNDLES)
    if not folders:
        raise InputError(f"{source.folder} holds no bundle; run `fptk export` first")
    reference = None
    if request.accuracy and importlib.util.find_spec("torch"):
        from fptk.models.checkpoint import load_checkpoint
        from fptk.models.session import TorchSession

        network, card = load_checkpoint(source.weights)
        reference = TorchSession(network, card.preprocess)
    dataset = source.evaluation_set(request.data)
    return _bench(folders, dataset, reference, source.recipe.bench, request)


def bench_folders(folders: Sequence[Path], request: BenchRequest) -> BenchReport:
    """Measure the bundles in ``folders``, wherever they are; accuracy needs ``request.data``.

    Raises:
        InputError: a folder is no bundle.
    """
    dataset = open_evaluation(request.data) if request.data else None
    return _bench(folders, dataset, None, BenchSection(), request)


def _bench(
    folders: Sequence[Path],
    dataset: FaceParsingDataset | None,
    reference: Session | None,
    section: BenchSection,
    request: BenchRequest,
) -> BenchReport:
    """Turn request and recipe into a plan. Speed is measured on a real image of the data where there is one."""
    plan = BenchPlan(
        fps=request.fps,
        dataset=limit(dataset, request.eval_images) if dataset and request.accuracy else None,
        reference=reference,
        threads=request.threads or section.threads,
        batch=request.batch,
        latency=LatencyPlan(rounds=request.rounds or section.rounds, calls=section.calls),
    )
    image = dataset[0].image if dataset else draw_face(0, 0, (512, 512))[0]
    return bench([path for folder in folders for path in find_bundles(folder) or [folder]], image, plan)
