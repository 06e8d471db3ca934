"""How near an engine comes to what the processor can do: multiply-adds of its graph against the host's GEMM rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.benchmarks.latency import Contender
from fptk.calibration.onnx_graph import image_dependent_tensors
from fptk.core.errors import InputError, missing_package

if TYPE_CHECKING:
    import onnx

GEMM_SIDE = 1024
"""Side of the square float32 product whose rate stands for the processor: 4 MB an operand, large enough that the
kernel, not the call, is measured."""

GEMM_MACS = GEMM_SIDE**3


def gemm_call(threads: int) -> Contender:
    """One float32 product of two (1024, 1024) matrices by torch's BLAS, as a contender of the same interleaved run.

    Raises:
        InputError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_package("torch", "export") from error
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(GEMM_SIDE, GEMM_SIDE, generator=generator) for _ in range(2))
    out = torch.empty(GEMM_SIDE, GEMM_SIDE)

    def call() -> None:
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        torch.mm(a, b, out=out)
        if before != threads:
            torch.set_num_threads(before)

    return call


def gemm_rate(p50_ms: float) -> float:
    """Multiply-adds a second of :func:`gemm_call`, from its median time in milliseconds."""
    return GEMM_MACS / (p50_ms / 1e3)


def roofline_fraction(macs: int, p50_ms: float, rate: float) -> float:
    """Share of the GEMM rate that an engine reaches: (macs / rate) / latency, of one image."""
    return macs / rate / (p50_ms / 1e3)


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
