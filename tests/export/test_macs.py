"""Multiply-adds are counted as the graph states them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fptk.core.errors import InputError
from fptk.export.macs import count_macs

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


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
