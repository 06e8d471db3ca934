"""The one table: accuracy and speed of every bundle of a run, on the same images with the same code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.benchmarks.memory import peak_memory
from fptk.benchmarks.roofline import gemm_call, gemm_rate
from fptk.core.console import TERMINAL, counting, track
from fptk.core.cpu import cpu_model, has_vnni
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError
from fptk.core.evaluation import evaluate_all
from fptk.core.files import sha256_file
from fptk.core.host import describe_host, usable_cores
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.session import Session
from fptk.data import open_evaluation
from fptk.data.splits import limit
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import Bundle, checked_bundle, find_bundles, open_bundle, read_bundle
from fptk.export.targets.base import NodeTime
from fptk.export.targets.registry import get_target
from fptk.recipes.schema import BenchSection
from fptk.runs.folder import RunFolder
from fptk.runs.source import ModelSource, run_of
from fptk.workflows.verdicts import MANIFEST, PYTORCH, GateResult, Scored, carried, evaluate_gates, same_machine


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    fps: bool = True
    """Measure speed."""
    dataset: FaceParsingDataset | None = None
    """Score and judge every engine on these images; ``None`` shows what the bundles carry from their export."""
    source: ModelSource | None = None
    """Where to look first for the weights that the bundles came from: PyTorch FP32 may be needed to judge."""
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
    """mIoU minus that of ``reference`` on the same images."""
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
    """``pass``, ``refused``, ``not judged`` or ``unavailable``; judged now where ``accuracy`` is ``measured``."""
    accuracy: str
    """``measured`` now, ``manifest`` (measured at export), ``simulated`` by another engine at export, or ``none``."""
    note: str = ""
    """Why a figure is missing."""
    measured_on: str | None = None
    """Processor that accuracy and verdict are from; ``None`` where there is neither."""
    same_machine: bool = False
    """Whether a verdict from the manifest was had on this very machine, with the same version of the engine."""
    reference: str | None = None
    """What accuracy and verdict are relative to: ``manifest``, ``pytorch fp32``, or the name of an FP32 engine."""
    judged_classes: tuple[str, ...] = ()
    """Classes that the verdict stands on."""
    unjudged_classes: tuple[str, ...] = ()
    """Classes that the images show nothing or too little of."""
    reason: str = ""
    """Why the verdict is what it is, in one line."""

    @property
    def label(self) -> str:
        """Short name, e.g. ``onnx int8``."""
        return f"{self.target} {self.precision}" + (" naive" if self.variant == "naive" else "")

    @property
    def holds_here(self) -> bool:
        """Whether the verdict was had on this machine, now or at export."""
        return self.accuracy == "measured" or self.same_machine


@dataclass(frozen=True)
class BenchReport:
    """Rows with the conditions they were measured under."""

    host: dict[str, Any]
    conditions: dict[str, Any]
    reference: dict[str, Any] | None
    """``miou`` and ``f1`` of PyTorch FP32, with ``accuracy`` and ``measured_on`` as in :class:`Row` (and
    ``same_machine`` where they are the manifest's); ``None`` where the rows know several, or none."""
    rows: list[Row]

    @property
    def several(self) -> bool:
        """Whether the rows are engines of several checkpoints."""
        return len({row.checkpoint_sha256 for row in self.rows}) > 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def recommend(report: BenchReport) -> str | None:
    """One sentence: the fastest engine that passed on this machine, and what INT8 did on this host.

    A verdict from another machine recommends nothing; the sentence then says so. ``None`` without figures, and between
    engines of several checkpoints, where the fastest says nothing: each passed by the measure of its own.
    """
    passed = [row for row in report.rows if row.verdict == "pass" and row.fps and row.variant == "deploy"]
    if not passed or report.several:
        return None
    foreign = [row for row in passed if not row.holds_here]
    passed = [row for row in passed if row.holds_here]
    elsewhere = ", ".join(row.label for row in foreign)
    if not passed:
        return f"nothing is recommended: {elsewhere} passed on another machine; run with --data DIR to judge here"
    sentence = _fastest(passed, report.host["isa"])
    return (
        f"{sentence}; left out: {elsewhere}, judged on another machine (run with --data DIR)" if foreign else sentence
    )


def _fastest(passed: list[Row], isa: Sequence[str]) -> str:
    best = max(passed, key=lambda row: row.fps or 0)
    sentence = f"fastest here among what passed the gate: {best.target} {best.precision} ({best.fps:.1f} FPS)"
    by_precision = {row.precision: row.fps for row in passed if row.target == best.target}
    int8, fp32 = by_precision.get("int8"), by_precision.get("fp32")
    if not (int8 and fp32):
        return sentence
    ratio = f"; INT8 runs at {int8 / fp32:.2f}x the speed of FP32 in {best.target}"
    if has_vnni(isa):
        return f"{sentence}{ratio} on this processor with VNNI"
    return f"{sentence}{ratio}: this processor has no VNNI; on AVX-VNNI, AMX or an NPU expect more"


def raise_if_refused(report: BenchReport) -> None:
    """End a command whose table is out.

    Raises:
        GateRefusedError: an engine is refused; the message names each and why.
    """
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.verdict == "refused":
            origin = "" if row.accuracy == "measured" else f" (from the manifest, judged on {row.measured_on})"
            reasons.setdefault(row.reason + origin, []).append(row.label)
    if reasons:
        raise GateRefusedError("; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()))


@dataclass
class _Contender:
    """A bundle on its way through the benchmark."""

    folder: Path
    bundle: Bundle
    session: Session | None
    note: str = ""
    scores: Scores | None = None
    gate_result: GateResult | None = None
    """On ``scores``."""
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
        _check_batch(contenders, plan.batch)
        running = [contender for contender in contenders if contender.session is not None]
        _score(running, plan)
        rate = _time(running, image, plan, threads) if plan.fps and running else None
    _judge(running, plan)
    if plan.fps and plan.memory:
        _measure_memory(running, threads)
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
    rows = [_row(contender, rate) for contender in contenders]
    return BenchReport(describe_host(), conditions, _pytorch(contenders), rows)


def _open(folder: Path, threads: int, stack: ExitStack) -> _Contender:
    bundle = read_bundle(folder)
    if bundle.engine is None:
        return _Contender(folder, bundle, None, note=bundle.unavailable or "")
    try:
        bundle, session = open_bundle(folder, threads=threads)
    except TargetUnavailableError as error:
        return _Contender(folder, bundle, None, note=str(error))
    return _Contender(folder, bundle, stack.enter_context(session))


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


def _score(contenders: list[_Contender], plan: BenchPlan) -> None:
    """Score every session on ``plan.dataset`` in one pass."""
    if plan.dataset is None or not contenders:
        return
    sessions = [contender.session for contender in contenders if contender.session]
    scores = evaluate_all(sessions, plan.dataset, listener=TERMINAL)
    for contender, result in zip(contenders, scores, strict=True):
        contender.scores = result


def _judge(contenders: list[_Contender], plan: BenchPlan) -> None:
    """Judge what was scored. It comes after the timing: PyTorch may be started for it."""
    if plan.dataset is None or not contenders:
        return
    scored = [Scored(each.folder, each.bundle, each.scores) for each in contenders if each.scores]
    for contender, gate_result in zip(contenders, evaluate_gates(scored, plan.dataset, plan.source), strict=True):
        contender.gate_result = gate_result


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


def _measure_memory(contenders: list[_Contender], threads: int) -> None:
    for contender in track(contenders, "measuring memory"):
        bundle = contender.bundle
        assert bundle.engine is not None
        engine = contender.folder / bundle.engine
        contender.peak_bytes = peak_memory(bundle.target, engine, bundle.preprocess, threads, bundle.precision_hint)


def _pytorch(contenders: list[_Contender]) -> dict[str, Any] | None:
    """Figures of PyTorch FP32: those that the engines were held against, or where none was scored the manifest's."""
    if len({contender.bundle.checkpoint_sha256 for contender in contenders}) > 1:
        return None
    judged = [(each.bundle, each.gate_result.reference) for each in contenders if each.gate_result]
    for bundle, reference in judged:
        if reference and reference.name == MANIFEST:
            return _reference_at_export(bundle)
        if reference and reference.name == PYTORCH:
            return {**_means(reference.scores.as_dict()), "accuracy": "measured", "measured_on": cpu_model()}
    known = [contender.bundle for contender in contenders if contender.bundle.evaluation]
    return _reference_at_export(known[0]) if known and not judged else None


def _reference_at_export(bundle: Bundle) -> dict[str, Any]:
    assert bundle.evaluation is not None
    return {**_means(bundle.evaluation.reference), "accuracy": "manifest", **_machine(bundle)}


def _machine(bundle: Bundle) -> dict[str, Any]:
    """Where the figures in a manifest are from."""
    cpu = str(bundle.host.get("cpu", "an unnamed processor"))
    return {"measured_on": cpu, "same_machine": same_machine(bundle)}


def _means(scores: dict[str, Any]) -> dict[str, float]:
    """Those of the scores in a manifest that the table shows."""
    return {name: float(scores[name]) for name in ("miou", "f1")}


def _row(contender: _Contender, rate: float | None) -> Row:
    bundle, latency = contender.bundle, contender.latency
    roofline_ms = 1e3 * bundle.macs / rate if bundle.macs and rate else None
    return Row(
        network=bundle.model,
        checkpoint_sha256=bundle.checkpoint_sha256,
        target=bundle.target,
        precision=str(bundle.precision),
        variant=bundle.variant,
        fps=latency.fps if latency else None,
        p50_ms=latency.percentile(50) if latency else None,
        p90_ms=latency.percentile(90) if latency else None,
        p99_ms=latency.percentile(99) if latency else None,
        size_bytes=bundle.size_bytes,
        peak_bytes=contender.peak_bytes,
        macs=bundle.macs,
        roofline_ms=roofline_ms,
        roofline_fraction=roofline_ms * latency.fps / 1e3 if roofline_ms and latency else None,
        note=contender.note,
        **_accuracy(contender),
    )


def _accuracy(contender: _Contender) -> dict[str, Any]:
    """The fields of :class:`Row` about accuracy: of what was scored now, or else of the manifest."""
    scores, gate_result = contender.scores, contender.gate_result
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
        fields["delta_miou"] = fields["miou"] - float(evaluation.reference["miou"])
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
    accuracy: bool = True
    """Score the engines where there are images for it."""
    must_score: bool = False
    """Accuracy was asked for by name: without images it is an error to show older figures instead."""
    data: Path | None = None
    eval_images: int | None = None
    threads: int | None = None
    batch: int = 1
    rounds: int | None = None
    baseline: bool = False
    """Measure the naive export of each target of the run beside its engines."""
    transfers: bool = True
    roofline: bool = False


def bench_source(source: ModelSource, request: BenchRequest) -> BenchReport:
    """Measure every bundle of a run, with the run's own data and recipe where the request names none.

    Raises:
        InputError: the run has no bundle, its data is gone, or accuracy must be scored and there is no data.
        TargetUnavailableError: accuracy must be scored, and no engine runs here.
    """
    bundles, dataset = bundles_of(source), source.evaluation_set(request.data)
    _refuse_to_copy(request, dataset)
    return _bench(_with_baseline(bundles, source, request), dataset, source, source.recipe.bench, request)


def bundles_of(source: ModelSource) -> list[Path]:
    """Folders of a run's bundles.

    Raises:
        InputError: it has none.
    """
    folders = find_bundles(RunFolder(source.folder).bundles)
    if not folders:
        raise InputError(f"{source.folder} holds no bundle; run `fptk export` first")
    return folders


def _with_baseline(folders: list[Path], source: ModelSource, request: BenchRequest) -> list[Path]:
    """``folders``, and the naive exports of ``source`` for the targets among them if the request asks for these."""
    if not request.baseline:
        return folders
    return folders + baseline_bundles(source, request, sorted({read_bundle(folder).target for folder in folders}))


def baseline_bundles(source: ModelSource, request: BenchRequest, targets: list[str]) -> list[Path]:
    """FP32 engines of the network as it is written, kept in the run's ``baseline/`` while its weights stay."""
    from fptk.export.pipeline import ExportPlan, export_bundles

    out = RunFolder(source.folder).baseline
    current = sha256_file(source.weights)
    kept = {
        bundle.target: folder
        for folder in find_bundles(RunFolder(out).bundles)
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
        bundle = checked_bundle(folder)
        target = get_target(bundle.target)
        if bundle.engine is None or not target.probe().can_run:
            continue
        images = bundle.preprocess.apply(image)[None]
        path = folder / bundle.engine
        hint = bundle.precision_hint
        nodes = target.profile(path, bundle.preprocess, images, threads=threads or usable_cores(), precision_hint=hint)
        yield bundle.label, nodes


def bench_folders(folders: Sequence[Path], request: BenchRequest, source: ModelSource | None = None) -> BenchReport:
    """Measure the bundles in ``folders``, wherever they are.

    Accuracy needs ``request.data``. Only where it must be scored, the images may also be those of ``source``, or of the
    run that the bundles stand in.

    Args:
        folders: bundles, or folders of bundles.
        request: what to measure.
        source: whose naive export ``request.baseline`` means, and whose weights may be the bundles' own.

    Raises:
        InputError: a folder is no bundle, a baseline without a source, or accuracy must be scored without any data.
        TargetUnavailableError: accuracy must be scored, and no engine runs here.
    """
    dataset = open_evaluation(request.data) if request.data else None
    bundles = _each_bundle(folders)
    if dataset is None and request.must_score:
        home = source or _common_run(bundles)
        dataset = home.evaluation_set(None) if home else None
    _refuse_to_copy(request, dataset)
    if source is not None:
        bundles = _with_baseline(bundles, source, request)
    elif request.baseline:
        raise InputError("a bundle does not hold the network that --baseline exports; name its run with --weights")
    return _bench(bundles, dataset, source, BenchSection(), request)


def _refuse_to_copy(request: BenchRequest, dataset: FaceParsingDataset | None) -> None:
    if request.must_score and dataset is None:
        raise InputError("accuracy needs evaluation images, and no run names any; give --data DIR")


def _common_run(bundles: Sequence[Path]) -> ModelSource | None:
    """The one run that all these bundles stand in."""
    runs = [run_of(folder) for folder in bundles]
    return runs[0] if len({run and run.folder for run in runs}) == 1 else None


def _each_bundle(folders: Sequence[Path]) -> list[Path]:
    """Bundles, or the bundles that lie in the folders."""
    return [path for folder in folders for path in find_bundles(folder) or [folder]]


def _bench(
    folders: Sequence[Path],
    dataset: FaceParsingDataset | None,
    source: ModelSource | None,
    section: BenchSection,
    request: BenchRequest,
) -> BenchReport:
    """Turn request and recipe into a plan. Speed is measured on a real image of the data where there is one."""
    plan = BenchPlan(
        fps=request.fps,
        dataset=limit(dataset, request.eval_images) if dataset and request.accuracy else None,
        source=source,
        threads=request.threads or section.threads,
        batch=request.batch,
        transfers=request.transfers,
        latency=LatencyPlan(rounds=request.rounds or section.rounds, calls=section.calls),
        roofline=request.roofline,
    )
    if plan.dataset is not None:
        from fptk.export.pipeline import check_dataset

        check_dataset(plan.dataset, "checking the images")
    image = dataset[0].image if dataset else draw_face(0, 0, (512, 512))[0]
    report = bench(folders, image, plan)
    if request.must_score and not any(row.accuracy == "measured" for row in report.rows):
        notes = dict.fromkeys(f"{row.label}: {row.note}" for row in report.rows)
        raise TargetUnavailableError(f"no engine could be scored here; {'; '.join(notes)}")
    return report
