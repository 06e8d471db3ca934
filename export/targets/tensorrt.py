"""Targets ``trt`` (TensorRT, built and run on a GPU host) and ``trt-rtx`` (TensorRT-RTX, built anywhere)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fptk.errors import InputError, TargetUnavailableError
from fptk.export.targets.base import Artefact, BuildRequest, Precision, Probe, Target
from fptk.export.tensorrt.check import check_qdq, refuse_errors
from fptk.export.tensorrt.flavour import TENSORRT, TENSORRT_RTX, Flavour
from fptk.export.tensorrt.host import cuda_host, is_too_old, package_version, wheel_version
from fptk.export.tensorrt.options import TensorRTOptions, split_options
from fptk.export.tensorrt.precision import write_precision_onnx
from fptk.export.tensorrt.rebuild import rebuild_command
from fptk.preprocess import PreprocessSpec
from fptk.session import Session

ONNX_FILE = "model.onnx"
ENGINE_FILE = "model.engine"


class EngineNotBuiltError(TargetUnavailableError):
    """The ONNX file was made and checked, the engine wasn't built (exit code 3).

    Attributes:
        kept: files that were made and stay of use.
        rebuild: command that builds the engine from them on a host that can.
    """

    def __init__(self, reason: str, kept: tuple[Path, ...], rebuild: str) -> None:
        super().__init__(f"{reason}; kept {', '.join(str(path) for path in kept)}; on a host that can, run: {rebuild}")
        self.reason = reason
        self.kept = kept
        self.rebuild = rebuild


class TensorRTTarget(Target):
    """TensorRT 10.12 to 11.x: builds for the GPU of this host and runs on it."""

    name: ClassVar[str] = "trt"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16, Precision.INT8)
    flavour: ClassVar[Flavour] = TENSORRT

    def probe(self) -> Probe:
        flavour = self.flavour
        install = f"pip install 'fptk[{flavour.extra}]'"
        version = wheel_version(flavour)
        host = cuda_host()
        versions = _versions(flavour, version)
        if host.driver:
            versions["cuda driver"] = host.driver
        versions |= {f"gpu {index}": f"{gpu.name} ({gpu.compute_capability})" for index, gpu in enumerate(host.gpus)}
        if version is None:
            return Probe(False, False, f"the package {flavour.module} is not installed", install, versions)
        if is_too_old(version, flavour.minimum):
            least = ".".join(map(str, flavour.minimum))
            return Probe(False, False, f"{flavour.title} {version} is older than {least}", install, versions)
        if host.reason:
            return Probe(flavour.builds_without_gpu, False, host.reason, host.remedy, versions)
        if "pycuda" not in versions:
            return Probe(
                True, False, "pycuda is not installed", "pip install pycuda (needs the CUDA toolkit)", versions
            )
        return Probe(True, True, versions=versions)

    def build(self, request: BuildRequest) -> Artefact:
        """Build the engine; see :meth:`Target.build`.

        Raises:
            EngineNotBuiltError: this host cannot build; the checked ONNX file is kept and named.
            InputError: the ONNX file holds something that TensorRT rejects or mis-scales.
            GateRefusedError: fewer layers run in INT8 than ``min_int8_layers`` asks for.
        """
        options, quantiser = split_options(request.options, self.flavour)
        onnx_path = request.folder / ONNX_FILE
        details: dict[str, Any] = {"simulate_with": ONNX_FILE}
        details |= write_precision_onnx(request, quantiser, onnx_path)
        findings = check_qdq(onnx_path, options.compute_capabilities(self.flavour))
        refuse_errors(onnx_path, findings)
        details["findings"] = [finding.as_dict() for finding in findings]
        details["rebuild"] = self._rebuild(onnx_path, options, request.spec)
        probe = self.probe()
        raise EngineNotBuiltError(
            f"{self.flavour.title} cannot build here: {probe.reason} ({probe.remedy})", (onnx_path,), details["rebuild"]
        )

    def load(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        probe = self.probe()
        raise TargetUnavailableError(f"{self.flavour.title} cannot run {path} here: {probe.reason}; {probe.remedy}")

    def _rebuild(self, onnx_path: Path, options: TensorRTOptions, spec: PreprocessSpec) -> str:
        from fptk.export.tensorrt.graph import Graph

        graph = Graph.read(onnx_path)
        entry = graph.model.graph.input[0].name
        shape = graph.shape(entry)
        if shape is None or len(shape) != 4:
            raise InputError(f"{onnx_path}: input {entry} has shape {shape}, not (N, H, W, 3)")
        return rebuild_command(
            self.flavour,
            onnx_path.name,
            ENGINE_FILE,
            options,
            input_name=entry,
            size=spec.size,
            open_batch=shape[0] is None,
        )


class TensorRTRTXTarget(TensorRTTarget):
    """TensorRT-RTX: builds for a list of compute capabilities on any x86-64 host, runs on RTX GPUs."""

    name: ClassVar[str] = "trt-rtx"
    flavour: ClassVar[Flavour] = TENSORRT_RTX


def _versions(flavour: Flavour, version: str | None) -> dict[str, str]:
    found = {flavour.module: version, "pycuda": package_version("pycuda")}
    return {name: value for name, value in found.items() if value is not None}
