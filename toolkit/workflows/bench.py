"""What ``fptk bench`` measures: which bundles, on which images, beside which originals; one row for each engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fptk.benchmarks.bench import Measurement, MeasurePlan, measure
from fptk.benchmarks.latency import LatencyPlan
from fptk.benchmarks.memory import peak_memory
from fptk.benchmarks.photo import enlarged
from fptk.benchmarks.report import BenchReport, Row
from fptk.benchmarks.roofline import KERNELS, Limits
from fptk.benchmarks.throughput import Mode, RequestPool, Throughput, throughput_in_turns
from fptk.core.cpu import cpu_model
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import sha256_file
from fptk.core.host import describe_host, usable_cores
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener, track
from fptk.core.session import Session
from fptk.data import open_evaluation
from fptk.data.identity import check_files
from fptk.data.splits import limit
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import Bundle, Graph, checked_bundle, find_bundles, load_engine, read_bundle
from fptk.export.engine_process import engine_command
from fptk.export.exporter import export
from fptk.export.plan import ExportPlan
from fptk.export.targets.base import Timing
from fptk.export.targets.registry import get_target
from fptk.recipes.schema import BenchSection
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource, run_of, shipped_weights
from fptk.workflows.verdicts import MANIFEST, NETWORKS, GateResult, Scored, carried, evaluate_gates, same_machine

PHOTO_SIZE = (1024, 1024)
"""Width and height of the photograph whose stages are timed where no other is asked for."""


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    fps: bool = True
    """Measure speed."""
    mode: Mode = "latency"
    """``throughput`` times as many requests at once as each engine takes, ``latency`` one call after another."""
    dataset: FaceParsingDataset | None = None
    """Score and judge every engine on these images; ``None`` shows what the bundles carry from their export."""
    source: ModelSource | None = None
    """Where to look first for the weights that the bundles came from: PyTorch FP32 may be needed to judge."""
    threads: int | None = None
    """CPU threads of one inference, or of all requests together; ``None`` is every core this process may use."""
    batch: int = 1
    photo: UInt8Array | None = None
    """Time the stages of this photograph, uint8 (H, W, 3) RGB; ``None`` leaves them out. For latency only."""
    latency: LatencyPlan = field(default_factory=LatencyPlan)
    memory: bool = True
    """Measure the peak memory of one inference, each engine in a process of its own. For latency only."""
    transfers: bool = True
    """Count the copies to and from a GPU."""
    roofline: bool = False
    """Measure the host's rates of products and of memory in the same interleaved run, and what share of the rate of its
    precision each engine reaches."""

    @property
    def throughput(self) -> bool:
        """Whether throughput is measured."""
        return self.fps and self.mode == "throughput"

    @property
    def memory_apart(self) -> bool:
        """Whether each engine's memory is measured in a process of its own."""
        return self.fps and self.memory and not self.throughput


@dataclass
class _Contender:
    """A bundle on its way through the benchmark."""

    folder: Path
    bundle: Bundle
    session: Session | None
    pool: RequestPool | None = None
    """The same engine for several requests at once, where throughput is measured."""
    note: str = ""
    measured: Measurement = field(default_factory=Measurement)
    throughput: Throughput | None = None
    gate_result: GateResult | None = None
    """On the measured scores."""
    peak_bytes: int | None = None


def bench(folders: Sequence[Path], image: UInt8Array, plan: BenchPlan, listener: Listener = SILENT) -> BenchReport:
    """Measure the bundles in ``folders`` against each other.

    Args:
        folders: bundle folders, at least one.
        image: uint8 (H, W, 3) photograph that the speed is measured with.
        plan: what to measure.
        listener: is told how the work goes on.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    if not folders:
        raise InputError("there is no bundle to measure; run `fptk export` first")
    threads = plan.threads or usable_cores()
    with ExitStack() as stack:
        contenders = [_open(folder, plan, threads, stack) for folder in track(listener, folders, "loading engines")]
        _check_batch(contenders, plan.batch)
        running = [contender for contender in contenders if contender.session is not None]
        limits = _measure(running, image, plan, threads, listener)
    _name_other_tools(running, plan, threads)
    _judge(running, plan, listener)
    conditions = {
        "mode": plan.mode,
        "threads": threads,
        "batch": plan.batch,
        "transfers": plan.transfers,
        "interleaved_rounds": plan.latency.rounds,
        "calls_per_round": plan.latency.calls,
        "dataset": plan.dataset.name if plan.dataset else None,
        "images": len(plan.dataset) if plan.dataset else None,
        "limits": _described(limits) if limits else None,
        "photo": [*plan.photo.shape[1::-1]] if plan.photo is not None else None,
    }
    rows = [_row(contender, limits) for contender in contenders]
    return BenchReport(describe_host(), conditions, _pytorch(contenders), rows)


def _open(folder: Path, plan: BenchPlan, threads: int, stack: ExitStack) -> _Contender:
    bundle = read_bundle(folder)
    if bundle.engine is None:
        return _Contender(folder, bundle, None, note=bundle.unavailable or "")
    try:
        bundle = checked_bundle(folder)
        # Memory comes first: an engine that crashes its own process must not be loaded into this one.
        peak = _peak_memory(folder, bundle, threads) if plan.memory_apart else None
        session = load_engine(folder, bundle, threads=threads)
    except TargetUnavailableError as error:
        return _Contender(folder, bundle, None, note=str(error))
    contender = _Contender(folder, bundle, stack.enter_context(session), peak_bytes=peak)
    if plan.throughput:
        assert bundle.engine is not None
        target, hint = get_target(bundle.target), bundle.precision_hint
        pool = target.load_pool(folder / bundle.engine, bundle.preprocess, threads=threads, precision_hint=hint)
        contender.pool = stack.enter_context(pool) if pool else None
        contender.note = "" if pool else f"fptk does not measure the throughput of target {bundle.target}"
    return contender


def _check_batch(contenders: list[_Contender], batch: int) -> None:
    """Refuse a batch that an engine would take in several calls: the figure would not be one of that batch.

    Raises:
        InputError: an engine's batch is fixed to another number.
    """
    for bundle in (contender.bundle for contender in contenders if contender.session):
        fixed = bundle.input.shape[0]
        if fixed is not None and fixed != batch:
            raise InputError(
                f"{bundle.label} takes batches of {fixed}, so that --batch {batch} would time {batch / fixed:g} calls; "
                f"use --batch {fixed}, or an engine that was exported with --dynamic-batch"
            )


def _measure(
    contenders: list[_Contender], image: UInt8Array, plan: BenchPlan, threads: int, listener: Listener
) -> Limits | None:
    """Score and time every engine; returns the machine's rates in the same run, where asked for."""
    sessions = [contender.session for contender in contenders if contender.session]
    measure_plan = MeasurePlan(
        dataset=plan.dataset,
        latency=plan.latency if plan.fps and not plan.throughput else None,
        batch=plan.batch,
        photo=plan.photo,
        transfers=plan.transfers,
        limit_threads=threads if plan.roofline else None,
    )
    figures = measure(sessions, image, measure_plan, listener)
    for contender, measured in zip(contenders, figures.sessions, strict=True):
        contender.measured = measured
    pooled = [contender for contender in contenders if contender.pool]
    pools = [contender.pool for contender in pooled if contender.pool]
    results = throughput_in_turns(pools, image, plan.latency, plan.batch, listener)
    for contender, throughput in zip(pooled, results, strict=True):
        contender.throughput = throughput
    return figures.limits


def _name_other_tools(contenders: list[_Contender], plan: BenchPlan, threads: int) -> None:
    """Say how to measure with an engine's own tool what was measured here."""
    for contender in contenders if plan.fps else ():
        bundle = contender.bundle
        assert bundle.engine is not None
        target, engine = get_target(bundle.target), contender.folder / bundle.engine
        timing = Timing(
            mode=plan.mode,
            batch=plan.batch,
            transfers=plan.transfers,
            threads=threads,
            precision_hint=bundle.precision_hint,
            concurrency=contender.throughput.concurrency if contender.throughput else None,
        )
        command = target.measure_command(engine, timing)
        if command is not None:
            before = f"{contender.note}; " if contender.note else ""
            contender.note = f"{before}to compare, run in {engine.parent}: {command}"


def _judge(contenders: list[_Contender], plan: BenchPlan, listener: Listener) -> None:
    """Judge what was scored. It comes after the timing: PyTorch may be started for it."""
    if plan.dataset is None or not contenders:
        return
    scored = [Scored(each.folder, each.bundle, each.measured.scores) for each in contenders if each.measured.scores]
    results = evaluate_gates(scored, plan.dataset, plan.source, listener)
    for contender, gate_result in zip(contenders, results, strict=True):
        contender.gate_result = gate_result


def _peak_memory(folder: Path, bundle: Bundle, threads: int) -> int | None:
    engine, hint = folder / str(bundle.engine), bundle.precision_hint
    command = engine_command(
        bundle.target, engine, bundle.preprocess, bundle.class_set, threads=threads, precision_hint=hint
    )
    return peak_memory(command)


def _pytorch(contenders: list[_Contender]) -> dict[str, Any] | None:
    """Figures of the network itself: what the engines were held against, or where none was scored the manifest's."""
    if len({contender.bundle.checkpoint_sha256 for contender in contenders}) > 1:
        return None
    judged = [(each.bundle, each.gate_result.reference) for each in contenders if each.gate_result]
    for bundle, reference in judged:
        if reference and reference.name == MANIFEST:
            return _reference_at_export(bundle)
        if reference and reference.name in NETWORKS:
            name, *_ = reference.name.rsplit(" ", 1)
            return {**_means(reference.scores), "accuracy": "measured", "measured_on": cpu_model(), "name": name}
    known = [contender.bundle for contender in contenders if contender.bundle.evaluation]
    return _reference_at_export(known[0]) if known and not judged else None


def _reference_at_export(bundle: Bundle) -> dict[str, Any]:
    assert bundle.evaluation is not None
    name = "onnx file" if "graph" in bundle.build.details else "pytorch"
    return {**_means(bundle.evaluation.reference), "accuracy": "manifest", **_machine(bundle), "name": name}


def _machine(bundle: Bundle) -> dict[str, Any]:
    """Where the figures in a manifest are from."""
    cpu = str(bundle.host.get("cpu", "an unnamed processor"))
    return {"measured_on": cpu, "same_machine": same_machine(bundle)}


def _means(scores: Scores) -> dict[str, float]:
    """The scores that the table shows."""
    return {"miou": scores.miou, "f1": scores.f1}


def _described(limits: Limits) -> dict[str, Any]:
    """The limits as the conditions of a report state them."""
    return {
        "gmacs_per_s": {name: rate / 1e9 if rate else None for name, rate in limits.macs_per_s.items()},
        "memory_gb_per_s": limits.bytes_per_s / 1e9,
        "kernels": {name: KERNELS[name] for name, rate in limits.macs_per_s.items() if rate},
        "notes": dict(limits.notes),
    }


def _row(contender: _Contender, limits: Limits | None) -> Row:
    bundle, throughput = contender.bundle, contender.throughput
    latency = throughput.latency if throughput else contender.measured.latency
    timed = throughput or latency
    on_cpu = get_target(bundle.target).runs_on_cpu
    rate = limits.rate_for(str(bundle.precision)) if limits and on_cpu else None
    roofline_ms = 1e3 * bundle.macs / rate if bundle.macs and rate else None
    return Row(
        network=bundle.model,
        checkpoint_sha256=bundle.checkpoint_sha256,
        target=bundle.target,
        precision=str(bundle.precision),
        graph=bundle.graph,
        fps=timed.fps if timed else None,
        p50_ms=latency.percentile(50) if latency else None,
        p90_ms=latency.percentile(90) if latency else None,
        p99_ms=latency.percentile(99) if latency else None,
        size_bytes=bundle.size_bytes,
        peak_bytes=contender.peak_bytes,
        macs=bundle.macs,
        roofline_ms=roofline_ms,
        roofline_fraction=roofline_ms * latency.fps / 1e3 if roofline_ms and latency else None,
        note=contender.note,
        concurrency=throughput.concurrency if throughput else None,
        photo=contender.measured.photo,
        calls_ms=tuple(round(float(each), 4) for each in latency.milliseconds) if latency else (),
        **_accuracy(contender),
    )


def _accuracy(contender: _Contender) -> dict[str, Any]:
    """The fields of :class:`Row` about accuracy: of what was scored now, or else of the manifest."""
    scores, gate_result = contender.measured.scores, contender.gate_result
    if scores is None or gate_result is None:
        return _accuracy_at_export(contender.bundle)
    reference = gate_result.reference
    return {
        "miou": scores.miou,
        "f1": scores.f1,
        "delta_miou": scores.miou - reference.scores.miou if reference else None,
        "accuracy": "measured",
        "measured_on": cpu_model(),
        "reference": reference.name if reference else None,
        **_verdict(gate_result),
    }


def _accuracy_at_export(bundle: Bundle) -> dict[str, Any]:
    evaluation = bundle.evaluation
    fields: dict[str, Any] = {"miou": None, "f1": None, "delta_miou": None, "accuracy": "none"}
    if evaluation:
        fields |= _means(evaluation.engine)
        fields["delta_miou"] = evaluation.engine.miou - evaluation.reference.miou
        fields["accuracy"] = "simulated" if evaluation.simulated_by else "manifest"
        fields["reference"] = MANIFEST
    if evaluation or bundle.gate:
        fields |= _machine(bundle)
    return {**fields, **_verdict(carried(bundle))}


def _verdict(gate_result: GateResult) -> dict[str, Any]:
    return {
        "verdict": gate_result.word,
        "judged_classes": gate_result.judged_classes,
        "unjudged_classes": gate_result.unjudged_classes,
        "reason": gate_result.reason,
    }


@dataclass(frozen=True)
class BenchRequest:
    """What ``fptk bench`` was asked for, before data and bundles are looked up."""

    fps: bool = True
    mode: Mode = "latency"
    """As for :class:`BenchPlan`."""
    must_time: bool = False
    """Speed was asked for by name: that no engine can run here is an error."""
    accuracy: bool = True
    """Score the engines where there are images for it."""
    must_score: bool = False
    """Accuracy was asked for by name: without images it is an error to show older figures instead."""
    data: Path | None = None
    eval_images: int | None = None
    threads: int | None = None
    batch: int = 1
    photo: tuple[int, int] | None = None
    """Width and height of the photograph whose stages are timed; ``None`` is :data:`PHOTO_SIZE`."""
    rounds: int | None = None
    original: bool = False
    """Measure the export of the network as it is written beside the engines, for each target among them."""
    transfers: bool = True
    roofline: bool = False


def bench_source(source: ModelSource, request: BenchRequest, listener: Listener = SILENT) -> BenchReport:
    """Measure every bundle of a run, with the run's own data and recipe where the request names none.

    The shipped weights need no bundle: FP32 engines of them are built first where there are none.

    Raises:
        InputError: the run has no bundle, its data is gone, accuracy must be scored and there is no data, or the mode
            does not measure what is asked for.
        TargetUnavailableError: accuracy must be scored, and no engine runs here.
    """
    _check_mode(request)
    folders = find_bundles(RunFolder(source.folder).bundles)
    targets = () if folders or source.weights != shipped_weights() else _usable_here(source)
    if not folders and not targets:
        raise InputError(f"{source.folder} holds no bundle; run `fptk export` first")
    dataset = source.evaluation_set(request.data)
    _refuse_to_copy(request, dataset)
    if targets:
        listener.say(f"no bundle yet: building FP32 engines of the shipped weights in {source.folder}")
        folders = _build_fp32(source, targets, source.folder, listener)
    if request.original:
        folders += original_bundles(source, request, folders, listener)
    return _bench(folders, dataset, source, source.recipe.bench, request, listener)


def _usable_here(source: ModelSource) -> tuple[str, ...]:
    """Targets of the recipe that can both build and run on this host."""
    probes = {name: get_target(name).probe() for name in source.recipe.export.targets}
    return tuple(name for name, probe in probes.items() if probe.can_build and probe.can_run)


def original_bundles(
    source: ModelSource, request: BenchRequest, folders: Sequence[Path], listener: Listener = SILENT
) -> list[Path]:
    """FP32 engines of the network as it is written, kept in the run's ``original/`` while its weights stay.

    Args:
        source: the network.
        request: evaluation images of the exports.
        folders: bundles; there will be an original for each of their targets.
        listener: is told what is built.
    """
    targets = sorted({read_bundle(folder).target for folder in folders})
    run = RunFolder(RunFolder(source.folder).original)
    current = sha256_file(source.weights)
    kept = {
        bundle.target: folder
        for folder in find_bundles(run.bundles)
        if (bundle := read_bundle(folder)).checkpoint_sha256 == current
    }
    missing = tuple(name for name in targets if name not in kept and get_target(name).probe().can_run)
    if missing:
        kept |= zip(missing, _build_fp32(source, missing, run.path, listener, "original", request), strict=True)
    return list(kept.values())


def _build_fp32(
    source: ModelSource,
    targets: tuple[str, ...],
    out: Path,
    listener: Listener,
    graph: Graph = "deploy",
    request: BenchRequest | None = None,
) -> list[Path]:
    """Export FP32 engines, one for each target; scored where a request says on which images, and not judged."""
    options = "--fp32" if graph == "deploy" else f"--fp32 --graph {graph}"
    plan = ExportPlan(
        targets=targets,
        precisions=(Precision.FP32,),
        out=out,
        command=f"fptk export {options} --target {' --target '.join(targets)}",
        graph=graph,
        data=request.data if request else None,
        eval_images=request.eval_images if request else None,
        gate=None,
    )
    return [bundle.folder for bundle in export(source, plan, listener)]


def bench_folders(
    folders: Sequence[Path],
    request: BenchRequest,
    source: ModelSource | None = None,
    listener: Listener = SILENT,
) -> BenchReport:
    """Measure bundles, wherever they are.

    Accuracy needs ``request.data``. Only where it must be scored, the images may also be those of ``source``, or of the
    run that the bundles stand in.

    Args:
        folders: bundles, folders of bundles, or run folders.
        request: what to measure.
        source: whose export as written ``request.original`` means, and whose weights may be the bundles' own.
        listener: is told how the work goes on.

    Raises:
        InputError: a folder is no bundle, an original is asked for without a source, or accuracy must be scored without
            any data, or the mode does not measure what is asked for.
        TargetUnavailableError: accuracy must be scored, and no engine runs here.
    """
    _check_mode(request)
    dataset = open_evaluation(request.data) if request.data else None
    bundles = [path for folder in folders for path in _bundles_in(folder)]
    if dataset is None and request.must_score:
        home = source or _common_run(bundles)
        dataset = home.evaluation_set(None) if home else None
    _refuse_to_copy(request, dataset)
    if request.original:
        if source is None:
            raise InputError(
                "a bundle does not hold the network that --original exports; name its run with --reference"
            )
        bundles += original_bundles(source, request, bundles, listener)
    return _bench(bundles, dataset, source, BenchSection(), request, listener)


def _bundles_in(folder: Path) -> list[Path]:
    """A bundle, the bundles of a folder or of a run, or what is none of them, for the reader to complain about."""
    return find_bundles(folder) or find_bundles(RunFolder(folder).bundles) or [folder]


def _check_mode(request: BenchRequest) -> None:
    """Refuse what would not be heeded.

    Raises:
        InputError: throughput, a photograph or the roofline is asked for without speed, or something that only latency
            has beside throughput.
    """
    throughput = request.mode == "throughput"
    timing = {"--mode throughput": throughput, "--photo": request.photo, "--roofline": request.roofline}
    asked = [flag for flag, given in timing.items() if given]
    if asked and not request.fps:
        raise InputError(f"{asked[0]} measures speed; add --fps")
    single = {"--roofline": request.roofline, "--photo": request.photo, "--no-transfers": not request.transfers}
    given = [flag for flag, asked in single.items() if asked]
    if throughput and given:
        raise InputError(f"{given[0]} is of single calls; leave it out, or use --mode latency")


def _refuse_to_copy(request: BenchRequest, dataset: FaceParsingDataset | None) -> None:
    if request.must_score and dataset is None:
        raise InputError("accuracy needs evaluation images, and no run names any; give --data DIR")


def _common_run(bundles: Sequence[Path]) -> ModelSource | None:
    """The one run that all these bundles stand in."""
    runs = [run_of(folder) for folder in bundles]
    return runs[0] if len({run and run.folder for run in runs}) == 1 else None


def _bench(
    folders: Sequence[Path],
    dataset: FaceParsingDataset | None,
    source: ModelSource | None,
    section: BenchSection,
    request: BenchRequest,
    listener: Listener,
) -> BenchReport:
    """Turn request and recipe into a plan. Speed is measured on a real image of the data where there is one."""
    photo = None
    if request.fps and request.mode == "latency":
        photo = enlarged(draw_face(0, 0, (512, 512))[0], request.photo or PHOTO_SIZE)
    plan = BenchPlan(
        fps=request.fps,
        mode=request.mode,
        dataset=limit(dataset, request.eval_images) if dataset and request.accuracy else None,
        source=source,
        threads=request.threads or section.threads,
        batch=request.batch,
        photo=photo,
        transfers=request.transfers,
        latency=LatencyPlan(rounds=request.rounds or section.rounds, calls=section.calls),
        roofline=request.roofline,
    )
    if plan.dataset is not None:
        check_files(plan.dataset, workers=usable_cores(), listener=listener)
    image = dataset[0].image if dataset else draw_face(0, 0, (512, 512))[0]
    report = bench(folders, image, plan, listener)
    scored = any(row.accuracy == "measured" for row in report.rows)
    timed = any(row.fps is not None for row in report.rows)
    for wanted, found, what in ((request.must_score, scored, "scored"), (request.must_time, timed, "timed")):
        if wanted and not found:
            notes = dict.fromkeys(f"{row.label}: {row.note}" for row in report.rows)
            raise TargetUnavailableError(f"no engine could be {what} here; {'; '.join(notes)}")
    return report
