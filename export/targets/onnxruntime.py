"""Target ``onnx``: ONNX Runtime on the CPU, FP32 or INT8 by explicit Q/DQ nodes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fptk.benchmarks.profile import PROFILED_CALLS, NodeTime
from fptk.benchmarks.throughput import RequestPool, ThreadedPool
from fptk.calibration.fallback import Candidate, onnx_candidates
from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, cpu_settings, quantize_onnx
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.host import usable_cores
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.onnx_nodes import traced_nodes
from fptk.export.targets.base import (
    BuildRequest,
    BuildResult,
    CpuOptions,
    Probe,
    Target,
    TargetOptions,
    in_batches,
    settings_of,
)
from fptk.models.engine_form import ENGINES, EngineForm

if TYPE_CHECKING:
    from fptk.calibration.kernel_faults import KernelFault
    from fptk.calibration.sensitivity import Sensitivity


OPTIMIZED = "optimized.onnx"
"""Name of the graph as it is run, in the folder of a profile."""


class OnnxOptions(OnnxQuantSettings, CpuOptions):
    """Settings of target ``onnx``: the promised processors, and those of the INT8 quantizer."""

    @property
    def quantizer(self) -> OnnxQuantSettings:
        """How the INT8 file is made: what was set, on top of what suits the promised processors."""
        return settings_of(self, cpu_settings(self.promised))


class OnnxRuntimeTarget(Target):
    """ONNX Runtime's CPU execution provider."""

    name: ClassVar[str] = "onnx"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.INT8)
    options: ClassVar[type[TargetOptions]] = OnnxOptions
    own_forms: ClassVar[Mapping[Precision, EngineForm]] = {Precision.INT8: ENGINES["onnxruntime-int8"]}
    runs_on_cpu: ClassVar[bool] = True

    def probe(self) -> Probe:
        try:
            versions = {"onnxruntime": metadata.version("onnxruntime")}
        except metadata.PackageNotFoundError:
            return Probe(False, False, "onnxruntime is not installed", "pip install onnxruntime")
        try:
            versions["onnx"] = metadata.version("onnx")
        except metadata.PackageNotFoundError:
            return Probe(False, True, "onnx is not installed", "pip install 'fptk[export]'", versions)
        return Probe(True, True, versions=versions)

    def build(self, request: BuildRequest) -> BuildResult:
        path = request.folder / "model.onnx"
        if request.precision is Precision.FP32:
            shutil.copyfile(request.onnx_path, path)
            return BuildResult((path,))
        if request.precision is not Precision.INT8:
            raise InputError(
                f"target onnx has no {request.precision} kernels on the CPU; choose --fp32 or --int8, "
                "or another target for --fp16"
            )
        from fptk.export.record import BuildRecord

        calibration = request.calibrate()
        report = quantize_onnx(
            request.onnx_path,
            path,
            calibration.images,
            request.options_as(OnnxOptions).quantizer,
            calibration_sha256=calibration.sha256,
            cache=calibration.ranges(),
        )
        return BuildResult((path,), BuildRecord(quantizer=report))

    def candidates(self, sensitivity: Callable[[], Sensitivity], options: OnnxOptions) -> Iterable[Candidate[Any]]:
        saturates = "avx2" in options.promised
        return onnx_candidates(cpu_settings(options.promised), sensitivity, saturates=saturates)

    def load(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> Session:
        return OnnxRuntimeSession(path, spec, threads=threads)

    def load_pool(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> RequestPool:
        """One session of one intra-op thread, called by ``threads`` threads: each computes its own request."""
        return ThreadedPool(OnnxRuntimeSession(path, spec, threads=1), threads or usable_cores())

    def simulate(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        return OnnxRuntimeSession(path, spec, threads=threads, float_only=True, name="onnx int8 in float arithmetic")

    def find_faults(self, path: Path, images: UInt8Array, *, precision_hint: str | None = None) -> list[KernelFault]:
        from fptk.calibration.kernel_faults import onnx_faults

        return onnx_faults(path, images)

    def profile(
        self,
        path: Path,
        spec: PreprocessSpec,
        images: UInt8Array,
        *,
        threads: int | None,
        precision_hint: str | None = None,
    ) -> list[NodeTime]:
        with tempfile.TemporaryDirectory() as folder:
            session = OnnxRuntimeSession(path, spec, threads=threads, profile=Path(folder))
            for _ in range(PROFILED_CALLS + 1):
                session(images)
            return traced_nodes(session.end_profile(), Path(folder, OPTIMIZED))


class OnnxRuntimeSession(Session):
    """A session over an ONNX file, run by ONNX Runtime on the CPU.

    Args:
        path: ONNX file, input uint8 (N, H, W, 3), output uint8 (N, H, W).
        spec: preprocessing of the images.
        threads: intra-op threads; ``None`` is one per physical core.
        profile: folder that ONNX Runtime writes the graph as it runs it into, and its node timings when they end.
        float_only: execute Q/DQ nodes as they are written, without integer kernels.
        name: what tables call it.

    Raises:
        InputError: the file is no ONNX file that this ONNX Runtime loads, or it does not make one tensor of labels from
            one tensor of images of ``spec``.
        TargetUnavailableError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: Path,
        spec: PreprocessSpec,
        *,
        threads: int | None = None,
        profile: Path | None = None,
        float_only: bool = False,
        name: str = "onnx",
    ) -> None:
        super().__init__(name, spec)
        try:
            save = profile / OPTIMIZED if profile else None
            self._session: Any = open_cpu_session(
                path, threads=threads, float_only=float_only, profile=profile, save=save
            )
        except TargetUnavailableError:
            raise
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise InputError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        for what, tensors in (("input", inputs), ("output", outputs)):
            if len(tensors) != 1:
                raise InputError(f"{path} has {len(tensors)} {what}s, expected one; export the engine again")
        entry, labels = inputs[0], outputs[0]
        if tuple(entry.shape[1:]) != (*spec.size, 3) or entry.shape[0] == 0 or entry.type != "tensor(uint8)":
            raise InputError(f"{path} takes {entry.type} {entry.shape}, not uint8 images of {spec.size}")
        if len(labels.shape) != 3 or labels.type != "tensor(uint8)":
            raise InputError(f"{path} gives {labels.type} {labels.shape}, not uint8 labels of {spec.size}")
        self._path = path
        self._input = entry.name
        self._batch = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return in_batches(images, self._batch, self._run)

    def _run(self, images: UInt8Array) -> UInt8Array:
        try:
            labels: UInt8Array = self._session.run(None, {self._input: images})[0]
        except Exception as error:  # as above
            raise InputError(f"ONNX Runtime cannot run {self._path}: {_first_line(error)}") from error
        return labels

    def end_profile(self) -> Path:
        """Stop profiling and return the JSON file of node timings."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        self._session = None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
