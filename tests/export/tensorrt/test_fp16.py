"""FP16 files compute what the float32 file computes, and keep in float32 what the measured ranges ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.calibration.onnx_graph import Graph, load_model
from fptk.calibration.onnx_quantizer import quantize_onnx
from fptk.core.errors import InputError
from fptk.export.tensorrt.fp16 import choose_float_nodes, convert_to_fp16, fp16_model
from fptk.export.tensorrt.lint import lint_tensorrt

Images = Callable[[], Iterator[Any]]


def labels(path: Path, image: Any) -> Any:
    """What the file states, whatever int8 kernels the processor has."""
    return open_cpu_session(path, float_only=True).run(None, {"images": image})[0]


def test_half_form_agrees_with_float32(face_net: Path, images: Images, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    report = convert_to_fp16(face_net, half, images)
    assert report.images == 4
    assert report.kept_float == ()
    for image in images():
        assert (labels(half, image) == labels(face_net, image)).mean() > 0.99


def test_every_product_is_half_and_input_and_output_keep_their_types(
    face_net: Path, images: Images, tmp_path: Path
) -> None:
    half = tmp_path / "half.onnx"
    convert_to_fp16(face_net, half, images)
    graph = Graph(load_model(half))
    onnx.checker.check_model(str(half), full_check=True)
    assert graph.element_type("images") == graph.element_type("labels") == TensorProto.UINT8
    for node in graph.nodes:
        if node.op_type in ("Conv", "MatMul", "LayerNormalization", "Softmax"):
            assert {graph.element_type(name) for name in node.input} == {TensorProto.FLOAT16}, node.name


def test_keeps_sums_in_float32_where_nothing_was_measured(face_net: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    report = convert_to_fp16(face_net, half)
    assert [layer.name for layer in report.kept_float] == ["norm", "softmax"]
    assert all("no range was measured" in layer.reason for layer in report.kept_float)
    graph = Graph(load_model(half))
    by_name = {node.name: node for node in graph.nodes}
    assert {graph.element_type(name) for name in by_name["norm"].input} == {TensorProto.FLOAT}
    assert {graph.element_type(name) for name in by_name["query"].input} == {TensorProto.FLOAT16}


def test_keeps_a_layernorm_whose_squares_overflow(
    write_net: Callable[..., Path], images: Images, tmp_path: Path
) -> None:
    """Tokens of some hundreds fit float16, the sum of their squares does not."""
    source, half = write_net(tmp_path / "loud.onnx", gain=300.0), tmp_path / "half.onnx"
    report = convert_to_fp16(source, half, images)
    assert [layer.name for layer in report.kept_float] == ["norm"]
    assert "sum of 16 squares" in report.kept_float[0].reason
    image = next(images())
    assert (labels(half, image) == labels(source, image)).mean() > 0.99


def test_keeps_nodes_whose_values_leave_float16(write_net: Callable[..., Path], images: Images, tmp_path: Path) -> None:
    source, half = write_net(tmp_path / "huge.onnx", gain=1e5), tmp_path / "half.onnx"
    report = convert_to_fp16(source, half, images)
    assert {layer.name for layer in report.kept_float} == {"amplify", "norm"}
    assert "65504" in report.kept_float[0].reason
    image = next(images())
    assert (labels(half, image) == labels(source, image)).mean() > 0.99


def test_the_rest_of_an_int8_file_can_be_half(face_net: Path, images: Images, tmp_path: Path) -> None:
    int8, mixed = tmp_path / "int8.onnx", tmp_path / "mixed.onnx"
    quantize_onnx(face_net, int8, images)
    report = convert_to_fp16(face_net, mixed, images, quantized=int8)
    assert report.kept_float == ()
    assert lint_tensorrt(mixed) == []
    graph = Graph(load_model(mixed))
    kinds = {graph.element_type(node.input[1]) for node in graph.nodes if node.op_type == "QuantizeLinear"}
    assert kinds == {TensorProto.FLOAT16}
    for image in images():
        assert (labels(mixed, image) == labels(int8, image)).mean() > 0.99


def test_a_scale_below_float16_does_not_become_zero(write_conv: Callable[..., Path], tmp_path: Path) -> None:
    scales = np.full(19, 0.01, np.float32)
    scales[3] = 1e-9  # a dead channel
    int8 = write_conv(tmp_path / "int8.onnx", weight_scale=scales)
    half = fp16_model(onnx.load(str(int8)), set())
    graph = Graph(half)
    scale = next(graph.constant(node.input[1]) for node in graph.nodes if node.name == "weight_dq")
    assert scale is not None
    assert scale.dtype == np.float16
    assert scale.min() > 0


@pytest.mark.parametrize(
    ("kind", "shape", "largest", "kept"),
    [
        ("Softmax", [1, 256, 256], 10.0, False),
        ("Softmax", [1, 256, 256], 100.0, True),
        ("Softmax", [1, 256, 4096], 10.0, True),
        ("GlobalAveragePool", [1, 8, 16, 16], 3.0, False),
        ("GlobalAveragePool", [1, 8, 16, 16], 100.0, True),
        ("GlobalAveragePool", [1, 8, 128, 128], 0.1, True),
        ("ReduceMean", [1, 8, 16, 16], 100.0, True),
        ("Relu", [1, 8, 128, 128], 100.0, False),
    ],
)
def test_range_analysis_decides_node_by_node(kind: str, shape: list[int], largest: float, kept: bool) -> None:
    node = helper.make_node(kind, ["x"], ["y"], name="node")
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    chosen = choose_float_nodes(Graph(model), {"x": (-largest, largest)})
    assert [layer.name for layer in chosen] == (["node"] if kept else [])


def test_float_outputs_keep_their_name_and_type(tmp_path: Path) -> None:
    """A file that gives logits goes on giving float32 logits."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu"), helper.make_node("Neg", ["y"], ["z"], name="neg")]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y, z]), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    source, half = tmp_path / "f.onnx", tmp_path / "h.onnx"
    onnx.save(model, str(source))
    convert_to_fp16(source, half)
    value = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
    got = ort.InferenceSession(str(half)).run(["y", "z"], {"x": value})
    assert [entry.dtype for entry in got] == [np.float32, np.float32]
    np.testing.assert_array_equal(got[1], -np.maximum(value, 0))


def test_refuses_a_quantized_file(write_conv: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already quantised"):
        convert_to_fp16(write_conv(tmp_path / "q.onnx"), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
