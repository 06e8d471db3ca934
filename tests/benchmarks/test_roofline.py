"""Multiply-adds are counted as the graph states them; profile and memory come from real engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fptk.benchmarks.latency import LatencyPlan, time_in_turns
from fptk.benchmarks.memory import peak_memory
from fptk.benchmarks.profile import by_type, slowest
from fptk.benchmarks.roofline import GEMM_MACS, count_macs, gemm_call, gemm_rate, roofline_fraction
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets.base import NodeTime, median_times
from fptk.export.targets.registry import get_target

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

SPEC = PreprocessSpec(size=(64, 64))


def save(path: Path, nodes: list[object], shapes: dict[str, list[int | str]], result: str) -> Path:
    """An ONNX file of ``nodes``; the first of ``shapes`` is the input, the others are float32 weights."""
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    (name, shape), *weights = shapes.items()
    initializers = [onnx.numpy_helper.from_array(np.zeros(sides, np.float32), key) for key, sides in weights]
    entry = helper.make_tensor_value_info(name, FLOAT, shape)
    output = helper.make_tensor_value_info(result, FLOAT, None)
    graph = helper.make_graph(nodes, "counted", [entry], [output], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_conv_counts_kernel_and_group(tmp_path: Path) -> None:
    """3x3, 8 -> 16 channels in 4 groups, stride 2 on 10x12: 16*5*6 outputs of 2*9 products."""
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], group=4, strides=[2, 2], pads=[1] * 4)
    path = save(tmp_path / "conv.onnx", [node], {"x": [1, 8, 10, 12], "w": [16, 2, 3, 3]}, "y")
    assert count_macs(path) == 16 * 5 * 6 * 2 * 9


def test_matmul_and_gemm_count_the_inner_dimension(tmp_path: Path) -> None:
    """(2, 5, 7) @ (7, 3), then its transpose through a Gemm."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("Flatten", ["a"], ["b"], axis=1),
        onnx.helper.make_node("Gemm", ["b", "v"], ["y"], transA=1),
    ]
    path = save(tmp_path / "mm.onnx", nodes, {"x": [2, 5, 7], "w": [7, 3], "v": [2, 4]}, "y")
    assert count_macs(path) == 2 * 5 * 3 * 7 + 15 * 4 * 2


def test_transposed_conv_counts_its_input(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    path = save(tmp_path / "up.onnx", [node], {"x": [1, 6, 4, 4], "w": [6, 5, 2, 2]}, "y")
    assert count_macs(path) == 6 * 4 * 4 * 5 * 4


def test_an_open_shape_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(InputError, match="fixed"):
        count_macs(save(tmp_path / "open.onnx", [node], {"x": ["batch", 4], "w": [4, 4]}, "y"))


def test_gemm_reaches_its_own_roofline() -> None:
    (times,) = time_in_turns([gemm_call(1)], LatencyPlan(rounds=2, calls=2, warmup=1))
    p50 = float(np.median(times))
    assert roofline_fraction(GEMM_MACS, p50, gemm_rate(p50)) == pytest.approx(1)
    assert roofline_fraction(GEMM_MACS // 2, p50, gemm_rate(p50)) == pytest.approx(0.5)


def test_profile_sums_by_type_and_ranks_nodes() -> None:
    runs = [
        [NodeTime("a", "Conv", "k", t), NodeTime("b", "Add", "k", 1), NodeTime("c", "Conv", "k", 2)] for t in (3, 9, 5)
    ]
    nodes = median_times(runs)
    assert by_type(nodes) == [("Conv", 7, 2), ("Add", 1, 1)]
    assert [node.name for node in slowest(nodes, 2)] == ["a", "c"]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_engines_report_their_nodes(name: str, graph: Path, tmp_path: Path) -> None:
    from fptk.core.precision import Precision
    from fptk.export.targets.base import BuildRequest

    target = get_target(name)
    engine = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    nodes = target.profile(engine, SPEC, np.zeros((1, 64, 64, 3), np.uint8), threads=1)
    assert any("conv" in node.type.lower() for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    assert sum(node.milliseconds for node in nodes) > 0


@pytest.mark.slow
def test_memory_grows_with_the_image(checkpoint: Path, tmp_path: Path) -> None:
    """Four times the pixels need more than twice the activations."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc, which this system lacks")
    from fptk.export.onnx import export_onnx
    from fptk.export.pipeline import serving_module
    from fptk.models import load_checkpoint

    network, _ = load_checkpoint(checkpoint)
    peaks = []
    for side in (256, 512):
        spec = PreprocessSpec(size=(side, side))
        path = export_onnx(serving_module(network, spec, "naive", "onnxruntime"), tmp_path / f"{side}.onnx", spec)
        peaks.append(peak_memory("onnx", path, spec, threads=1) or 0)
    assert peaks[1] > 2 * peaks[0] > 0
