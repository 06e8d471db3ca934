"""Target ``web``: ONNX Runtime Web in a browser, FP32 or INT8, with a page that proves the engine where it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fptk.calibration.fallback import Candidate, onnx_candidates
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, cpu_settings, quantize_onnx
from fptk.core.cpu import Family
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.export.targets.base import BuildRequest, BuildResult, Probe, Target, TargetOptions, settings_of
from fptk.export.web.page import FP32_BESIDE, write_page
from fptk.export.web.runtime import VERSION, find_node, node_version, runtime_folder, runtime_remedy
from fptk.models.engine_form import EngineForm

if TYPE_CHECKING:
    from fptk.calibration.sensitivity import Sensitivity

_EXACT: tuple[Family, ...] = ("vnni", "amx")
"""Processors whose int8 sums do not saturate. WebAssembly's don't either, whatever the processor under it."""


class WebOptions(OnnxQuantSettings, TargetOptions):
    """Settings of target ``web``: what the page offers, and those of the INT8 quantizer."""

    webgpu: bool = True
    """Add the files with which a visitor may choose WebGPU: 27 MB, fetched by those who do."""

    @property
    def quantizer(self) -> OnnxQuantSettings:
        """How the INT8 file is made: what was set, on top of what suits WebAssembly."""
        return settings_of(self, cpu_settings(_EXACT))


class WebTarget(Target):
    """ONNX Runtime Web.

    A bundle is a folder for any web server: ``index.html``, the engine, and ``page/`` with ONNX Runtime Web. That of
    INT8 holds the FP32 engine too, so that a visitor can compare the two. The engine that is built is proven in
    Node.js, whose WebAssembly is Chromium's; the page proves it again in each visitor's browser.
    """

    name: ClassVar[str] = "web"
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.INT8)
    options: ClassVar[type[TargetOptions]] = WebOptions
    form: ClassVar[EngineForm] = EngineForm(label_map="mixed_cells", norm_apart=True)
    """Attention in one piece: tiles gain nothing in WebAssembly, and cutting them takes more buffers in one step than
    WebGPU has to give."""

    def probe(self) -> Probe:
        versions = {"onnxruntime-web": VERSION}
        missing = runtime_remedy()
        if missing:
            return Probe(False, False, *missing)
        try:
            versions["node"] = node_version(find_node())
        except TargetUnavailableError as error:
            reason, _, remedy = str(error).partition("; ")
            return Probe(_onnx_version() is not None, False, reason, remedy, versions)
        onnx = _onnx_version()
        if onnx is None:
            return Probe(False, True, "onnx is not installed", "pip install 'fptk[export]'", versions)
        return Probe(True, True, versions={**versions, "onnx": onnx})

    def build(self, request: BuildRequest) -> BuildResult:
        from fptk.export.record import BuildRecord

        if request.spec.resize != "bilinear":
            raise InputError(
                f"the page of target web resizes by the bilinear filter, and this network was trained with "
                f"{request.spec.resize}; choose another target"
            )
        runtime_folder()  # asked before the work: without it there is no bundle
        path = request.folder / "model.onnx"
        record = BuildRecord(simulation=path.name)
        if request.precision is Precision.FP32:
            shutil.copyfile(request.onnx_path, path)
            return BuildResult((path,), record)
        if request.precision is not Precision.INT8:
            raise InputError(f"target web has no {request.precision}; choose --fp32 or --int8")
        calibration = request.calibrate()
        record.quantizer = quantize_onnx(
            request.onnx_path,
            path,
            calibration.images,
            request.options_as(WebOptions).quantizer,
            calibration_sha256=calibration.sha256,
            cache=calibration.ranges(),
        )
        beside = request.folder / FP32_BESIDE
        beside.parent.mkdir(exist_ok=True)
        shutil.copyfile(request.onnx_path, beside)
        return BuildResult((path,), record)

    def complete(self, folder: Path, manifest: Mapping[str, Any]) -> bool:
        if manifest["engine"]:
            webgpu = WebOptions.model_validate(manifest["build"]["options"]).webgpu
            write_page(folder, manifest, runtime_folder(), webgpu=webgpu)
        return bool(manifest["engine"])

    def candidates(self, sensitivity: Callable[[], Sensitivity], options: WebOptions) -> Iterable[Candidate[Any]]:
        return onnx_candidates(cpu_settings(_EXACT), sensitivity)

    def load(
        self, path: Path, spec: PreprocessSpec, *, threads: int | None = None, precision_hint: str | None = None
    ) -> Session:
        from fptk.export.web.session import WebSession

        return WebSession(path, spec, threads=threads)

    def simulate(self, path: Path, spec: PreprocessSpec, *, threads: int | None = None) -> Session:
        from fptk.export.targets.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(path, spec, threads=threads, float_only=True, name="web int8 in float arithmetic")


def _onnx_version() -> str | None:
    try:
        return metadata.version("onnx")
    except metadata.PackageNotFoundError:
        return None
