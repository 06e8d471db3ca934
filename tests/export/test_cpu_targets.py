"""ONNX export and the two CPU targets: what they build runs, agrees with PyTorch, and refuses what does not fit."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fptk.benchmarks.throughput import Concurrency
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.host import usable_cores
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.onnx import OPSET, export_onnx
from fptk.export.targets.base import BuildRequest, CalibrationStream, Timing, batched
from fptk.export.targets.registry import get_target, list_targets, resolve_targets
from fptk.models import TorchSession, load_checkpoint

SPEC = PreprocessSpec(size=(64, 64))
CPU_TARGETS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def reference(checkpoint: Path, images: UInt8Array) -> UInt8Array:
    """Labels of the network in PyTorch."""
    network, card = load_checkpoint(checkpoint)
    return TorchSession(network, card.preprocess)(images)


def test_graph_has_the_shipped_interface(graph: Path) -> None:
    import onnx

    model = onnx.load(graph)
    (entry,), (result,) = model.graph.input, model.graph.output
    assert (entry.name, result.name) == ("images", "labels")
    assert entry.type.tensor_type.elem_type == result.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_value for side in entry.type.tensor_type.shape.dim] == [1, 64, 64, 3]
    assert [side.dim_value for side in result.type.tensor_type.shape.dim] == [1, 64, 64]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]
    assert {entry.key: entry.value for entry in model.metadata_props}["fptk.model"] == "microsegformer"


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_fp32_engine_gives_the_labels_of_pytorch(
    name: str, graph: Path, images: UInt8Array, reference: UInt8Array, tmp_path: Path
) -> None:
    target = get_target(name)
    artifact = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC))
    with target.load(artifact.files[0], SPEC, threads=1) as session:
        labels = session(images)
    assert labels.dtype == np.uint8
    assert np.mean(labels == reference) >= 0.9999


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_session_results_do_not_alias(name: str, graph: Path, images: UInt8Array, tmp_path: Path) -> None:
    """An engine that reuses its output buffer must hand out copies."""
    target = get_target(name)
    artifact = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC))
    with target.load(artifact.files[0], SPEC) as session:
        first = session(images[:1])
        kept = first.copy()
        second = session(images[1:2])
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_int8_engine_of_onnx_is_smaller_and_close(
    graph: Path,
    images: UInt8Array,
    reference: UInt8Array,
    calibration: CalibrationStream,
    tmp_path: Path,
) -> None:
    target = get_target("onnx")
    artifact = target.build(BuildRequest(graph, Precision.INT8, tmp_path, SPEC, calibration=calibration))
    assert artifact.files[0].stat().st_size < 0.6 * graph.stat().st_size
    with target.load(artifact.files[0], SPEC) as session:
        assert np.mean(session(images) == reference) > 0.8


@pytest.mark.slow
def test_int8_engine_of_openvino_is_smaller_and_close(
    graph: Path,
    images: UInt8Array,
    reference: UInt8Array,
    calibration: CalibrationStream,
    tmp_path: Path,
) -> None:
    target = get_target("openvino")
    artifact = target.build(BuildRequest(graph, Precision.INT8, tmp_path, SPEC, calibration=calibration))
    assert sum(path.stat().st_size for path in artifact.files) < 0.6 * graph.stat().st_size
    with target.load(artifact.files[0], SPEC) as session:
        assert np.mean(session(images) == reference) > 0.8


def test_int8_without_calibration_images_is_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--calib"):
        get_target("onnx").build(BuildRequest(graph, Precision.INT8, tmp_path, SPEC))


def test_onnx_says_that_it_has_no_fp16(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16"):
        get_target("onnx").build(BuildRequest(graph, Precision.FP16, tmp_path, SPEC))


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_load_refuses_a_damaged_file_and_another_size(name: str, graph: Path, tmp_path: Path) -> None:
    target = get_target(name)
    artifact = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC))
    with pytest.raises(InputError, match="64"):
        target.load(artifact.files[0], PreprocessSpec(size=(96, 64)))
    artifact.files[0].write_bytes(b"not an engine")
    with pytest.raises(InputError, match="cannot load"):
        target.load(artifact.files[0], SPEC)


@pytest.mark.slow
def test_open_batch_takes_any_number_of_images(
    checkpoint: Path, images: UInt8Array, reference: UInt8Array, tmp_path: Path
) -> None:
    from fptk.export.onnx import serving_module
    from fptk.export.targets.onnxruntime import OnnxRuntimeSession

    network, _ = load_checkpoint(checkpoint)
    path = export_onnx(
        serving_module(network, SPEC, "original", "onnxruntime"), tmp_path / "open.onnx", SPEC, batch=None
    )
    with OnnxRuntimeSession(path, SPEC) as session:
        assert np.mean(session(images[:3]) == reference[:3]) >= 0.9999
        assert session(images[:1]).shape == (1, 64, 64)


def test_batched_cuts_only_what_divides(images: UInt8Array) -> None:
    assert [len(part) for part in batched(images, 2)] == [2, 2]
    assert [len(part) for part in batched(images, None)] == [4]
    with pytest.raises(InputError, match="multiple"):
        list(batched(images, 3))


def test_registry_names_what_there_is() -> None:
    assert set(list_targets()) >= {"onnx", "openvino", "trt", "trt-rtx"}
    assert resolve_targets(["openvino", "onnx", "openvino"]) == ("openvino", "onnx")
    assert set(resolve_targets(["all"])) >= set(CPU_TARGETS)
    with pytest.raises(InputError, match="choose from"):
        get_target("tflite")


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_a_pool_keeps_its_threads_to_those_that_it_is_given(
    name: str, graph: Path, images: UInt8Array, tmp_path: Path
) -> None:
    target = get_target(name)
    artifact = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC))
    pool = target.load_pool(artifact.files[0], SPEC, threads=1)
    assert pool is not None
    with pool:
        assert pool.concurrency.threads == pool.concurrency.streams == 1
        spans = pool.run(images[:1], 3)
    assert (spans[:, 0] < spans[:, 1]).all()


def test_a_pool_of_openvino_says_which_file_it_cannot_load_or_run(
    graph: Path, images: UInt8Array, tmp_path: Path
) -> None:
    target = get_target("openvino")
    engine = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    pool = target.load_pool(engine, SPEC)
    assert pool is not None
    with pytest.raises(InputError, match=r"cannot run .*model\.xml"):
        pool.run(images[:1, :32], 1)
    engine.write_bytes(b"no engine")
    with pytest.raises(InputError, match=r"cannot load .*model\.xml"):
        target.load_pool(engine, SPEC)


FOUR = Concurrency(requests=4, streams=4, threads=4)
TIMINGS = [
    (Timing("latency"), "-infer_precision f32 -hint latency"),
    (Timing("throughput", threads=usable_cores(), precision_hint="bf16"), "-infer_precision bf16 -hint throughput"),
    (
        Timing("throughput", threads=usable_cores() + 1, concurrency=FOUR),
        f"-infer_precision f32 -hint none -nthreads {usable_cores() + 1} -nstreams 4 -nireq 4",
    ),
    (
        Timing("latency", threads=usable_cores() + 1),
        f"-infer_precision f32 -hint none -nthreads {usable_cores() + 1} -nstreams 1 -api sync",
    ),
]


@pytest.mark.parametrize(("timing", "flags"), TIMINGS)
def test_the_command_of_openvinos_own_tool_asks_for_what_fptk_does(timing: Timing, flags: str, tmp_path: Path) -> None:
    command = get_target("openvino").measure_command(tmp_path / "my model.xml", timing)
    assert command == f"benchmark_app -m 'my model.xml' {flags}"


@pytest.mark.slow
@pytest.mark.parametrize(("timing", "flags"), [each for each in TIMINGS if each[0].precision_hint is None])
def test_openvinos_own_tool_takes_the_command(timing: Timing, flags: str, graph: Path, tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("benchmark_app")
    if not tool.is_file():
        pytest.skip("openvino is installed without its benchmark_app")
    target = get_target("openvino")
    engine = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    command = shlex.split(target.measure_command(engine, timing) or "")
    done = subprocess.run([tool, *command[1:], "-t", "1"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "Throughput:" in done.stdout
    assert f"PERFORMANCE_HINT: {timing.mode.upper()}" in done.stdout or "-hint none" in flags
