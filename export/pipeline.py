"""Checkpoint to bundles: deploy form, ONNX, precision, engine, evaluation, gate, manifest.

The data goes one way: each step takes what the step before left, and a bundle appears under its name only when the
engine in it was scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fptk.benchmarks.processors import MatrixImages, MatrixRequest, ProcessorMatrix, measure_processors
from fptk.benchmarks.roofline import count_macs
from fptk.calibration.calibration_set import CalibrationSet, select_calibration_set
from fptk.calibration.fallback import Attempt, Candidate, CandidateSkippedError, try_in_order
from fptk.calibration.gate import GatePolicy, Verdict, evaluate_gate
from fptk.calibration.kernel_faults import Agreement, KernelFault, measure_agreement
from fptk.calibration.sensitivity import Sensitivity, SensitivityPlan, measure_sensitivity
from fptk.calibration.sensitivity_chart import draw_sensitivity
from fptk.core.console import TERMINAL, counting, log, progress_bar, track
from fptk.core.cpu import INSTRUCTION_SETS, Cpu
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError
from fptk.core.evaluation import evaluate
from fptk.core.files import kind_of, replace_folder, sha256_file, temporary_folder
from fptk.core.host import describe_host, tool_versions, usable_cores
from fptk.core.metrics import Scores
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.core.version import __version__
from fptk.data import image_file, open_calibration
from fptk.data.identity import check_files
from fptk.data.splits import Subset, limit, refuse_overlap
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.export.bundle import (
    Bundle,
    Evaluation,
    TensorRecord,
    Variant,
    check_replaceable,
    record_files,
    write_manifest,
)
from fptk.export.onnx import INPUT_NAME, OUTPUT_NAME, export_onnx
from fptk.export.targets.base import BuildRequest, BuildResult, CalibrationStream, EngineNotBuiltError, Target
from fptk.export.targets.onnxruntime import OnnxRuntimeSession
from fptk.export.targets.registry import get_target
from fptk.models.checkpoint import load_checkpoint
from fptk.runs.source import BUNDLES, CACHE, CALIBRATION_LIST, REJECTED, ModelSource
from fptk.workflows.verdicts import content_sha256

if TYPE_CHECKING:
    import torch

    from fptk.models.network import FaceParsingNetwork
    from fptk.recipes.schema import ExportSection


FAULT_IMAGES = 4
"""Calibration images that an INT8 engine is compared with its own graph on."""
FAULT_REBUILDS = 4
"""Times that an engine is built again because faulty layers were found: a fault can hide those behind it."""


@dataclass(frozen=True)
class ExportPlan:
    """What ``fptk export`` was asked for."""

    targets: tuple[str, ...]
    precisions: tuple[Precision, ...]
    """Each is built by the targets that have it."""
    out: Path
    """Folder that gets ``bundles/`` and ``rejected/``."""
    command: str
    implied: tuple[Precision, ...] = ()
    """Precisions that nobody asked for: built where target and processor have them, and not mentioned elsewhere."""
    variant: Variant = "deploy"
    data: Path | None = None
    """Evaluation data; ``None`` takes the validation images of the run."""
    eval_images: int | None = None
    """Evaluate on so many images, evenly spaced; ``None`` is all."""
    calib: Path | None = None
    """Calibration folder or list; ``None`` chooses from the training images of the run."""
    calib_size: int = 64
    calib_strategy: Literal["coverage", "random"] = "coverage"
    """How the images are chosen where ``calib`` is no list."""
    gate: GatePolicy | None = field(default_factory=GatePolicy)
    """``None`` builds without judging."""
    fallback: bool = True
    """Climb the fallback ladder where the gate refuses the first INT8 engine."""
    explain: bool = False
    """Measure which layer groups INT8 costs most, and keep the ranking in the bundle."""
    sensitivity_images: int = 8
    """Images that the ranking compares logits on."""
    matrix_images: int | None = 16
    """Evaluation images of the processor matrix; ``None`` leaves the matrix out."""
    threads: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the builders, by name; each target gets those in its :attr:`Target.option_names`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one engine that was asked for."""

    label: str
    folder: Path
    verdict: str
    """As :attr:`fptk.export.bundle.Bundle.verdict`."""
    message: str
    """One line for the user: scores, or why there is no engine."""


def export_bundles(source: ModelSource, plan: ExportPlan) -> list[Outcome]:
    """Build, score and judge every target and precision of the plan.

    An engine that this host cannot build, or that the gate refuses, does not stop the others.

    Returns:
        One outcome per engine, in the order of the plan.

    Raises:
        InputError: weights, data or an option are not usable.
    """
    engines = engines_of(plan)
    for target, precision in engines:
        for home in (BUNDLES, REJECTED):
            check_replaceable(plan.out / home / _bundle_name(target, precision, plan.variant))
    with temporary_folder(plan.out, "export") as scratch:
        job = _ExportJob(source, plan, scratch)
        return [job.export(target, precision) for target, precision in engines]


def engines_of(plan: ExportPlan) -> list[tuple[Target, Precision]]:
    """What a plan builds: each precision for the targets that have it; one line says which have not.

    Raises:
        InputError: no chosen target has one of the precisions.
    """
    targets = [get_target(name) for name in plan.targets]
    for precision in plan.precisions:
        lacking = [target for target in targets if precision not in target.precisions]
        if len(lacking) == len(targets):
            have = "; ".join(f"{target.name} builds {', '.join(target.precisions)}" for target in targets)
            raise InputError(f"no chosen target builds {precision}: {have}")
        for target in lacking:
            log.print(f"{target.name} has no {precision}: it builds {', '.join(target.precisions)}", soft_wrap=True)
    wanted = [each for each in Precision if each in (*plan.precisions, *plan.implied)]
    return [
        (target, precision)
        for target in targets
        for precision in wanted
        if precision in target.precisions and (precision in plan.precisions or target.cannot_compute(precision) is None)
    ]


def _bundle_name(target: Target, precision: Precision, variant: Variant) -> str:
    return f"{target.name}-{precision}" + ("-naive" if variant == "naive" else "")


class EngineBrokenError(InputError):
    """An engine was built, and its own runtime refuses it."""


@dataclass(frozen=True)
class _Built:
    """One attempt at an engine."""

    folder: Path
    artifact: BuildResult
    unavailable: str | None
    """Why this host could not build it."""
    refusal: str | None
    """Why the builder itself refused what it had built."""
    evaluation: Evaluation | None
    verdict: Verdict | None
    processors: ProcessorMatrix | None = None

    @property
    def gate(self) -> dict[str, Any] | None:
        """What the manifest records of the gate."""
        if self.refusal:
            return {"passed": False, "summary": self.refusal}
        return self.verdict.model_dump(mode="json") if self.verdict else None


class _ExportJob:
    """The inputs that the engines of one export share, each made when first needed and then kept."""

    def __init__(self, source: ModelSource, plan: ExportPlan, scratch: Path) -> None:
        self.source, self.plan, self.scratch = source, plan, scratch
        self.network, self.card = load_checkpoint(source.weights)
        self.spec = self.card.preprocess
        if plan.calib is not None and kind_of(plan.calib, "calibration data") not in ("file", "folder"):
            raise InputError(f"--calib {plan.calib} is neither a folder of images nor a file that lists them")
        self.dataset = self._evaluation_set()
        if self.dataset is not None:
            check_dataset(self.dataset, "checking the evaluation images")
        self.faults: dict[str, list[KernelFault]] = {}
        """By target: the layers that this processor computes wrongly in int8, as far as they were found."""

    def export(self, target: Target, precision: Precision) -> Outcome:
        """Build one engine into a bundle."""
        name = _bundle_name(target, precision, self.plan.variant)
        log.print(f"{name}: building", style="bold")
        with ExitStack() as stack:
            built, fallback = self._build(target, precision, lambda: self._folder(name, stack))
            bundle = self._describe(target, precision, built)
            if fallback:
                bundle.build["ladder"] = fallback
            write_manifest(bundle, built.folder)
            home = REJECTED if bundle.verdict == "refused" else BUNDLES
            final = self.plan.out / home / name
            replace_folder(built.folder, final)
        return Outcome(bundle.label, final, bundle.verdict, _message(bundle))

    def _folder(self, name: str, stack: ExitStack) -> Path:
        """A new folder for one attempt; absolute, since builders run in processes of their own."""
        return stack.enter_context(temporary_folder(self.plan.out, name)).resolve()

    def _build(
        self, target: Target, precision: Precision, folder: Callable[[], Path]
    ) -> tuple[_Built, dict[str, Any] | None]:
        """The engine, and the record of the fallback ladder where there is one to climb."""
        candidates = self._candidates(target) if precision is Precision.INT8 else None
        if candidates is None:
            return self._attempt(target, precision, folder, {}), None
        refused: list[_Built] = []

        def build(candidate: Candidate[Any]) -> tuple[_Built, Verdict]:
            options = asdict(candidate.settings) | ({"accuracy_control": True} if candidate.accuracy_control else {})
            try:
                built = self._attempt(target, precision, folder, options)
            except EngineBrokenError as error:
                raise CandidateSkippedError(str(error)) from error
            if built.refusal:
                refused.append(built)
            if built.verdict is None:
                raise CandidateSkippedError(built.refusal or built.unavailable or "the engine could not be scored")
            return built, built.verdict

        # What the builder itself refuses (too few layers in INT8), no gentler rung repairs.
        result = try_in_order(itertools.takewhile(lambda _: not refused, candidates), build, _log_attempt)
        if result.best is None and refused:
            return refused[0], result.as_dict()
        if result.best is None or result.best.artifact is None:
            raise InputError(f"no INT8 engine could be built for {target.name}: {result.attempts[-1].skipped}")
        return result.best.artifact, result.as_dict()

    def _candidates(self, target: Target) -> Iterable[Candidate[Any]] | None:
        """What to try one after the other; ``None`` where nothing is judged, or the target has no ladder."""
        if self.dataset is None or self.plan.gate is None:
            return None
        candidates = target.candidates(lambda: self.sensitivity(target), self._options(target))
        if candidates is None or self.plan.fallback:
            return candidates
        return itertools.islice(candidates, 1)

    def _attempt(
        self, target: Target, precision: Precision, folder: Callable[[], Path], options: dict[str, Any]
    ) -> _Built:
        """Build, tell kernel faults from rounding, score what was built, and ask the gate."""
        where, artifact, unavailable, refusal = folder(), BuildResult(()), None, None
        try:
            artifact = target.build(self._request(target, precision, where, options))
            for _ in range(FAULT_REBUILDS if precision is Precision.INT8 else 0):
                if not (artifact.files and self._finds_faults(target, artifact)):
                    break
                where = folder()
                artifact = target.build(self._request(target, precision, where, options))
        except EngineNotBuiltError as error:
            artifact, unavailable = BuildResult((), error.details), str(error)
        except TargetUnavailableError as error:
            unavailable = str(error)
        except GateRefusedError as error:
            artifact, refusal = BuildResult(()), str(error)
        evaluation, verdict = self._judge(target, artifact, where)
        matrix = self._matrix(target, precision, artifact) if verdict is None or verdict.passed else None
        if verdict and matrix and matrix.failed:
            verdict = verdict.refused_because(matrix.summary)
        return _Built(where, artifact, unavailable, refusal, evaluation, verdict, matrix)

    def _request(self, target: Target, precision: Precision, folder: Path, options: dict[str, Any]) -> BuildRequest:
        """One build: with the rung's options, the user's, and the layers that known faults keep in float."""
        chosen = {**options, **self._options(target)}
        faulty = [fault.layer for fault in self.faults.get(target.name, ())]
        if faulty and precision is Precision.INT8:
            key = target.float_layers_option
            chosen[key] = tuple(dict.fromkeys((*chosen.get(key, ()), *faulty)))
        return BuildRequest(
            onnx_path=self._onnx(target),
            precision=precision,
            folder=folder,
            spec=self.spec,
            calibration=self._calibration() if precision in target.calibrated else None,
            options=chosen,
        )

    def _options(self, target: Target) -> dict[str, Any]:
        """The user's settings that this target knows."""
        return {key: value for key, value in self.plan.options.items() if key in target.option_names}

    def _finds_faults(self, target: Target, artifact: BuildResult) -> bool:
        """Whether the engine has layers that are wrong here and not known to be; they are put down as known."""
        agreement = self._agreement(target, artifact)
        if agreement is None:
            return False
        artifact.details["agreement_with_simulation"] = agreement.model_dump(mode="json")
        if agreement.explained:
            return False
        known = self.faults.setdefault(target.name, [])
        found = target.find_faults(artifact.files[0], self._fault_images[0], precision_hint=artifact.precision_hint)
        new = [fault for fault in found if fault.layer not in {each.layer for each in known}]
        log.print(
            f"  the engine labels {agreement.engine:.1%} of the pixels as its own graph in float arithmetic does: "
            "more than rounding",
            markup=False,
            soft_wrap=True,
        )
        for fault in new:
            log.print(
                f"  kernel fault: {fault.layer} ({fault.op_type}, {fault.kernel}) is wrong by {fault.error:.2g} times "
                f"its size on {fault.processor} with {fault.version}; kept in float",
                markup=False,
                soft_wrap=True,
            )
        if not new:
            log.print("  no single layer is wrong: left to the gate", markup=False)
        known += new
        return bool(new)

    def _agreement(self, target: Target, artifact: BuildResult) -> Agreement | None:
        """The engine against its own graph in float arithmetic; ``None`` where one of the two cannot run here."""
        if not target.probe().can_run:
            return None
        images, reference = self._fault_images
        try:
            simulation = target.simulate(artifact.files[0], self.spec, threads=self.plan.threads)
            if simulation is None:
                return None
            with simulation, self._load(target, artifact) as engine:
                return measure_agreement(engine(images), simulation(images), reference)
        except InputError as error:
            raise EngineBrokenError(f"the engine as built does not load: {error}") from error

    def _load(self, target: Target, artifact: BuildResult) -> Session:
        return target.load(
            artifact.files[0], self.spec, threads=self.plan.threads, precision_hint=artifact.precision_hint
        )

    def _matrix(self, target: Target, precision: Precision, artifact: BuildResult) -> ProcessorMatrix | None:
        """The engine under every instruction set of this host; ``None`` where that is not asked or says nothing."""
        if not (target.runs_on_cpu and artifact.files and self.dataset and self.plan.matrix_images):
            return None
        request = MatrixRequest(
            target=target.name,
            engine=artifact.files[0],
            spec=self.spec,
            precision_hint=artifact.precision_hint,
            cpu=self._promise(target, precision) or "any",
            threads=self.plan.threads,
        )
        images = self._matrix_images
        with counting(f"{target.name} {precision}: instruction sets", len(INSTRUCTION_SETS)) as on_row:
            return measure_processors(request, images, self.plan.gate, on_row)

    def _promise(self, target: Target, precision: Precision) -> Cpu | None:
        """The processors that an engine is promised to be right on: only int8 kernels differ between them."""
        if not target.runs_on_cpu:
            return None
        return self.plan.options.get("cpu", "any") if precision is Precision.INT8 else "any"

    def _describe(self, target: Target, precision: Precision, built: _Built) -> Bundle:
        """The manifest of what was built."""
        artifact, folder = built.artifact, built.folder
        if self.plan.explain and precision is Precision.INT8:
            ranking = self.sensitivity(target)
            artifact.details["sensitivity"] = ranking.model_dump(mode="json")
            if ranking.rows:
                draw_sensitivity(ranking, f"{target.name} INT8, {self.card.model}", folder / "sensitivity.png")
        return Bundle(
            created=datetime.now(UTC),
            target=target.name,
            precision=precision,
            precision_hint=artifact.precision_hint,
            variant=self.plan.variant,
            model=self.card.model,
            options=self.card.options,
            parameters=self.card.num_parameters,
            macs=count_macs(self._onnx(target)) if self._batch(target) else None,
            preprocess=self.spec,
            preprocess_sha256=self.spec.sha256,
            input=TensorRecord(name=INPUT_NAME, dtype="uint8", shape=(self._batch(target), *self.spec.size, 3)),
            output=TensorRecord(name=OUTPUT_NAME, dtype="uint8", shape=(self._batch(target), *self.spec.size)),
            engine=artifact.files[0].relative_to(folder).as_posix() if artifact.files else None,
            files=record_files(folder),
            unavailable=built.unavailable,
            checkpoint_sha256=self.checkpoint_sha256,
            calibration=self.calibration_set.manifest() if precision in target.calibrated else None,
            tools={**tool_versions(), **target.probe().versions},
            host=describe_host(),
            build=artifact.details,
            cpu=self._promise(target, precision),
            kernel_faults=tuple(self.faults.get(target.name, ())) if precision is Precision.INT8 else (),
            processors=built.processors,
            evaluation=built.evaluation,
            gate=built.gate,
            command=self.plan.command,
        )

    def _judge(self, target: Target, artifact: BuildResult, folder: Path) -> tuple[Evaluation | None, Verdict | None]:
        """Score the engine as built and ask the gate; ``None`` for what cannot be had here."""
        if self.dataset is None or not (artifact.files or "simulate_with" in artifact.details):
            return None, None
        scores, simulated_by = self._score(target, artifact, folder)
        evaluation = Evaluation(
            dataset=self.dataset.name,
            images=scores.images,
            content_sha256=self.dataset_sha256,
            reference=self.reference.as_dict(),
            engine=scores.as_dict(),
            simulated_by=simulated_by,
        )
        return evaluation, evaluate_gate(self.reference, scores, self.plan.gate) if self.plan.gate else None

    def _score(self, target: Target, artifact: BuildResult, folder: Path) -> tuple[Scores, str | None]:
        """Scores of the engine, or of its graph in ONNX Runtime where this host cannot build or run the engine."""
        assert self.dataset is not None
        graph, simulated_by = artifact.details.get("simulate_with"), None
        if graph and not (artifact.files and target.probe().can_run):
            session: Session = OnnxRuntimeSession(folder / graph, self.spec, threads=self.plan.threads)
            simulated_by = "onnxruntime"
        else:
            try:
                session = self._load(target, artifact)
            except InputError as error:
                raise EngineBrokenError(f"the engine as built does not load: {error}") from error
        with session:
            return evaluate(session, self.dataset, listener=TERMINAL), simulated_by

    def _evaluation_set(self) -> FaceParsingDataset | None:
        dataset = self.source.evaluation_set(self.plan.data)
        if dataset is None:
            log.print("no evaluation data: engines are built, not judged; give --data DIR to judge them")
        return limit(dataset, self.plan.eval_images) if dataset else None

    @cached_property
    def checkpoint_sha256(self) -> str:
        return sha256_file(self.source.weights)

    @cached_property
    def dataset_sha256(self) -> str:
        assert self.dataset is not None
        return content_sha256(self.dataset)

    @cached_property
    def _fault_images(self) -> tuple[UInt8Array, UInt8Array]:
        """A few calibration images, uint8 (N, H, W, 3), and their labels by the FP32 reference."""
        pixels = np.concatenate(list(itertools.islice(self._calibration(shown=False).images(), FAULT_IMAGES)))
        return pixels, self._reference_labels(pixels)

    @cached_property
    def _matrix_images(self) -> MatrixImages:
        """Evenly spaced evaluation images, with their labels by the FP32 reference."""
        assert self.dataset is not None
        part = limit(self.dataset, self.plan.matrix_images)
        samples = [part[index] for index in range(len(part))]
        pixels = np.stack([self.spec.apply(sample.image) for sample in samples])
        return MatrixImages(pixels, [sample.mask for sample in samples], self._reference_labels(pixels))

    def _reference_labels(self, pixels: UInt8Array) -> UInt8Array:
        from fptk.models.torch_session import TorchSession

        with TorchSession(self.network, self.spec) as session:
            return np.concatenate([session(image[None]) for image in pixels])

    @cached_property
    def reference(self) -> Scores:
        """Scores of the network itself, in PyTorch and FP32."""
        from fptk.models.torch_session import TorchSession

        assert self.dataset is not None
        with TorchSession(self.network, self.spec) as session:
            return evaluate(session, self.dataset, listener=TERMINAL)

    @cached_property
    def _calibration_data(self) -> FaceParsingDataset:
        data = self.plan.calib
        if data is not None and data.is_dir():
            return open_calibration(data)
        dataset = self.source.training_set(self.plan.data)
        if dataset is None and data is None:
            log.print("no calibration images: INT8 ranges come from synthetic faces; give --data DIR for real ones")
            return SyntheticFaces(self.plan.calib_size, self.spec.size)
        if dataset is None:
            raise InputError(f"--calib {data} lists training images; give --data DIR, the data set that holds them")
        return dataset

    @cached_property
    def calibration_set(self) -> CalibrationSet:
        """The images that INT8 ranges are measured on; none of them is an evaluation image."""
        dataset, calib = self._calibration_data, self.plan.calib
        if calib is not None and calib.is_file():
            chosen = CalibrationSet.from_list(calib, dataset)
        else:
            chosen = select_calibration_set(dataset, self.plan.calib_size, strategy=self.plan.calib_strategy)
        images = Subset(dataset, [image.index for image in chosen.images])
        check_dataset(images, "checking the calibration images")
        if self.dataset is not None:
            refuse_overlap(images, self.dataset)
        chosen = chosen.with_paths(lambda index: image_file(dataset, index))
        chosen.save(self.plan.out / CACHE / CALIBRATION_LIST)
        log.print(_coverage(chosen), markup=False, soft_wrap=True)
        return chosen

    def _calibration(self, *, shown: bool = True) -> CalibrationStream:
        """The calibration set as builders take it; ``shown`` puts a progress bar on every pass."""
        dataset, chosen, spec = self._calibration_data, self.calibration_set, self.spec
        stream = chosen.stream(dataset, spec)

        def labelled() -> Iterator[tuple[UInt8Array, UInt8Array]]:
            for image in chosen.images:
                sample = dataset[image.index]
                yield spec.apply(sample.image)[None], spec.apply_mask(sample.mask)

        return CalibrationStream(
            images=lambda: track(stream(), "calibrating", total=len(chosen)) if shown else stream(),
            labelled=labelled,
            sha256=chosen.sha256,
            preprocess_sha256=spec.sha256,
            cache=self.plan.out / CACHE,
        )

    def sensitivity(self, target: Target) -> Sensitivity:
        """Layer groups ranked by what INT8 costs each alone; measured once and kept in the run's cache."""
        calibration = self._calibration(shown=False)
        with progress_bar() as progress:
            task = progress.add_task("measuring sensitivity", total=None)
            return measure_sensitivity(
                self._onnx(target),
                calibration.images,
                calibration.ranges(),
                SensitivityPlan(images=self.plan.sensitivity_images),
                lambda done, total, group: progress.update(task, completed=done, total=total),
            )

    def _onnx(self, target: Target) -> Path:
        """The FP32 graph for one target, exported once."""
        path = self.scratch / f"{target.name}.onnx"
        if not path.is_file():
            metadata = {
                "fptk.version": __version__,
                "fptk.model": self.card.model,
                "fptk.variant": self.plan.variant,
                "fptk.checkpoint_sha256": self.checkpoint_sha256,
                "fptk.core.preprocess": self.spec.model_dump_json(),
                "fptk.preprocess_sha256": self.spec.sha256,
            }
            module = serving_module(self.network, self.spec, self.plan.variant, target.graph_form)
            export_onnx(module, path, self.spec, metadata=metadata, batch=self._batch(target))
        return path

    def _batch(self, target: Target) -> int | None:
        """Batch of the graph; ``None`` leaves it open for a target that builds for a range."""
        return None if "dynamic_batch" in self.plan.options.keys() & target.option_names else 1


def check_dataset(dataset: FaceParsingDataset, description: str) -> None:
    """Decode every file before the work that a damaged one would end.

    Raises:
        InputError: one is damaged; the first is named and the others are counted.
    """
    check_files(dataset, workers=usable_cores(), what=description, listener=TERMINAL)


def serving_module(network: FaceParsingNetwork, spec: PreprocessSpec, variant: Variant, engine: str) -> torch.nn.Module:
    """What is exported: uint8 images to uint8 labels, around the rewritten network or around the one as written.

    Args:
        network: as loaded from a checkpoint.
        spec: normalisation, put inside.
        variant: ``deploy`` or ``naive``.
        engine: :attr:`fptk.export.targets.base.Target.graph_form`, for the deploy form.
    """
    from fptk.models.deploy import to_deploy
    from fptk.models.deploy.serving import Serving

    if variant == "deploy":
        return Serving(to_deploy(network, engine=engine), spec)
    return Serving(network.original(), spec)


def gate_policy(section: ExportSection, max_miou_drop: float | None, max_class_drop: float | None) -> GatePolicy:
    """The gate of a recipe, with what the command line says instead."""
    return GatePolicy(
        max_miou_drop=section.max_miou_drop if max_miou_drop is None else max_miou_drop,
        max_class_drop=section.max_class_drop if max_class_drop is None else max_class_drop,
    )


def _log_attempt(attempt: Attempt[_Built]) -> None:
    if attempt.verdict:
        log.print(f"  {attempt.candidate}: {attempt.verdict.summary}", markup=False, soft_wrap=True)
    else:
        log.print(f"  {attempt.candidate}: skipped, {attempt.skipped}", markup=False, soft_wrap=True)


def _message(bundle: Bundle) -> str:
    parts = [bundle.unavailable] if bundle.unavailable else []
    if bundle.evaluation:
        engine, reference = bundle.evaluation.engine, bundle.evaluation.reference
        by = f", simulated by {bundle.evaluation.simulated_by}" if bundle.evaluation.simulated_by else ""
        parts.append(f"mIoU {100 * engine['miou']:.2f}, FP32 reference {100 * reference['miou']:.2f}{by}")
    if bundle.gate:
        parts.append(bundle.gate["summary"])
    if bundle.kernel_faults:
        parts.append("in float for a kernel fault here: " + ", ".join(fault.layer for fault in bundle.kernel_faults))
    if "layers" in bundle.build:
        parts.append(bundle.build["layers"]["summary"])
    if not (bundle.unavailable or bundle.gate or bundle.evaluation):
        parts.insert(0, "built, not judged: there was no evaluation data")
    return "; ".join(parts)


def _coverage(chosen: CalibrationSet) -> str:
    """One line: how many images, and which classes they show too little of."""
    line = f"calibrating on {len(chosen)} images of {chosen.dataset}"
    short = ", ".join(chosen.short_classes())
    if not short:
        return line
    least = chosen.minimum
    wanted = f"in under {least.images} images or {least.pixels} pixels" if least else "in none of them"
    return f"{line}; {wanted}: {short}"
