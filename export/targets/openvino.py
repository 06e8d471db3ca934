"""Target ``openvino``: Intel's OpenVINO on the CPU, FP32, FP16 storage, or INT8 by NNCF."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fptk.dataset import UInt8Array
from fptk.errors import InputError, TargetUnavailableError
from fptk.export.targets.base import (
    PROFILED_CALLS,
    Artefact,
    BuildRequest,
    NodeTime,
    Precision,
    Probe,
    Target,
    in_batches,
    median_times,
)
from fptk.preprocess import PreprocessSpec
from fptk.session import Session

if TYPE_CHECKING:
    from fptk.calibration.ladder import Rung
    from fptk.calibration.sensitivity import Sensitivity


ACCURACY_CONTROL_DROP = 0.3
"""Points of mIoU on the calibration images that NNCF's accuracy control may lose: under the gate's own default, since
the gate judges on other images."""


class OpenVinoTarget(Target):
    """OpenVINO IR (``model.xml`` and ``model.bin``) for the CPU plugin.

    FP16 stores the weights in half precision; on a CPU the arithmetic stays float32, and the bundle says so.
    """

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16, Precision.INT8)
    graph_form: ClassVar[str] = "openvino"

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

    def build(self, request: BuildRequest) -> Artefact:
        import openvino as ov

        model = ov.convert_model(request.onnx_path)
        details: dict[str, Any] = {}
        if request.precision is Precision.INT8:
            model, details = _quantise(model, request)
        elif request.precision is Precision.FP16:
            details = {"note": "weights stored in float16; the CPU plugin computes in float32"}
        path = request.folder / "model.xml"
        ov.save_model(model, path, compress_to_fp16=request.precision is Precision.FP16)
        return Artefact((path, path.with_suffix(".bin")), details)

    def rungs(self, sensitivity: Callable[[], Sensitivity]) -> Iterable[Rung[Any]]:
        from fptk.calibration.ladder import openvino_rungs
        from fptk.calibration.openvino_quantiser import OpenVinoQuantSettings

        return openvino_rungs(OpenVinoQuantSettings(), sensitivity)

    def load(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        return OpenVinoSession(path, spec, threads=threads)

    def profile(self, path: Path, spec: PreprocessSpec, images: UInt8Array, *, threads: int | None) -> list[NodeTime]:
        runs = []
        with OpenVinoSession(path, spec, threads=threads, profile=True) as session:
            session(images)
            for _ in range(PROFILED_CALLS):
                session(images)
                runs.append(session.node_times())
        return median_times(runs)


def _quantise(model: Any, request: BuildRequest) -> tuple[Any, dict[str, Any]]:
    """The INT8 model of a request, and the record of how it was made."""
    from fptk.calibration.openvino_quantiser import (
        OpenVinoQuantSettings,
        openvino_layer_names,
        quantise_openvino,
        quantise_openvino_with_accuracy_control,
    )

    calibration = request.calibrate()
    options = dict(request.options)
    accuracy_control = options.pop("accuracy_control", False)
    # A sensitivity ranking names the nodes of the ONNX file.
    options["ignored_names"] = openvino_layer_names(model, options.get("ignored_names", ()))
    settings = OpenVinoQuantSettings(**options)
    if accuracy_control:
        quantised, report = quantise_openvino_with_accuracy_control(
            model,
            calibration.images,
            calibration.labelled,
            ACCURACY_CONTROL_DROP,
            settings,
            calibration_sha256=calibration.sha256,
        )
    else:
        quantised, report = quantise_openvino(
            model, calibration.images, settings, calibration_sha256=calibration.sha256
        )
    return quantised, report.as_dict()


class OpenVinoSession(Session):
    """A session over an OpenVINO IR or ONNX file, run by the CPU plugin with one stream.

    ``INFERENCE_PRECISION_HINT`` is pinned to float32: by default the plugin computes in bfloat16 where the processor
    has it, and an FP32 row would not be one.

    Args:
        path: ``.xml`` file with its ``.bin`` beside it, input uint8 (N, H, W, 3), output uint8 (N, H, W).
        spec: preprocessing of the images.
        threads: threads of one inference; ``None`` leaves OpenVINO its default.
        profile: collect node timings (see :meth:`node_times`).
        name: what tables call it.

    Raises:
        InputError: OpenVINO cannot read the file, or its input does not fit ``spec``.
        TargetUnavailableError: openvino is not installed.
    """

    def __init__(
        self,
        path: Path,
        spec: PreprocessSpec,
        *,
        threads: int | None = None,
        profile: bool = False,
        name: str = "openvino",
    ) -> None:
        super().__init__(name, spec)
        try:
            import openvino as ov
        except ImportError as error:
            raise TargetUnavailableError("openvino is not installed; run: pip install 'fptk[openvino]'") from error
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "PERF_COUNT": profile}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = ov.Core().compile_model(path, "CPU", config)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot load {path}: {str(error).strip().splitlines()[-1]}") from error
        shape = compiled.input(0).get_partial_shape()
        if [str(side) for side in list(shape)[1:]] != [str(side) for side in (*spec.size, 3)]:
            raise InputError(f"{path} takes {shape}, not uint8 images of {spec.size}")
        self._batch = shape[0].get_length() if shape[0].is_static else None
        self._request: Any = compiled.create_infer_request()

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return in_batches(images, self._batch, self._run)

    def _run(self, images: UInt8Array) -> UInt8Array:
        # The request owns its output tensor and overwrites it in the next call: hand out a copy.
        labels: UInt8Array = self._request.infer([images], share_inputs=True)[0].copy()
        return labels

    def node_times(self) -> list[NodeTime]:
        """What each node that ran took in the last inference."""
        return [
            NodeTime(info.node_name, info.node_type, info.exec_type, info.real_time.total_seconds() * 1e3)
            for info in self._request.profiling_info
            if info.status == type(info.status).EXECUTED
        ]

    def close(self) -> None:
        self._request = None
