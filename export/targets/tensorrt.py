"""Targets ``trt`` (TensorRT, built and run on a GPU host) and ``trt-rtx`` (TensorRT-RTX, built anywhere)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fptk.calibration.fallback import Candidate, onnx_candidates
from fptk.calibration.onnx_graph import Graph, load_model
from fptk.calibration.onnx_quantizer import OnnxQuantSettings
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import sha256_file, write_json
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.record import BuildRecord, LayerCounts
from fptk.export.targets.base import (
    BuildRequest,
    BuildResult,
    EngineNotBuiltError,
    Probe,
    Target,
    TargetOptions,
    Timing,
    settings_of,
)
from fptk.export.tensorrt.build import ENGINE_FILE, BuildFailedError, BuiltEngine, build_engine
from fptk.export.tensorrt.driver import cuda_host, is_too_old, package_version, wheel_version
from fptk.export.tensorrt.engine_card import ENGINE_CARD_FILE, EngineCard, dotted
from fptk.export.tensorrt.layer_report import LayerReport, report_layers
from fptk.export.tensorrt.lint import lint_tensorrt, refuse_errors
from fptk.export.tensorrt.options import OnlyRTX, OnlyTensorRT, SharedOptions, TensorRTOptions
from fptk.export.tensorrt.precision import write_precision_onnx
from fptk.export.tensorrt.product import TENSORRT, TENSORRT_RTX, Product
from fptk.export.tensorrt.session import TensorRTSession, open_context
from fptk.export.tensorrt.streams import CUDA_PACKAGES, INSTALL_CUDA_PACKAGE, open_stream
from fptk.export.tensorrt.trtexec import measure_command, trtexec_command
from fptk.models.engine_form import ENGINES, EngineForm

if TYPE_CHECKING:
    from fptk.calibration.sensitivity import Sensitivity

ONNX_FILE = "model.onnx"
LAYERS_FILE = "layers.json"


class BuilderOptions(SharedOptions, OnnxQuantSettings, TargetOptions):
    """What both targets take: settings of the builder, and of the INT8 quantizer."""

    @property
    def builder(self) -> TensorRTOptions:
        """What the builder is told."""
        return settings_of(self, TensorRTOptions())

    @property
    def quantizer(self) -> OnnxQuantSettings:
        """How the INT8 file is made. A GPU adds int8 products in int32: seven bits would only lose."""
        return settings_of(self, OnnxQuantSettings())


class TrtOptions(BuilderOptions, OnlyTensorRT):
    """Settings of target ``trt``."""


class TrtRtxOptions(BuilderOptions, OnlyRTX):
    """Settings of target ``trt-rtx``."""


class TensorRTTarget(Target):
    """TensorRT 10.12 to 11.x: builds for the GPU of this host and runs on it."""

    name: ClassVar[str] = "trt"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16, Precision.INT8)
    calibrated: ClassVar[tuple[Precision, ...]] = (Precision.FP16, Precision.INT8)
    form: ClassVar[EngineForm] = ENGINES["tensorrt"]
    options: ClassVar[type[TargetOptions]] = TrtOptions
    product: ClassVar[Product] = TENSORRT

    def probe(self) -> Probe:
        product = self.product
        install = f"pip install 'fptk[{product.extra}]'"
        version = wheel_version(product)
        host = cuda_host()
        versions = _versions(product, version)
        if host.driver:
            versions["cuda driver"] = host.driver
        versions |= {f"gpu {index}": f"{gpu.name} ({gpu.compute_capability})" for index, gpu in enumerate(host.gpus)}
        if version is None:
            return Probe(False, False, f"the package {product.module} is not installed", install, versions)
        if is_too_old(version, product.minimum):
            least = ".".join(map(str, product.minimum))
            return Probe(False, False, f"{product.title} {version} is older than {least}", install, versions)
        if host.reason:
            return Probe(product.builds_without_gpu, False, host.reason, host.remedy, versions)
        if not versions.keys() & set(CUDA_PACKAGES):
            neither = f"neither {' nor '.join(CUDA_PACKAGES)} is installed"
            return Probe(True, False, neither, INSTALL_CUDA_PACKAGE, versions)
        return Probe(True, True, versions=versions)

    def build(self, request: BuildRequest) -> BuildResult:
        """Build the engine; see :meth:`Target.build`.

        The record's ``details`` hold ``lowered`` (nodes rewritten for TensorRT), ``layers_not_int8`` with reasons,
        ``versions``, ``bound_to``, ``build_seconds`` and ``warnings``; INT8 adds ``rest`` where its float part is
        FP16, FP16 ``kept_float``.

        Raises:
            EngineNotBuiltError: this host cannot build; the checked ONNX file is kept and named.
            InputError: the ONNX file holds something that TensorRT rejects or mis-scales.
            GateRefusedError: fewer layers run in INT8 than ``min_int8_layers`` asks for.
        """
        if request.precision not in self.precisions:
            raise InputError(f"{self.name} builds {', '.join(self.precisions)}, not {request.precision}")
        given = request.options_as(type(self).options)
        assert isinstance(given, BuilderOptions)
        options = given.builder
        onnx_path = request.folder / ONNX_FILE
        record = write_precision_onnx(request, options, given.quantizer, onnx_path)
        record.simulation = ONNX_FILE
        findings = lint_tensorrt(onnx_path, options.compute_capabilities(self.product))
        refuse_errors(onnx_path, findings)
        graph = Graph(load_model(onnx_path))
        record.findings = tuple(findings)
        record.rebuild = rebuild = self._rebuild(graph, options, request.spec)
        _check_batch(graph, options, onnx_path)
        probe = self.probe()
        needs_gpu = not options.compute_capabilities(self.product)
        if not probe.can_build or (needs_gpu and not cuda_host().gpus):
            reason = f"{self.product.title} cannot build here: {probe.reason} ({probe.remedy})"
            raise EngineNotBuiltError(reason, (onnx_path,), rebuild, record)
        try:
            built = build_engine(self.product, onnx_path, request.folder, options)
        except BuildFailedError as error:
            raise EngineNotBuiltError(error.reason, (onnx_path, error.log), rebuild, record) from error
        report = report_layers(built.layers, graph, int8=request.precision is Precision.INT8)
        return self._finish(request, options, graph, built, report, record)

    def batch(self, options: TargetOptions) -> int | None:
        return None if isinstance(options, BuilderOptions) and options.dynamic_batch else 1

    def candidates(self, sensitivity: Callable[[], Sensitivity], options: BuilderOptions) -> Iterable[Candidate[Any]]:
        return onnx_candidates(OnnxQuantSettings(), sensitivity)

    def _finish(
        self,
        request: BuildRequest,
        options: TensorRTOptions,
        graph: Graph,
        built: BuiltEngine,
        report: LayerReport,
        record: BuildRecord,
    ) -> BuildResult:
        layers_path, card_path = request.folder / LAYERS_FILE, request.folder / ENGINE_CARD_FILE
        write_json(layers_path, report.as_dict())
        if request.precision is Precision.INT8:
            report.require_int8(options.min_int8_layers)
        counts = {key: value for key, value in report.as_dict().items() if key != "layers"}
        record.layers = LayerCounts(**counts, summary=report.summary)
        card = self._card(request, options, graph, built, record.rebuild or "")
        record.details |= {
            "layers_not_int8": [
                {"onnx": list(layer.onnx_nodes), "precision": layer.precision, "reason": layer.reason}
                for layer in report.layers
                if layer.reason
            ],
            "build_seconds": built.seconds,
            "warnings": list(built.warnings),
            "versions": self.probe().versions | {self.product.module: built.version},
            "bound_to": card.model_dump(mode="json", include={"version", "compute_capabilities", "gpu"}),
        }
        write_json(card_path, card.model_dump(mode="json"))
        files = [built.engine, card_path, request.folder / ONNX_FILE, layers_path, built.log]
        if built.timing_cache:
            files.append(built.timing_cache)
        return BuildResult(tuple(files), record)

    def _card(
        self, request: BuildRequest, options: TensorRTOptions, graph: Graph, built: BuiltEngine, rebuild: str
    ) -> EngineCard:
        capabilities = tuple(dotted(capability) for capability in options.compute_capabilities(self.product))
        gpu = None
        if not capabilities:
            gpu = cuda_host().gpus[0]
            capabilities = (gpu.compute_capability,)
        low, _, high = options.dynamic_batch or (_fixed_batch(graph), 0, _fixed_batch(graph))
        return EngineCard(
            target=self.name,
            precision=request.precision.value,
            version=built.version,
            compute_capabilities=capabilities,
            gpu=gpu.name if gpu else None,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            input_name=graph.model.graph.input[0].name,
            output_name=graph.model.graph.output[0].name,
            size=request.spec.size,
            batch=(low, high),
            cuda_graph=options.cuda_graph,
            preprocess_sha256=request.spec.sha256,
            engine_sha256=sha256_file(built.engine),
            rebuild=rebuild,
        )

    def load(
        self,
        path: Path,
        spec: PreprocessSpec,
        *,
        threads: int | None = None,
        precision_hint: str | None = None,
    ) -> Session:
        """Load an engine; see :meth:`Target.load`.

        Args:
            path: the engine file, with its ``engine.json`` beside it.
            spec: preprocessing it was built for.
            threads: ignored, the work is the GPU's.
            precision_hint: ignored, the precision is in the engine.

        Raises:
            TargetUnavailableError: no wheel, driver or GPU here, or no package that calls CUDA.
            InputError: the engine is damaged, or bound to another version, GPU or preprocessing; with the command that
                rebuilds it.
        """
        card = EngineCard.read(path)
        card.check_preprocess(spec.sha256)
        probe = self.probe()
        if not probe.can_run:
            raise TargetUnavailableError(f"{self.product.title} cannot run {path} here: {probe.reason}; {probe.remedy}")
        card.check_version(self.product.title, wheel_version(self.product) or "")
        card.check_gpu(cuda_host().gpus[0])
        stream = open_stream()
        try:
            with stream.current():
                context = open_context(self.product, path, card)
            name = f"{self.name} {card.precision}"
            capture = card.cuda_graph and not self.product.builds_without_gpu
            return TensorRTSession(name, spec, card, context, stream, capture=capture)
        except BaseException:
            stream.close()
            raise

    def measure_command(self, path: Path, timing: Timing) -> str | None:
        """A command of NVIDIA's own tool; for throughput only ``trtexec`` is known to have a flag."""
        if timing.mode == "throughput" and self.product.builds_without_gpu:
            return None
        card = EngineCard.read(path)
        low, high = card.batch
        return measure_command(
            self.product,
            path.name,
            cuda_graph=card.cuda_graph,
            transfers=timing.transfers,
            several=timing.mode == "throughput",
            shape=None if low == high else f"{card.input_name}:{timing.batch}x{card.size[0]}x{card.size[1]}x3",
        )

    def _rebuild(self, graph: Graph, options: TensorRTOptions, spec: PreprocessSpec) -> str:
        entry = graph.model.graph.input[0].name
        shape = graph.shape(entry)
        if shape is None or tuple(shape[1:]) != (*spec.size, 3):
            raise InputError(f"the ONNX input '{entry}' has shape {shape}, not (N, {spec.size[0]}, {spec.size[1]}, 3)")
        return trtexec_command(
            self.product,
            ONNX_FILE,
            ENGINE_FILE,
            options,
            input_name=entry,
            size=spec.size,
            open_batch=shape[0] is None,
        )


class TensorRTRTXTarget(TensorRTTarget):
    """TensorRT-RTX: builds for a list of compute capabilities on any x86-64 host, runs on RTX GPUs."""

    name: ClassVar[str] = "trt-rtx"
    options: ClassVar[type[TargetOptions]] = TrtRtxOptions
    product: ClassVar[Product] = TENSORRT_RTX


def _versions(product: Product, version: str | None) -> dict[str, str]:
    found = {product.module: version, **{name: package_version(name) for name in CUDA_PACKAGES}}
    return {name: value for name, value in found.items() if value is not None}


def _fixed_batch(graph: Graph) -> int:
    shape = graph.shape(graph.model.graph.input[0].name)
    return (shape[0] if shape else None) or 1


def _check_batch(graph: Graph, options: TensorRTOptions, path: Path) -> None:
    shape = graph.shape(graph.model.graph.input[0].name)
    if options.dynamic_batch and shape is not None and shape[0] is not None:
        wanted = ":".join(map(str, options.dynamic_batch))
        raise InputError(
            f"dynamic batch {wanted} needs an ONNX file with an open batch, {path.name} has {shape[0]}; "
            "export it with batch=None"
        )
