"""Checkpoint to bundles: deploy form, ONNX, precision, engine, evaluation, gate, manifest.

The data goes one way: each step takes what the step before left, and a bundle appears under its name only when the
engine in it was scored.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fptk import __version__
from fptk.benchmarks.roofline import count_macs
from fptk.bundle import Bundle, Evaluation, TensorRecord, Variant, record_files, write_manifest
from fptk.calibration.calibration_set import CalibrationSet, refuse_overlap, select_calibration_set
from fptk.calibration.gate import GatePolicy, Verdict, judge
from fptk.calibration.ladder import Attempt, Rung, RungSkippedError, climb
from fptk.calibration.sensitivity import Sensitivity, SensitivityPlan, measure_sensitivity
from fptk.console import counting, log, progress_bar, track
from fptk.data import image_file, open_calibration
from fptk.data.splits import limit
from fptk.data.synthetic import SyntheticFaces
from fptk.dataset import FaceParsingDataset, UInt8Array
from fptk.errors import GateRefusedError, InputError, TargetUnavailableError
from fptk.evaluate import evaluate
from fptk.export.onnx_export import INPUT_NAME, OUTPUT_NAME, export_onnx
from fptk.export.targets.base import (
    Artefact,
    BuildRequest,
    CalibrationStream,
    EngineNotBuiltError,
    Precision,
    Target,
)
from fptk.export.targets.onnx import OnnxRuntimeSession
from fptk.export.targets.registry import get_target
from fptk.files import replace_folder, sha256_file, sha256_json, temporary_folder
from fptk.host import describe_host, tool_versions
from fptk.metrics import Scores
from fptk.models.checkpoint import load_checkpoint
from fptk.preprocess import PreprocessSpec
from fptk.runs import BUNDLES, CACHE, CALIBRATION_LIST, REJECTED, Source
from fptk.sensitivity_chart import draw_sensitivity
from fptk.session import Session

if TYPE_CHECKING:
    import torch

    from fptk.models.network import FaceParsingNetwork
    from fptk.recipes.schema import ExportSection


@dataclass(frozen=True)
class ExportPlan:
    """What ``fptk export`` was asked for."""

    targets: tuple[str, ...]
    precisions: tuple[Precision, ...]
    out: Path
    """Folder that gets ``bundles/`` and ``rejected/``."""
    command: str
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
    threads: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the builders, by name; each target gets those in its :attr:`Target.option_names`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one engine that was asked for."""

    label: str
    folder: Path
    verdict: str
    """As :attr:`fptk.bundle.Bundle.verdict`."""
    message: str
    """One line for the user: scores, or why there is no engine."""


def export_bundles(source: Source, plan: ExportPlan) -> list[Outcome]:
    """Build, score and judge every target and precision of the plan.

    An engine that this host cannot build, or that the gate refuses, does not stop the others.

    Returns:
        One outcome per engine, in the order of the plan.

    Raises:
        InputError: weights, data or an option are not usable.
    """
    with temporary_folder(plan.out, "export") as scratch:
        job = _ExportJob(source, plan, scratch)
        return [job.export(get_target(name), precision) for name in plan.targets for precision in plan.precisions]


class EngineBrokenError(InputError):
    """An engine was built, and its own runtime refuses it."""


@dataclass(frozen=True)
class _Built:
    """One attempt at an engine."""

    folder: Path
    artefact: Artefact
    unavailable: str | None
    """Why this host could not build it."""
    refusal: str | None
    """Why the builder itself refused what it had built."""
    evaluation: Evaluation | None
    verdict: Verdict | None

    @property
    def gate(self) -> dict[str, Any] | None:
        """What the manifest records of the gate."""
        if self.refusal:
            return {"passed": False, "summary": self.refusal}
        return self.verdict.model_dump(mode="json") if self.verdict else None


class _ExportJob:
    """The inputs that the engines of one export share, each made when first needed and then kept."""

    def __init__(self, source: Source, plan: ExportPlan, scratch: Path) -> None:
        self.source, self.plan, self.scratch = source, plan, scratch
        self.network, self.card = load_checkpoint(source.weights)
        self.spec = self.card.preprocess
        self.dataset = self._evaluation_set()

    def export(self, target: Target, precision: Precision) -> Outcome:
        """Build one engine into a bundle."""
        if precision not in target.precisions:
            raise InputError(
                f"target {target.name} builds {', '.join(target.precisions)}, not {precision}; drop one of the two"
            )
        suffix = "-naive" if self.plan.variant == "naive" else ""
        name = f"{target.name}-{precision}{suffix}"
        log.print(f"[bold]{name}[/bold]: building")
        with ExitStack() as stack:
            built, ladder = self._build(target, precision, lambda: self._folder(name, stack))
            bundle = self._describe(target, precision, built)
            if ladder:
                bundle.build["ladder"] = ladder
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
        rungs = self._rungs(target) if precision is Precision.INT8 else None
        if rungs is None:
            return self._attempt(target, precision, folder(), {}), None
        refused: list[_Built] = []

        def build(rung: Rung[Any]) -> tuple[_Built, Verdict]:
            options = asdict(rung.settings) | ({"accuracy_control": True} if rung.accuracy_control else {})
            try:
                built = self._attempt(target, precision, folder(), options)
            except EngineBrokenError as error:
                raise RungSkippedError(str(error)) from error
            if built.refusal:
                refused.append(built)
            if built.verdict is None:
                raise RungSkippedError(built.refusal or built.unavailable or "the engine could not be scored")
            return built, built.verdict

        # What the builder itself refuses (too few layers in INT8), no gentler rung repairs.
        result = climb(itertools.takewhile(lambda _: not refused, rungs), build, _log_attempt)
        if result.best is None and refused:
            return refused[0], result.as_dict()
        if result.best is None or result.best.artefact is None:
            raise InputError(f"no INT8 engine could be built for {target.name}: {result.attempts[-1].skipped}")
        return result.best.artefact, result.as_dict()

    def _rungs(self, target: Target) -> Iterable[Rung[Any]] | None:
        """What to try one after the other; ``None`` where nothing is judged, or the target has no ladder."""
        if self.dataset is None or self.plan.gate is None:
            return None
        rungs = target.rungs(lambda: self.sensitivity(target))
        if rungs is None or self.plan.fallback:
            return rungs
        return itertools.islice(rungs, 1)

    def _attempt(self, target: Target, precision: Precision, folder: Path, options: dict[str, Any]) -> _Built:
        """Build once, score what was built, and ask the gate."""
        calibrated = precision in target.calibrated
        given = {key: value for key, value in self.plan.options.items() if key in target.option_names}
        request = BuildRequest(
            onnx_path=self._onnx(target),
            precision=precision,
            folder=folder,
            spec=self.spec,
            calibration=self._calibration() if calibrated else None,
            options={**options, **given},
        )
        artefact, unavailable, refusal = Artefact(()), None, None
        try:
            artefact = target.build(request)
        except EngineNotBuiltError as error:
            artefact, unavailable = Artefact((), error.details), str(error)
        except TargetUnavailableError as error:
            unavailable = str(error)
        except GateRefusedError as error:
            refusal = str(error)
        evaluation, verdict = self._judge(target, artefact, folder)
        return _Built(folder, artefact, unavailable, refusal, evaluation, verdict)

    def _describe(self, target: Target, precision: Precision, built: _Built) -> Bundle:
        """The manifest of what was built."""
        artefact, folder = built.artefact, built.folder
        if self.plan.explain and precision is Precision.INT8:
            ranking = self.sensitivity(target)
            artefact.details["sensitivity"] = ranking.model_dump(mode="json")
            if ranking.rows:
                draw_sensitivity(ranking, f"{target.name} INT8, {self.card.model}", folder / "sensitivity.png")
        return Bundle(
            created=datetime.now(UTC),
            target=target.name,
            precision=precision,
            variant=self.plan.variant,
            model=self.card.model,
            options=self.card.options,
            parameters=self.card.num_parameters,
            macs=count_macs(self._onnx(target)) if self._batch(target) else None,
            preprocess=self.spec,
            preprocess_sha256=self.spec.sha256,
            input=TensorRecord(name=INPUT_NAME, dtype="uint8", shape=(self._batch(target), *self.spec.size, 3)),
            output=TensorRecord(name=OUTPUT_NAME, dtype="uint8", shape=(self._batch(target), *self.spec.size)),
            engine=artefact.files[0].relative_to(folder).as_posix() if artefact.files else None,
            files=record_files(folder),
            unavailable=built.unavailable,
            checkpoint_sha256=self.checkpoint_sha256,
            calibration=self.calibration_set.manifest() if precision in target.calibrated else None,
            tools={**tool_versions(), **target.probe().versions},
            host=describe_host(),
            build=artefact.details,
            evaluation=built.evaluation,
            gate=built.gate,
            command=self.plan.command,
        )

    def _judge(self, target: Target, artefact: Artefact, folder: Path) -> tuple[Evaluation | None, Verdict | None]:
        """Score the engine as built and ask the gate; ``None`` for what cannot be had here."""
        if self.dataset is None or not (artefact.files or "simulate_with" in artefact.details):
            return None, None
        scores, simulated_by = self._score(target, artefact, folder)
        evaluation = Evaluation(
            dataset=self.dataset.name,
            images=scores.images,
            content_sha256=self.dataset_sha256,
            reference=self.reference.as_dict(),
            engine=scores.as_dict(),
            simulated_by=simulated_by,
        )
        return evaluation, judge(self.reference, scores, self.plan.gate) if self.plan.gate else None

    def _score(self, target: Target, artefact: Artefact, folder: Path) -> tuple[Scores, str | None]:
        """Scores of the engine, or of its graph in ONNX Runtime where this host cannot build or run the engine."""
        assert self.dataset is not None
        graph, simulated_by = artefact.details.get("simulate_with"), None
        if graph and not (artefact.files and target.probe().can_run):
            session: Session = OnnxRuntimeSession(folder / graph, self.spec, threads=self.plan.threads)
            simulated_by = "onnxruntime"
        else:
            try:
                session = target.load(artefact.files[0], self.spec, threads=self.plan.threads)
            except InputError as error:
                raise EngineBrokenError(f"the engine as built does not load: {error}") from error
        with session:
            return score(session, self.dataset, f"scoring {target.name}"), simulated_by

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
        return sha256_json([self.dataset.content_hash(i) for i in range(len(self.dataset))])

    @cached_property
    def reference(self) -> Scores:
        """Scores of the network itself, in PyTorch and FP32."""
        from fptk.models.session import TorchSession

        assert self.dataset is not None
        with TorchSession(self.network, self.spec) as session:
            return score(session, self.dataset, "scoring the PyTorch FP32 reference")

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
        if self.dataset is not None:
            refuse_overlap(chosen, self.dataset)
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
                "fptk.preprocess": self.spec.model_dump_json(),
                "fptk.preprocess_sha256": self.spec.sha256,
            }
            module = serving_module(self.network, self.spec, self.plan.variant, target.graph_form)
            export_onnx(module, path, self.spec, metadata=metadata, batch=self._batch(target))
        return path

    def _batch(self, target: Target) -> int | None:
        """Batch of the graph; ``None`` leaves it open for a target that builds for a range."""
        return None if "dynamic_batch" in self.plan.options.keys() & target.option_names else 1


def serving_module(network: FaceParsingNetwork, spec: PreprocessSpec, variant: Variant, engine: str) -> torch.nn.Module:
    """What is exported: uint8 images to uint8 labels, around the rewritten network or around the one as written.

    Args:
        network: as loaded from a checkpoint.
        spec: normalisation, put inside.
        variant: ``deploy`` or ``naive``.
        engine: :attr:`fptk.export.targets.base.Target.graph_form`, for the deploy form.
    """
    from fptk.models.deploy import to_deploy
    from fptk.models.serving import Serving

    if variant == "deploy":
        return Serving(to_deploy(network, engine=engine), spec)
    return Serving(naive_network(network), spec)


def naive_network(network: FaceParsingNetwork) -> FaceParsingNetwork:
    """A copy of the network that computes in the order in which the paper writes it: the baseline of every speed-up."""
    naive = copy.deepcopy(network)
    setattr(naive, "efficient", False)  # noqa: B010 - networks without an efficient form have no such attribute
    return naive


def gate_policy(section: ExportSection, max_miou_drop: float | None, max_class_drop: float | None) -> GatePolicy:
    """The gate of a recipe, with what the command line says instead."""
    return GatePolicy(
        max_miou_drop=section.max_miou_drop if max_miou_drop is None else max_miou_drop,
        max_class_drop=section.max_class_drop if max_class_drop is None else max_class_drop,
    )


def score(
    session: Session, dataset: FaceParsingDataset, description: str, on_score: Callable[[float], None] | None = None
) -> Scores:
    """:func:`fptk.evaluate.evaluate` under a progress bar."""
    with counting(description, len(dataset)) as on_image:
        return evaluate(session, dataset, on_image=on_image, on_score=on_score)


def _log_attempt(attempt: Attempt[_Built]) -> None:
    if attempt.verdict:
        log.print(f"  {attempt.rung}: {attempt.verdict.summary}", markup=False, soft_wrap=True)
    else:
        log.print(f"  {attempt.rung}: skipped, {attempt.skipped}", markup=False, soft_wrap=True)


def _message(bundle: Bundle) -> str:
    parts = [bundle.unavailable] if bundle.unavailable else []
    if bundle.evaluation:
        engine, reference = bundle.evaluation.engine, bundle.evaluation.reference
        by = f", simulated by {bundle.evaluation.simulated_by}" if bundle.evaluation.simulated_by else ""
        parts.append(f"mIoU {100 * engine['miou']:.2f}, FP32 reference {100 * reference['miou']:.2f}{by}")
    if bundle.gate:
        parts.append(bundle.gate["summary"])
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
