"""The one table: accuracy and speed of every bundle of a run, on the same images with the same code."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.benchmarks.memory import peak_memory
from fptk.benchmarks.roofline import gemm_call, gemm_rate
from fptk.bundle import Bundle, find_bundles, open_bundle, read_bundle
from fptk.calibration.isa import has_vnni
from fptk.console import counting, log, track
from fptk.data import open_evaluation
from fptk.data.splits import limit
from fptk.data.synthetic import draw_face
from fptk.dataset import FaceParsingDataset, UInt8Array
from fptk.errors import InputError, TargetUnavailableError
from fptk.evaluate import evaluate_all
from fptk.export.targets.base import NodeTime, Precision
from fptk.export.targets.registry import get_target
from fptk.files import sha256_file
from fptk.host import describe_host, usable_cores
from fptk.metrics import Scores
from fptk.recipes.schema import BenchSection
from fptk.runs import BUNDLES, Source, torch_session
from fptk.session import Session


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
    memory: bool = True
    """Measure the peak memory of one inference, each engine in a process of its own."""
    transfers: bool = True
    """Count the copies to and from a GPU."""
    roofline: bool = False
    """Measure the host's float32 GEMM rate in the same interleaved run, and what share of it each engine reaches."""


@dataclass(frozen=True)
class Row:
    """One engine. Accuracy is a fraction of 1, times are milliseconds of one batch; ``None`` is "not measured"."""

    network: str
    """Name of the network in the registry."""
    checkpoint_sha256: str
    """Whose weights the engine holds."""
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
    peak_bytes: int | None
    """What one inference adds to the memory of a process that has the engine loaded, at its peak."""
    macs: int | None
    """Multiply-adds of one image through the exported graph."""
    roofline_ms: float | None
    """Milliseconds that ``macs`` would take at this host's GEMM rate."""
    roofline_fraction: float | None
    """``roofline_ms`` over the milliseconds of one image."""
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
    """mIoU and f1 of the FP32 reference; ``None`` where none was measured and the manifests name several, or none."""
    rows: list[Row]

    @property
    def several(self) -> bool:
        """Whether the rows are engines of several checkpoints."""
        return len({row.checkpoint_sha256 for row in self.rows}) > 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def recommend(report: BenchReport) -> str | None:
    """One sentence: the fastest engine that passed, and what INT8 did on this host.

    ``None`` without figures, and between engines of several checkpoints, where the fastest says nothing: each passed
    by the measure of its own.
    """
    passed = [row for row in report.rows if row.verdict == "pass" and row.fps]
    if not passed or report.several:
        return None
    best = max(passed, key=lambda row: row.fps or 0)
    sentence = f"fastest here among what passed the gate: {best.target} {best.precision} ({best.fps:.1f} FPS)"
    by_precision = {row.precision: row.fps for row in passed if row.target == best.target and row.variant == "deploy"}
    int8, fp32 = by_precision.get("int8"), by_precision.get("fp32")
    if not (int8 and fp32):
        return sentence
    ratio = f"; INT8 runs at {int8 / fp32:.2f}x the speed of FP32 in {best.target}"
    if has_vnni(report.host["isa"]):
        return f"{sentence}{ratio} on this processor with VNNI"
    return f"{sentence}{ratio}: this processor has no VNNI; on AVX-VNNI, AMX or an NPU expect more"


@dataclass
class _Contender:
    """A bundle on its way through the benchmark."""

    folder: Path
    bundle: Bundle
    session: Session | None
    note: str = ""
    scores: Scores | None = None
    latency: Latency | None = None
    peak_bytes: int | None = None


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
        rate = _time(running, image, plan, threads) if plan.fps and running else None
    if plan.fps and plan.memory:
        _weigh(running, threads)
    rows = [_row(contender, reference, rate) for contender in contenders]
    conditions = {
        "mode": "latency",
        "threads": threads,
        "batch": plan.batch,
        "transfers": plan.transfers,
        "interleaved_rounds": plan.latency.rounds,
        "calls_per_round": plan.latency.calls,
        "dataset": plan.dataset.name if plan.dataset else None,
        "images": len(plan.dataset) if plan.dataset else None,
        "gemm_gmacs_per_s": rate / 1e9 if rate else None,
    }
    report = BenchReport(describe_host(), conditions, reference, rows)
    if reference or report.several:
        return report
    known = (_from_manifest(contender.bundle) for contender in contenders if contender.bundle.evaluation)
    return replace(report, reference=next(known, None))


def _open(folder: Path, threads: int, stack: ExitStack) -> _Contender:
    bundle = read_bundle(folder)
    if bundle.engine is None:
        return _Contender(folder, bundle, None, note=bundle.unavailable or "")
    try:
        bundle, session = open_bundle(folder, threads=threads)
    except TargetUnavailableError as error:
        log.print(f"{bundle.label}: {error}")
        return _Contender(folder, bundle, None, note=str(error))
    return _Contender(folder, bundle, stack.enter_context(session))


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


def _time(contenders: list[_Contender], image: UInt8Array, plan: BenchPlan, threads: int) -> float | None:
    """Time every session in turns; returns the GEMM rate of the same run, multiply-adds a second, where asked for."""
    sessions = [contender.session for contender in contenders if contender.session]
    calls = [as_call(session, image, plan.batch, transfers=plan.transfers) for session in sessions]
    if plan.roofline:
        calls.append(gemm_call(threads))
    with counting("timing, in turns", plan.latency.rounds, animated=False) as on_round:
        times = time_in_turns(calls, plan.latency, on_round)
    for contender, milliseconds in zip(contenders, times, strict=False):
        contender.latency = Latency(milliseconds, plan.batch)
    return gemm_rate(Latency(times[-1]).percentile(50)) if plan.roofline else None


def _weigh(contenders: list[_Contender], threads: int) -> None:
    for contender in track(contenders, "measuring memory"):
        bundle = contender.bundle
        assert bundle.engine is not None
        contender.peak_bytes = peak_memory(bundle.target, contender.folder / bundle.engine, bundle.preprocess, threads)


def _from_manifest(bundle: Bundle) -> dict[str, float]:
    assert bundle.evaluation is not None
    return {name: float(bundle.evaluation.reference[name]) for name in ("miou", "f1")}


def _row(contender: _Contender, reference: dict[str, float] | None, rate: float | None) -> Row:
    bundle, latency = contender.bundle, contender.latency
    roofline_ms = 1e3 * bundle.macs / rate if bundle.macs and rate else None
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
        network=bundle.model,
        checkpoint_sha256=bundle.checkpoint_sha256,
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
        peak_bytes=contender.peak_bytes,
        macs=bundle.macs,
        roofline_ms=roofline_ms,
        roofline_fraction=roofline_ms * latency.fps / 1e3 if roofline_ms and latency else None,
        verdict=bundle.verdict,
        accuracy=accuracy,
        note=contender.note,
    )


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
    baseline: bool = False
    """Measure the naive export of each target of the run beside its engines."""
    transfers: bool = True
    roofline: bool = False


def bench_source(source: Source, request: BenchRequest) -> BenchReport:
    """Measure every bundle of a run, with the run's own data and recipe where the request names none.

    Raises:
        InputError: the run has no bundle, or its data is gone.
    """
    folders = _with_baseline(bundles_of(source), source, request)
    dataset = source.evaluation_set(request.data)
    scored = dataset is not None and request.accuracy and importlib.util.find_spec("torch")
    reference = torch_session(source.weights) if scored else None
    return _bench(folders, dataset, reference, source.recipe.bench, request)


def bundles_of(source: Source) -> list[Path]:
    """Folders of a run's bundles.

    Raises:
        InputError: it has none.
    """
    folders = find_bundles(source.folder / BUNDLES)
    if not folders:
        raise InputError(f"{source.folder} holds no bundle; run `fptk export` first")
    return folders


def _with_baseline(folders: list[Path], source: Source, request: BenchRequest) -> list[Path]:
    """``folders``, and the naive exports of ``source`` for the targets among them if the request asks for these."""
    if not request.baseline:
        return folders
    return folders + baseline_bundles(source, request, sorted({read_bundle(folder).target for folder in folders}))


def baseline_bundles(source: Source, request: BenchRequest, targets: list[str]) -> list[Path]:
    """FP32 engines of the network as it is written, kept in the run's ``baseline/`` while its weights stay."""
    from fptk.pipeline import ExportPlan, export_bundles

    out = source.folder / "baseline"
    current = sha256_file(source.weights)
    kept = {
        bundle.target: folder
        for folder in find_bundles(out / BUNDLES)
        if (bundle := read_bundle(folder)).checkpoint_sha256 == current
    }
    missing = tuple(name for name in targets if name not in kept and get_target(name).probe().can_run)
    if missing:
        plan = ExportPlan(
            targets=missing,
            precisions=(Precision.FP32,),
            out=out,
            command=f"fptk export --fp32 --no-deploy-form --target {' --target '.join(missing)}",
            variant="naive",
            data=request.data,
            eval_images=request.eval_images,
            gate=None,
        )
        kept |= {name: outcome.folder for name, outcome in zip(missing, export_bundles(source, plan), strict=True)}
    return list(kept.values())


def profile_bundles(folders: Sequence[Path], threads: int | None) -> Iterator[tuple[str, list[NodeTime]]]:
    """Label and node times of every bundle in ``folders`` whose engine fptk can profile here.

    Raises:
        InputError: a folder is no bundle.
    """
    image = draw_face(0, 0, (512, 512))[0]
    for folder in _each_bundle(folders):
        bundle = read_bundle(folder)
        target = get_target(bundle.target)
        if bundle.engine is None or not target.probe().can_run:
            continue
        images = bundle.preprocess.apply(image)[None]
        path = folder / bundle.engine
        yield bundle.label, target.profile(path, bundle.preprocess, images, threads=threads or usable_cores())


def bench_folders(folders: Sequence[Path], request: BenchRequest, source: Source | None = None) -> BenchReport:
    """Measure the bundles in ``folders``, wherever they are; accuracy needs ``request.data``.

    Args:
        folders: bundles, or folders of bundles.
        request: what to measure.
        source: whose naive export ``request.baseline`` means.

    Raises:
        InputError: a folder is no bundle, or a baseline without a source.
    """
    dataset = open_evaluation(request.data) if request.data else None
    bundles = _each_bundle(folders)
    if source is not None:
        bundles = _with_baseline(bundles, source, request)
    elif request.baseline:
        raise InputError("a bundle does not hold the network that --baseline exports; name its run with --weights")
    return _bench(bundles, dataset, None, BenchSection(), request)


def _each_bundle(folders: Sequence[Path]) -> list[Path]:
    """Bundles, or the bundles that lie in the folders."""
    return [path for folder in folders for path in find_bundles(folder) or [folder]]


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
        transfers=request.transfers,
        latency=LatencyPlan(rounds=request.rounds or section.rounds, calls=section.calls),
        roofline=request.roofline,
    )
    image = dataset[0].image if dataset else draw_face(0, 0, (512, 512))[0]
    return bench(folders, image, plan)
