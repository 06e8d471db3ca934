"""Target ``openvino``: Intel's OpenVINO on the CPU: FP32, BF16, FP16 storage, or INT8 by NNCF."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fptk.benchmarks.profile import PROFILED_CALLS, NodeTime, median_times
from fptk.benchmarks.throughput import RequestPool
from fptk.calibration.fallback import Candidate, openvino_candidates
from fptk.calibration.openvino_cpu import (
    BF16_OR_F32,
    NO_BF16,
    compile_model,
    first_input_shape,
    openvino_core,
    resolved,
)
from fptk.calibration.openvino_quantizer import (
    OpenVinoQuantSettings,
    openvino_layer_names,
    quantize_openvino,
    quantize_openvino_with_accuracy_control,
    settings_for,
)
from fptk.calibration.report import QuantReport
from fptk.core.cpu import ISA_VARIABLE, has_bf16
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.host import usable_cores
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.openvino.lint import lint_openvino, refuse_known_faults
from fptk.export.openvino.nodes import runtime_nodes
from fptk.export.openvino.pool import OpenVinoPool, last_line
from fptk.export.targets.base import (
    BuildRequest,
    BuildResult,
    CpuOptions,
    Probe,
    Target,
    TargetOptions,
    Timing,
    in_batches,
    settings_of,
)
from fptk.models.engine_form import ENGINES, EngineForm

if TYPE_CHECKING:
    from fptk.calibration.kernel_faults import KernelFault
    from fptk.calibration.sensitivity import Sensitivity


ACCURACY_CONTROL_DROP = 0.3
"""Points of mIoU on the calibration images that NNCF's accuracy control may lose: under the gate's own default, since
the gate judges on other images."""


class OpenVinoOptions(OpenVinoQuantSettings, CpuOptions):
    """Settings of target ``openvino``: the promised processors, and those of the INT8 quantizer."""

    int8_rest: Literal["auto", "fp32", "bf16"] = "auto"
    """Type that the float rest of an INT8 engine computes in. ``auto``: bf16 on processors that have it and float32 on
    others, if the engine is built on one that has it, where both can be proven; else ``fp32``."""
    accuracy_control: bool = False
    """Let NNCF put layers back into float until the calibration images lose little."""

    @property
    def quantizer(self) -> OpenVinoQuantSettings:
        """How INT8 is made: what was set, on top of what suits the promised processors."""
        return settings_of(self, settings_for(self.promised))


class OpenVinoTarget(Target):
    """OpenVINO IR (``model.xml`` and ``model.bin``) for the CPU plugin.

    BF16 is a float32 file in a form of its own, with a precision hint that every load repeats. FP16 stores the weights
    in half precision; on a CPU the arithmetic stays float32, and the bundle says so.
    """

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.BF16, Precision.FP16, Precision.INT8)
    options: ClassVar[type[TargetOptions]] = OpenVinoOptions
    form: ClassVar[EngineForm] = ENGINES["openvino"]
    own_forms: ClassVar[Mapping[Precision, EngineForm]] = {
        Precision.INT8: ENGINES["openvino-int8"],
        Precision.BF16: ENGINES["openvino-bf16"],
    }
    runs_on_cpu: ClassVar[bool] = True
    isa_variable: ClassVar[str | None] = ISA_VARIABLE
    float_layers_option: ClassVar[str] = "ignored_names"

    def probe(self) -> Probe:
        try:
            versions = {"openvino": metadata.version("openvino")}
        except metadata.PackageNotFoundError:
            return Probe(False, False, "openvino is not installed", "pip install 'fptk[openvino]'")
        try:
            versions["nncf"] = metadata.version("nncf")
        except metadata.PackageNotFoundError:
            return Probe(True, True, "nncf is not installed: no INT8", "pip install 'fptk[export]'", versions)
        return Probe(True, True, versions=versions)

    def cannot_compute(self, precision: Precision) -> str | None:
        return NO_BF16 if precision is Precision.BF16 and not has_bf16() else None

    def build(self, request: BuildRequest) -> BuildResult:
        """Build the engine; see :meth:`Target.build`.

        Raises:
            TargetUnavailableError: bf16 was asked for, and this processor has none.
            GateRefusedError: the graph holds a form that is known to be computed wrongly on a promised processor.
        """
        import openvino as ov

        from fptk.export.record import BuildRecord

        options = request.options_as(OpenVinoOptions)
        hint = _precision_hint(request.precision, options)
        if hint == "bf16" and not has_bf16():
            raise TargetUnavailableError(NO_BF16)
        model = ov.convert_model(request.onnx_path)
        record = BuildRecord()
        if request.precision is Precision.INT8:
            model, record.quantizer = _quantize(model, request, options)
        elif request.precision is Precision.FP16:
            record.details["note"] = "weights stored in float16; the CPU plugin computes in float32"
        record.findings = tuple(lint_openvino(model, options.promised))
        path = request.folder / "model.xml"
        _save(model, path, compress_to_fp16=request.precision is Precision.FP16)
        refuse_known_faults(path.name, record.findings)
        return BuildResult((path, path.with_suffix(".bin")), record, precision_hint=hint)

    def candidates(self, sensitivity: Callable[[], Sensitivity], options: OpenVinoOptions) -> Iterable[Candidate[Any]]:
        found = openvino_candidates(settings_for(options.promised), sensitivity)
        return _float32_rest(found) if _precision_hint(Precision.INT8, options) == BF16_OR_F32 else found

    def load(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> Session:
        return OpenVinoSession(path, spec, threads=threads, precision_hint=precision_hint or "f32")

    def load_pool(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> RequestPool:
        return OpenVinoPool(path, spec, threads=threads, precision_hint=precision_hint or "f32")

    def measure_command(self, path: Path, timing: Timing) -> str:
        """A command of ``benchmark_app``, which comes with the package openvino.

        It takes no number of threads beside a hint; where ``timing`` names another than it takes by itself, the command
        spells out what the hint would choose.
        """
        words = ["benchmark_app", "-m", path.name, "-infer_precision", resolved(timing.precision_hint or "f32")]
        flying = timing.concurrency
        if timing.threads in (None, usable_cores()):
            words += ["-hint", timing.mode]
        else:
            words += [
                "-hint",
                "none",
                "-nthreads",
                str(timing.threads),
                "-nstreams",
                str(flying.streams if flying else 1),
            ]
            words += ["-nireq", str(flying.requests)] if flying else ["-api", "sync"]
        return shlex.join(words)

    def simulate(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        return OpenVinoSession(path, spec, threads=threads, float_only=True, name="openvino int8 in float arithmetic")

    def find_faults(self, path: Path, images: UInt8Array, *, precision_hint: str | None = None) -> list[KernelFault]:
        from fptk.calibration.kernel_faults import openvino_faults

        return openvino_faults(path, images, precision_hint=precision_hint or "f32")

    def profile(
        self,
        path: Path,
        spec: PreprocessSpec,
        images: UInt8Array,
        *,
        threads: int | None,
        precision_hint: str | None = None,
    ) -> list[NodeTime]:
        runs = []
        hint = precision_hint or "f32"
        with OpenVinoSession(path, spec, threads=threads, profile=True, precision_hint=hint) as session:
            session(images)
            for _ in range(PROFILED_CALLS):
                session(images)
                runs.append(session.node_times())
            times = {node.name: node for node in median_times(runs)}
            return runtime_nodes(session.compiled, openvino_core().read_model(path), times)


def _save(model: Any, path: Path, *, compress_to_fp16: bool) -> None:
    """Write the IR.

    Raises:
        InputError: the disk is full, or the folder cannot be written to: OpenVINO does not say which.
    """
    import openvino as ov

    try:
        ov.save_model(model, path, compress_to_fp16=compress_to_fp16)
    except RuntimeError as error:
        free = shutil.disk_usage(path.parent).free
        last = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"OpenVINO cannot write {path} ({free / 1e6:.1f} MB free): {last}; free space, or choose another --out"
        ) from error


def _precision_hint(precision: Precision, options: OpenVinoOptions) -> str:
    """What the engine's float arithmetic computes in."""
    rest = options.int8_rest if precision is Precision.INT8 else "fp32"
    if rest == "auto":
        return BF16_OR_F32 if has_bf16() else "f32"
    return "bf16" if precision is Precision.BF16 or rest == "bf16" else "f32"


def _float32_rest(candidates: Iterator[Candidate[Any]]) -> Iterator[Candidate[Any]]:
    """The candidates, from the second try on with their rest in float32: the gentlest change of all comes first."""
    first = next(candidates)
    yield first
    rest = {"int8_rest": "fp32"}
    yield replace(first, name="float32 rest", extra=rest)
    for candidate in candidates:
        yield replace(candidate, extra={**candidate.extra, **rest})


def _quantize(model: Any, request: BuildRequest, options: OpenVinoOptions) -> tuple[Any, QuantReport]:
    """The INT8 model of a request, and how it was made."""
    calibration, settings = request.calibrate(), options.quantizer
    # A sensitivity ranking names the nodes of the ONNX file.
    names = openvino_layer_names(model, settings.ignored_names)
    settings = settings.model_copy(update={"ignored_names": tuple(names)})
    if options.accuracy_control:
        return quantize_openvino_with_accuracy_control(
            model,
            calibration.images,
            calibration.labelled,
            ACCURACY_CONTROL_DROP,
            settings,
            calibration_sha256=calibration.sha256,
        )
    return quantize_openvino(model, calibration.images, settings, calibration_sha256=calibration.sha256)


class OpenVinoSession(Session):
    """A session over an OpenVINO IR or ONNX file, run by the CPU plugin with one stream.

    Args:
        path: ``.xml`` file with its ``.bin`` beside it, input uint8 (N, H, W, 3), output uint8 (N, H, W).
        spec: preprocessing of the images.
        threads: threads of one inference; ``None`` leaves OpenVINO its default.
        profile: collect node timings (see :meth:`node_times`).
        precision_hint: one of :data:`fptk.calibration.openvino_cpu.PRECISION_HINTS`; pinned.
        float_only: execute FakeQuantize as it is written, without int8 kernels.
        name: what tables call it.

    Raises:
        InputError: OpenVINO cannot read the file, or it does not make one tensor of labels from one tensor of images of
            ``spec``.
        TargetUnavailableError: openvino is not installed, or the processor has no bf16.
    """

    def __init__(
        self,
        path: Path,
        spec: PreprocessSpec,
        *,
        threads: int | None = None,
        profile: bool = False,
        precision_hint: str = "f32",
        float_only: bool = False,
        name: str = "openvino",
    ) -> None:
        super().__init__(name, spec)
        try:
            model = openvino_core().read_model(path)
            # Checked before the compiler sees it, which a side of 0 ends the process in.
            self._batch = _check_ports(path, model, spec)
            compiled = compile_model(
                model, threads=threads, precision_hint=precision_hint, float_only=float_only, profile=profile
            )
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot load {path}: {last_line(error)}") from error
        self._path = path
        self.compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return in_batches(images, self._batch, self._run)

    def _run(self, images: UInt8Array) -> UInt8Array:
        try:
            # The request owns its output tensor and overwrites it in the next call: hand out a copy.
            labels: UInt8Array = self._request.infer([images], share_inputs=True)[0].copy()
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run {self._path}: {last_line(error)}") from error
        return labels

    def node_times(self) -> list[NodeTime]:
        """What each node that ran took in the last inference."""
        return [
            NodeTime(info.node_name, info.node_type, info.exec_type, info.real_time.total_seconds() * 1e3)
            for info in self._request.profiling_info
            if info.status == type(info.status).EXECUTED
        ]

    def close(self) -> None:
        self._request = self.compiled = None


def _check_ports(path: Path, model: Any, spec: PreprocessSpec) -> int | None:
    """The batch of a model that makes labels from images of ``spec``; ``None`` for an open one.

    Raises:
        InputError: it has not one input and one output, or these are of another type or shape.
    """
    for what, ports in (("input", model.inputs), ("output", model.outputs)):
        if len(ports) != 1:
            raise InputError(f"{path} has {len(ports)} {what}s, expected one; export the engine again")
    images, labels = model.inputs[0], model.outputs[0]
    taken, given = (port.get_element_type().get_type_name() for port in (images, labels))
    fixed = images.get_partial_shape().rank.is_static
    shape = first_input_shape(model) if fixed else [None]
    if shape[1:] != [*spec.size, 3] or shape[0] == 0 or taken != "u8":
        raise InputError(f"{path} takes {taken} {images.get_partial_shape()}, not uint8 images of {spec.size}")
    sides = labels.get_partial_shape()
    if given != "u8" or (sides.rank.is_static and len(sides) != 3):
        raise InputError(f"{path} gives {given} {sides}, not uint8 labels of {spec.size}")
    return shape[0]
