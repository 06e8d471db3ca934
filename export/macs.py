"""Multiply-adds of an exported ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.calibration.onnx_graph import image_dependent_tensors
from fptk.core.errors import InputError, missing_package

if TYPE_CHECKING:
    import onnx


def count_macs(path: Path) -> int:
    """Multiply-adds of one image through an ONNX graph: convolutions and matrix products, as the graph states them.

    Elementwise work, normalisations and resizes are not counted: they are what a fraction below 1 is spent on. Products
    whose size depends on the image are resizes too (:func:`fptk.models.deploy.label_map.mixed_cells`).

    Raises:
        InputError: onnx is not installed, or a shape in the graph is open.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_package("onnx", "export") from error
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    shapes = _shapes(model.graph)
    fixed_inputs = all(entry.name in shapes for entry in model.graph.input)
    skipped = image_dependent_tensors(model) if fixed_inputs else set()
    counters: dict[str, Callable[[Any, dict[str, list[int]]], int]] = {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MatMul": _matmul,
        "Gemm": _gemm,
    }
    try:
        return sum(
            counters[node.op_type](node, shapes)
            for node in model.graph.node
            if node.op_type in counters and node.output[0] not in skipped
        )
    except KeyError as error:
        raise InputError(f"{path}: tensor {error} has no fixed shape; export with a fixed batch") from error


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Shape of every tensor whose sides are all known."""
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sides = value.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[value.name] = [side.dim_value for side in sides]
    return shapes


def _conv(node: Any, shapes: dict[str, list[int]]) -> int:
    """Output elements x (input channels of a group x kernel)."""
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: Any, shapes: dict[str, list[int]]) -> int:
    """Input elements x (output channels of a group x kernel)."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: Any, shapes: dict[str, list[int]]) -> int:
    """Output elements x inner dimension."""
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: Any, shapes: dict[str, list[int]]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
