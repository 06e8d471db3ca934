"""One attempt at an engine: build it, tell kernel faults from rounding, score what was built, and ask the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fptk.benchmarks.processors import MatrixLimits, MatrixRequest, ProcessorMatrix, measure_processors
from fptk.calibration.gate import BuilderRefusal, Verdict, evaluate_gate
from fptk.calibration.kernel_faults import Agreement, KernelFault, measure_agreement
from fptk.core.cpu import promised_families
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError
from fptk.core.evaluation import evaluate
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.session import Session
from fptk.export.bundle import Evaluation
from fptk.export.engine_process import engine_command
from fptk.export.inputs import ExportInputs
from fptk.export.targets.base import BuildRequest, BuildResult, EngineNotBuiltError, Target
from fptk.export.targets.onnxruntime import OnnxRuntimeSession

FAULT_REBUILDS = 4
"""Times that an engine is built again because faulty layers were found: a fault can hide those behind it."""

Folders = Callable[[], Path]
"""Makes a new folder for one build, absolute: builders run in processes of their own."""


class EngineBrokenError(InputError):
    """An engine was built, and its own runtime refuses it.

    Attributes:
        faults: layers that were found to be computed wrongly before; the next engine keeps them in float.
    """

    def __init__(self, reason: InputError, faults: tuple[KernelFault, ...]) -> None:
        super().__init__(f"the engine as built does not load: {reason}")
        self.faults = faults


@dataclass(frozen=True)
class Attempt:
    """What became of one attempt."""

    target: Target
    precision: Precision
    folder: Path
    """Holds what was built."""
    built: BuildResult
    """Without files where there is no engine."""
    faults: tuple[KernelFault, ...] = ()
    """Layers that this processor computes wrongly in int8, and that are in float for it."""
    unavailable: str | None = None
    """Why this host could not build it."""
    refusal: str | None = None
    """Why the builder itself refused what it had built."""
    evaluation: Evaluation | None = None
    verdict: Verdict | None = None
    processors: ProcessorMatrix | None = None

    @property
    def gate(self) -> Verdict | BuilderRefusal | None:
        """What the manifest records of the gate."""
        return BuilderRefusal(summary=self.refusal) if self.refusal else self.verdict


def attempt(
    inputs: ExportInputs,
    target: Target,
    precision: Precision,
    new_folder: Folders,
    settings: Mapping[str, Any] | None = None,
    known: tuple[KernelFault, ...] = (),
) -> Attempt:
    """Build one engine and prove it.

    Args:
        inputs: what the engines of this export share.
        target: whose engine.
        precision: one of the target's.
        new_folder: where to build; asked again for every rebuild.
        settings: options of the target that a candidate of the fallback sets; those of the user go before them.
        known: faulty layers that were found before.

    Raises:
        EngineBrokenError: the engine was built, and does not load.
        InputError: an option or the data is not usable.
    """
    request = _Requests(inputs, target, precision, dict(settings or {}))
    done = _build(request, new_folder, known)
    evaluation, verdict = _judge(inputs, done)
    matrix = _matrix(inputs, done) if verdict is None or verdict.passed else None
    if verdict and matrix and matrix.failed:
        verdict = verdict.refused_because(matrix.summary)
    return Attempt(
        target=target,
        precision=precision,
        folder=done.folder,
        built=done.built,
        faults=done.faults,
        unavailable=done.unavailable,
        refusal=done.refusal,
        evaluation=evaluation,
        verdict=verdict,
        processors=matrix,
    )


@dataclass(frozen=True)
class _Requests:
    """Makes the requests of one attempt: they differ in their folder, and in the layers that faults keep in float."""

    inputs: ExportInputs
    target: Target
    precision: Precision
    settings: Mapping[str, Any]

    def at(self, folder: Path, faults: tuple[KernelFault, ...]) -> BuildRequest:
        target, precision = self.target, self.precision
        chosen = {**self.settings, **self.inputs.plan.options.get(target.name, {})}
        if faults and precision is Precision.INT8:
            key = target.float_layers_option
            chosen[key] = tuple(dict.fromkeys((*chosen.get(key, ()), *(fault.layer for fault in faults))))
        return BuildRequest(
            onnx_path=self.inputs.onnx(target, precision),
            precision=precision,
            folder=folder,
            spec=self.inputs.spec,
            options=target.options.model_validate(chosen),
            calibration=self.inputs.calibration() if precision in target.calibrated else None,
        )


def _build(request: _Requests, new_folder: Folders, known: tuple[KernelFault, ...]) -> Attempt:
    """Build, and build again while layers are found that this processor computes wrongly."""
    target, precision = request.target, request.precision
    folder, built, faults = new_folder(), BuildResult(()), known if precision is Precision.INT8 else ()
    unavailable = refusal = None
    try:
        built = target.build(request.at(folder, faults))
        for _ in range(FAULT_REBUILDS if precision is Precision.INT8 and built.files else 0):
            new = _new_faults(request.inputs, target, built, faults)
            if not new:
                break
            faults, folder = (*faults, *new), new_folder()
            built = target.build(request.at(folder, faults))
    except EngineNotBuiltError as error:
        built, unavailable = BuildResult((), error.record), str(error)
    except TargetUnavailableError as error:
        unavailable = str(error)
    except GateRefusedError as error:
        built, refusal = BuildResult(()), str(error)
    built.record.options = request.inputs.options(target).model_dump(mode="json", exclude_unset=True)
    return Attempt(target, precision, folder, built, faults, unavailable, refusal)


def _new_faults(
    inputs: ExportInputs, target: Target, built: BuildResult, known: tuple[KernelFault, ...]
) -> tuple[KernelFault, ...]:
    """Layers of an int8 engine that are wrong here and not known to be."""
    agreement = _agreement(inputs, target, built, known)
    built.record.agreement = agreement
    if agreement is None or agreement.explained:
        return ()
    found = target.find_faults(built.files[0], inputs.fault_images[0], precision_hint=built.precision_hint)
    new = tuple(fault for fault in found if fault.layer not in {each.layer for each in known})
    say = inputs.listener.say
    say(
        f"  the engine labels {agreement.engine:.1%} of the pixels as its own graph in float arithmetic does: "
        "more than rounding"
    )
    for fault in new:
        say(
            f"  kernel fault: {fault.layer} ({fault.op_type}, {fault.kernel}) is wrong by {fault.error:.2g} times "
            f"its size on {fault.processor} with {fault.version}; kept in float"
        )
    if not new:
        say("  no single layer is wrong: left to the gate")
    return new


def _agreement(
    inputs: ExportInputs, target: Target, built: BuildResult, known: tuple[KernelFault, ...]
) -> Agreement | None:
    """The engine against its own graph in float arithmetic; ``None`` where one of the two cannot run here."""
    if not target.probe().can_run:
        return None
    images, reference = inputs.fault_images
    try:
        simulation = target.simulate(built.files[0], inputs.spec, threads=inputs.plan.threads)
        if simulation is None:
            return None
        simulation.classes = inputs.classes
        with simulation, _load(inputs, target, built) as engine:
            return measure_agreement(engine(images), simulation(images), reference)
    except InputError as error:
        raise EngineBrokenError(error, known) from error


def _load(inputs: ExportInputs, target: Target, built: BuildResult) -> Session:
    threads, hint = inputs.plan.threads, built.precision_hint
    session = target.load(built.files[0], inputs.spec, threads=threads, precision_hint=hint)
    session.classes = inputs.classes
    return session


def _judge(inputs: ExportInputs, done: Attempt) -> tuple[Evaluation | None, Verdict | None]:
    """Score the engine as built and ask the gate; ``None`` for what cannot be had here."""
    if inputs.dataset is None or not (done.built.files or done.built.record.simulation):
        return None, None
    scores, simulated_by = _score(inputs, done)
    evaluation = Evaluation(
        dataset=inputs.dataset.name,
        images=scores.images,
        content_sha256=inputs.dataset_sha256,
        reference=inputs.reference,
        engine=scores,
        simulated_by=simulated_by,
    )
    return evaluation, evaluate_gate(inputs.reference, scores, inputs.plan.gate) if inputs.plan.gate else None


def _score(inputs: ExportInputs, done: Attempt) -> tuple[Scores, str | None]:
    """Scores of the engine, or of its graph in ONNX Runtime where this host cannot build or run the engine."""
    assert inputs.dataset is not None
    session, simulated_by = open_engine(inputs, done)
    with session:
        return evaluate(session, inputs.dataset, listener=inputs.listener), simulated_by


def open_engine(inputs: ExportInputs, done: Attempt) -> tuple[Session, str | None]:
    """The engine as built, or its graph in ONNX Runtime where this host cannot build or run the engine.

    Args:
        inputs: what the engines of this export share.
        done: an attempt that left an engine or a graph.

    Returns:
        The session, and the name of the engine that simulates; ``None`` for the bundle's own.

    Raises:
        EngineBrokenError: the engine was built, and does not load.
    """
    graph = done.built.record.simulation
    if graph and not (done.built.files and done.target.probe().can_run):
        # A GPU's int8 sums do not saturate, and some processors' do: the file's own arithmetic tells what it computes.
        exact = done.precision is Precision.INT8
        threads = inputs.plan.threads
        session = OnnxRuntimeSession(done.folder / graph, inputs.spec, threads=threads, float_only=exact)
        session.classes = inputs.classes
        return session, "onnxruntime"
    try:
        return _load(inputs, done.target, done.built), None
    except InputError as error:
        raise EngineBrokenError(error, done.faults) from error


def _matrix(inputs: ExportInputs, done: Attempt) -> ProcessorMatrix | None:
    """The engine under every instruction set of this host; ``None`` where that is not asked or says nothing."""
    target, plan = done.target, inputs.plan
    if not (target.runs_on_cpu and done.built.files and inputs.dataset and plan.matrix_images):
        return None
    hint, threads = done.built.precision_hint, plan.threads
    request = MatrixRequest(
        name=f"{target.name} {done.precision}",
        command=engine_command(
            target.name, done.built.files[0], inputs.spec, inputs.classes, threads=threads, precision_hint=hint
        ),
        isa_variable=target.isa_variable,
        promised=promised_families(target.promise(done.precision, inputs.options(target)) or "any"),
        needs_bf16=hint == "bf16",
        threads=threads,
    )
    limits = MatrixLimits(plan.gate.max_miou_drop, plan.gate.max_agreement_drop) if plan.gate else None
    return measure_processors(request, inputs.matrix_images, limits, inputs.listener)
