"""The targets on a host without a GPU: the checked ONNX file is kept, and engines are refused with a way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import sha256_file, write_json
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets import tensorrt as module
from fptk.export.targets.base import BuildRequest, CalibrationStream, EngineNotBuiltError
from fptk.export.targets.registry import get_target
from fptk.export.targets.tensorrt import TensorRTRTXTarget, TensorRTTarget, TrtOptions, TrtRtxOptions
from fptk.export.tensorrt.driver import CudaHost, Gpu
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.lint import lint_tensorrt

SPEC = PreprocessSpec(size=(64, 64))
NO_GPU = CudaHost(reason="no NVIDIA driver", remedy="install it")
ORIN = CudaHost("12.6", (Gpu("Orin", "8.7", 8 << 30),))


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cuda_host", lambda: NO_GPU)
    monkeypatch.setattr(module, "wheel_version", lambda product: "10.13.0")


@pytest.fixture
def request_for(face_net: Path, images: Any, tmp_path: Path) -> Callable[..., BuildRequest]:
    def make(precision: Precision, **options: Any) -> BuildRequest:
        folder = tmp_path / precision
        folder.mkdir()
        return BuildRequest(
            face_net,
            precision,
            folder,
            SPEC,
            CalibrationStream(images, list, "test", "test", folder / "ranges"),
            TrtOptions.model_validate(options),
        )

    return make


def test_both_are_found_by_name() -> None:
    assert isinstance(get_target("trt"), TensorRTTarget)
    assert isinstance(get_target("trt-rtx"), TensorRTRTXTarget)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("precision", TensorRTTarget.precisions)
def test_keeps_a_checked_onnx_file_where_there_is_no_gpu(
    precision: Precision, request_for: Callable[..., BuildRequest]
) -> None:
    request = request_for(precision)
    with pytest.raises(EngineNotBuiltError, match="no NVIDIA driver") as caught:
        TensorRTTarget().build(request)
    error = caught.value
    assert error.exit_code == 3
    assert error.kept == (request.folder / "model.onnx",)
    assert error.rebuild.startswith("trtexec --onnx=model.onnx --saveEngine=model.engine")
    assert error.rebuild in str(error)
    assert error.record.simulation == "model.onnx"
    assert lint_tensorrt(error.kept[0]) == []
    session = ort.InferenceSession(str(error.kept[0]), providers=["CPUExecutionProvider"])
    labels = session.run(None, {"images": np.zeros((1, 64, 64, 3), np.uint8)})[0]
    assert (labels.shape, labels.dtype) == ((1, 64, 64), np.uint8)


@pytest.mark.usefixtures("without_gpu")
def test_int8_file_has_explicit_quantizers_on_every_product(request_for: Callable[..., BuildRequest]) -> None:
    request = request_for(Precision.INT8)
    with pytest.raises(EngineNotBuiltError) as caught:
        TensorRTTarget().build(request)
    kinds = [node.op_type for node in onnx.load(str(caught.value.kept[0])).graph.node]
    # Two Conv and six MatMul, of which two multiply activations: a pair on each activation, a DQ on each weight.
    assert kinds.count("QuantizeLinear") == 10
    assert kinds.count("DequantizeLinear") == 16


@pytest.mark.usefixtures("without_gpu")
def test_attention_products_can_stay_in_float(request_for: Callable[..., BuildRequest]) -> None:
    request = request_for(Precision.INT8, attention_int8=False)
    with pytest.raises(EngineNotBuiltError) as caught:
        TensorRTTarget().build(request)
    bare = {found.node for found in caught.value.record.findings if found.code == "unquantised-input"}
    assert bare == {"scores", "mix"}


@pytest.mark.usefixtures("without_gpu")
def test_a_file_that_tensorrt_would_misread_stops_before_the_builder(request_for: Callable[..., BuildRequest]) -> None:
    """The CPU recipe quantises to uint8 with zero points; TensorRT would halve its ranges."""
    with pytest.raises(InputError, match="uint8-zero-point"):
        TensorRTTarget().build(request_for(Precision.INT8, recipe="cpu"))


@pytest.mark.usefixtures("without_gpu")
def test_refuses_what_it_cannot_do_with_the_reason(request_for: Callable[..., BuildRequest]) -> None:
    request = request_for(Precision.FP32)
    with pytest.raises(InputError, match="open batch"):
        TensorRTTarget().build(dataclasses.replace(request, options=TrtOptions(dynamic_batch=(1, 2, 4))))
    with pytest.raises(InputError, match="trt builds fp32, fp16, int8, not bf16"):
        TensorRTTarget().build(dataclasses.replace(request, precision=Precision.BF16))
    with pytest.raises(InputError, match=r"not \(N, 96, 96, 3\)"):
        TensorRTTarget().build(dataclasses.replace(request, spec=PreprocessSpec(size=(96, 96))))
    with pytest.raises(InputError, match="needs calibration images"):
        TensorRTTarget().build(dataclasses.replace(request, precision=Precision.INT8, calibration=None))


def test_turing_takes_fp16_only(request_for: Callable[..., BuildRequest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cuda_host", lambda: NO_GPU)
    for precision, code in ((Precision.FP32, "sm75-float32"), (Precision.INT8, "sm75-int8")):
        request = dataclasses.replace(request_for(precision), options=TrtRtxOptions(sm=(75,)))
        with pytest.raises(InputError, match=code):
            TensorRTRTXTarget().build(request)


@pytest.mark.usefixtures("without_gpu")
def test_rtx_needs_the_gpu_that_it_shall_build_for(request_for: Callable[..., BuildRequest]) -> None:
    request = dataclasses.replace(request_for(Precision.FP32), options=TrtRtxOptions(sm="current"))
    with pytest.raises(EngineNotBuiltError, match="cannot build here: no NVIDIA driver") as caught:
        TensorRTRTXTarget().build(request)
    assert "--useGpu" in caught.value.rebuild


@pytest.mark.parametrize(
    ("version", "host", "package", "can_build", "can_run", "reason"),
    [
        (None, ORIN, "pycuda", False, False, "tensorrt is not installed"),
        ("10.3.0", ORIN, "pycuda", False, False, "10.3.0 is older than 10.12"),
        ("10.13.0", NO_GPU, "pycuda", False, False, "no NVIDIA driver"),
        ("10.13.0", ORIN, None, True, False, "neither pycuda nor cuda-bindings is installed"),
        ("10.13.0", ORIN, "pycuda", True, True, ""),
        ("10.13.0", ORIN, "cuda-bindings", True, True, ""),
    ],
)
def test_probe_names_the_first_thing_that_is_missing(
    version: str | None,
    host: CudaHost,
    package: str | None,
    can_build: bool,
    can_run: bool,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "wheel_version", lambda product: version)
    monkeypatch.setattr(module, "cuda_host", lambda: host)
    monkeypatch.setattr(module, "package_version", lambda name: "1.0" if name == package else None)
    probe = TensorRTTarget().probe()
    assert (probe.can_build, probe.can_run) == (can_build, can_run)
    assert reason in probe.reason
    assert bool(probe.reason) == bool(probe.remedy)


def test_rtx_builds_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wheel_version", lambda product: "1.7.1.116")
    monkeypatch.setattr(module, "cuda_host", lambda: NO_GPU)
    probe = TensorRTRTXTarget().probe()
    assert (probe.can_build, probe.can_run, probe.reason) == (True, False, "no NVIDIA driver")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine file with its description, built for an Orin by TensorRT 10.13.0."""
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    card = EngineCard(
        target="trt",
        precision="int8",
        version="10.13.0",
        compute_capabilities=("8.7",),
        gpu="Orin",
        input_name="images",
        output_name="labels",
        size=SPEC.size,
        batch=(1, 1),
        preprocess_sha256=SPEC.sha256,
        engine_sha256=sha256_file(path),
        rebuild="trtexec --onnx=model.onnx",
    )
    write_json(tmp_path / "engine.json", card.model_dump(mode="json"))
    return path


@pytest.mark.usefixtures("without_gpu")
def test_load_says_that_this_host_cannot_run_it(engine: Path) -> None:
    with pytest.raises(TargetUnavailableError, match="no NVIDIA driver"):
        TensorRTTarget().load(engine, SPEC)


@pytest.mark.parametrize(
    ("version", "gpu", "changed", "reason"),
    [
        ("10.14.0", ORIN.gpus[0], {}, "built with TensorRT 10.13.0, this host has 10.14.0"),
        ("11.0.0", ORIN.gpus[0], {"version_compatible": True}, "this host has 11.0.0"),
        ("10.12.0", ORIN.gpus[0], {"version_compatible": True}, "this host has 10.12.0"),
        ("10.13.0", Gpu("RTX 3090", "8.6", 0), {}, r"for compute capability 8\.7, this host has RTX 3090 \(8\.6\)"),
        ("10.13.0", Gpu("Orin NX", "8.7", 0), {}, "built for Orin, this host has Orin NX"),
        ("10.13.0", Gpu("T4", "7.5", 0), {"hardware_compatibility": "ampere_plus"}, "Ampere or newer"),
    ],
)
def test_load_refuses_an_engine_of_another_host_with_the_command(
    version: str, gpu: Gpu, changed: dict[str, Any], reason: str, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = EngineCard.read(engine).model_copy(update=changed)
    write_json(engine.with_name("engine.json"), card.model_dump(mode="json"))
    monkeypatch.setattr(module, "wheel_version", lambda product: version)
    monkeypatch.setattr(module, "cuda_host", lambda: CudaHost("12.6", (gpu,)))
    monkeypatch.setattr(module, "package_version", lambda name: "2024.1")
    with pytest.raises(InputError, match=reason) as caught:
        TensorRTTarget().load(engine, SPEC)
    assert "trtexec --onnx=model.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "gpu", "changed"),
    [
        ("10.13.0", ORIN.gpus[0], {}),
        ("10.15.2", ORIN.gpus[0], {"version_compatible": True}),
        ("10.13.0", Gpu("RTX 5090", "12.0", 0), {"hardware_compatibility": "ampere_plus"}),
        ("10.13.0", Gpu("Orin NX", "8.7", 0), {"hardware_compatibility": "same_compute_capability"}),
    ],
)
def test_binding_allows_what_it_was_built_for(version: str, gpu: Gpu, changed: dict[str, Any], engine: Path) -> None:
    card = EngineCard.read(engine).model_copy(update=changed)
    card.check_version("TensorRT", version)
    card.check_gpu(gpu)


def test_load_refuses_a_damaged_engine(engine: Path) -> None:
    engine.write_bytes(b"plam")
    with pytest.raises(InputError, match="damaged or was replaced"):
        TensorRTTarget().load(engine, SPEC)
    engine.with_name("engine.json").write_text('{"target": "trt"}')
    with pytest.raises(InputError, match="no engine description"):
        TensorRTTarget().load(engine, SPEC)
    engine.with_name("engine.json").unlink()
    with pytest.raises(InputError, match="does not exist"):
        TensorRTTarget().load(engine, SPEC)
    engine.unlink()
    with pytest.raises(InputError, match="does not exist"):
        TensorRTTarget().load(engine, SPEC)


def test_load_refuses_other_preprocessing(engine: Path) -> None:
    with pytest.raises(InputError, match="preprocessing"):
        TensorRTTarget().load(engine, SPEC.model_copy(update={"mean": (0.5, 0.5, 0.5)}))
