"""What ONNX Runtime's CPU provider needs in a Q/DQ graph to compute a product as one integer kernel.

Its kernels were chosen by looking at what they fuse (onnxruntime 1.31.1):

- A matrix product with Q/DQ at its inputs and none behind it becomes ``MatMulIntegerToFloat``, and with an int32 bias
  ``QGemm``. Both hand on float32. With Q/DQ behind it becomes ``QLinearMatMul``, which rounds to 8 bits what the next
  node wants as float, and its bias stays a node of its own.
- A convolution becomes ``QLinearConv`` only with Q/DQ behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_graph import Graph, Node, attribute
from fptk.calibration.range_cache import Range

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("MatMul", "Gemm")

_LARGEST_BIAS = 2**30
"""Largest int32 bias: sums of products need room beside it."""

_PIXELS = (0.0, 255.0)
"""Range of a uint8 pixel: its scale is 1 and its zero point 0, so that the pixel is its own quantized value."""


@dataclass(frozen=True)
class Shift:
    """What was taken from a convolution's pixels, to be taken away by its bias."""

    mean: npt.NDArray[np.float64]
    """Of each channel."""
    weight: npt.NDArray[np.float64]
    """Before it was rounded."""


def free_products(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Let matrix products hand on float values where no quantized node reads them, in place.

    Args:
        model: with Q/DQ at the outputs of products.
        nodes: names of the quantized nodes.
    """
    graph = Graph(model)
    removed: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in _PRODUCTS or node.name not in nodes:
            continue
        quantize = [reader for reader in graph.consumers[node.output[0]] if reader.op_type == "QuantizeLinear"]
        dequantize = [reader for pair in quantize for reader in graph.consumers[pair.output[0]]]
        behind = [reader for pair in dequantize for reader in graph.consumers[pair.output[0]]]
        if any(reader.name in nodes for reader in behind):
            continue
        _read_instead(behind, {pair.output[0]: node.output[0] for pair in dequantize})
        removed |= {pair.name for pair in (*quantize, *dequantize)}
    graph.replace_nodes(node for node in graph.nodes if node.name not in removed)


def integer_biases(model: onnx.ModelProto) -> None:
    """Store the bias behind a quantized matrix product as int32 of the product's own scale, in place.

    ONNX Runtime makes one node of the two only if the bias has that form. The rounding is that of the sum: half a step
    of int32.
    """
    graph = Graph(model)
    new = []
    for add in graph.nodes:
        found = _product_and_bias(graph, add)
        if found is None:
            continue
        product, position = found
        scale = _scale_of(graph, product)
        bias = graph.constant(add.input[position])
        if scale is None or bias is None or not (np.abs(bias) < _LARGEST_BIAS * scale).all():
            continue
        rounded = np.rint(bias / scale).astype(np.int32)
        new.append(_dequantize(graph, add, position, rounded, scale))
    graph.replace_nodes([*graph.nodes, *new])


def integer_left_constants(model: onnx.ModelProto) -> None:
    """Let a product of a constant and a quantized activation be one of integers, in place, where it is exact.

    The quantizer takes a constant for a layer's weight on the right of a product only. On the left stand masks and
    means: a row of 1/n sums n pixels, and has a scale that holds it without rounding. Others stay as they are.
    """
    graph = Graph(model)
    new = []
    for product in graph.nodes:
        value = graph.constant(product.input[0]) if product.op_type == "MatMul" else None
        if value is None or value.dtype != np.float32 or not graph.is_dequantized(product.input[1]):
            continue
        scale = np.float32(np.abs(value).max() or 1)
        if not ((value == 0) | (value == scale)).all():
            continue
        new.append(_dequantize(graph, product, 0, (value == scale).astype(np.uint8), np.asarray(scale)))
    graph.replace_nodes([*graph.nodes, *new])


def _dequantize(
    graph: Graph, reader: Node, position: int, stored: npt.NDArray[Any], scale: npt.NDArray[np.floating[Any]]
) -> Node:
    """A node that gives a stored constant with zero point 0 to an input of a reader, in the place of its float one."""
    from onnx import helper

    stem = reader.input[position]
    names = [
        graph.add_constant(f"{stem}_{stored.dtype}", stored),
        graph.add_constant(f"{stem}_scale", scale.astype(np.float32)),
        graph.add_constant(f"{stem}_zero_point", np.zeros(scale.shape, stored.dtype)),
    ]
    reader.input[position] = graph.fresh(f"{stem}_dequantized")
    name = f"{reader.name}_{position}_DequantizeLinear"
    node = helper.make_node("DequantizeLinear", names, [reader.input[position]], name=name)
    if scale.ndim:
        node.attribute.append(helper.make_attribute("axis", 0))
    return node


def _product_and_bias(graph: Graph, add: Node) -> tuple[Node, int] | None:
    """The MatMul that a node adds one constant vector to, and the position of the vector among the node's inputs."""
    if add.op_type != "Add":
        return None
    for position in (0, 1):
        product = graph.producer.get(add.input[1 - position])
        bias = graph.constant(add.input[position])
        if product is None or product.op_type != "MatMul" or bias is None or bias.ndim != 1:
            continue
        return (product, position) if len(graph.consumers[product.output[0]]) == 1 else None
    return None


def _scale_of(graph: Graph, product: Node) -> npt.NDArray[np.float64] | None:
    """Scale of a product of an activation and a weight in int8: float64, of no dimension or one value a column."""
    scales = []
    for name in product.input:
        source = graph.producer.get(name)
        scale = graph.constant(source.input[1]) if source is not None and source.op_type == "DequantizeLinear" else None
        if scale is None:
            return None
        scales.append(np.float64(scale))
    return np.asarray(scales[0] * scales[1]) if scales[0].ndim == 0 else None


def take_pixels_as_they_are(
    model: onnx.ModelProto, ranges: dict[str, Range], nodes: Collection[str]
) -> tuple[dict[str, Range], dict[str, Shift]]:
    """Let quantized convolutions read uint8 pixels without a cast, a subtraction and a rounding, in place.

    A convolution of (pixels - mean) is one of the pixels with another bias: b - sum(W mean). Its padding, which is the
    mean, is put around the pixels instead, rounded to a whole number: the only place where anything changes, by less
    than half a step of 255, and no more than quantization rounds everywhere else.

    Args:
        model: float model in which pixels are cast, and a constant for each channel is added or subtracted.
        ranges: (low, high) of the activations.
        nodes: names of the nodes to quantize.

    Returns:
        The ranges, with those of the pixels, and what :func:`correct_biases` needs once the weights are rounded.
    """
    graph = Graph(model)
    ranges = dict(ranges)
    new: list[Node] = []
    shifts: dict[str, Shift] = {}
    for conv in graph.nodes:
        found = _pixels_before(graph, conv) if conv.op_type == "Conv" and conv.name in nodes else None
        if found is None:
            continue
        pixels, mean = found
        made, name = _padded(graph, pixels, mean, attribute(conv, "pads", [0, 0, 0, 0]))
        shifts[conv.name] = Shift(mean, _absorb_mean(graph, conv, mean))
        conv.input[0] = name
        ranges[name] = _PIXELS
        new += made
    graph.replace_nodes([*graph.nodes, *new])
    return ranges, shifts


def correct_biases(model: onnx.ModelProto, shifts: Mapping[str, Shift]) -> None:
    """Let convolutions of pixels take the mean away with their rounded weights, in place.

    The bias took sum(W mean) away, but with rounded weights W' the pixels bring sum(W' mean). Without this the
    difference is in every pixel (one network's labels were those of FP32 on 89 % of the pixels, not on 96 %).
    """
    from onnx import numpy_helper

    graph = Graph(model)
    for conv in (node for node in graph.nodes if node.name in shifts):
        weight, bias = (graph.producer[name] for name in conv.input[1:3])
        values, scale = (np.float64(graph.constant(name)) for name in weight.input[:2])
        rounded = values * scale.reshape(-1, 1, 1, 1)
        shift = shifts[conv.name]
        error = ((rounded - shift.weight) * shift.mean[:, None, None]).sum(axis=(1, 2, 3))
        stored, step = graph.initializers[bias.input[0]], graph.constant(bias.input[1])
        corrected = numpy_helper.to_array(stored) - np.rint(error / np.float64(step)).astype(np.int32)
        stored.CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), stored.name))


def _pixels_before(graph: Graph, conv: Node) -> tuple[str, npt.NDArray[np.float64]] | None:
    """The uint8 tensor (N, C, H, W) that a convolution sees minus a mean of each channel, and that mean (C).

    ``None`` where it reads something else, or pads with what is no pixel.
    """
    from onnx import TensorProto

    shift = graph.producer.get(conv.input[0])
    if shift is None or shift.op_type not in ("Add", "Sub") or attribute(conv, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    cast, value = graph.producer.get(shift.input[0]), graph.constant(shift.input[1])
    if cast is None or cast.op_type != "Cast" or value is None or value.ndim < 3 or value.size != value.shape[-3]:
        return None
    if graph.element_type(cast.input[0]) != TensorProto.UINT8 or len(graph.shape(cast.input[0]) or ()) != 4:
        return None
    if any(graph.constant(name) is None for name in conv.input[1:] if name):
        return None
    mean = np.float64(value).ravel() * (1 if shift.op_type == "Sub" else -1)
    return (cast.input[0], mean) if mean.min() >= 0 and mean.max() <= _PIXELS[1] else None


def _absorb_mean(graph: Graph, conv: Node, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Make a convolution of pixels minus a mean one of the pixels without padding, in place; its weights."""
    from onnx import helper

    weight = graph.constant(conv.input[1])
    assert weight is not None
    named = conv.input[2] if len(conv.input) > 2 else ""
    bias = graph.constant(named) if named else np.zeros(len(weight), weight.dtype)
    assert bias is not None, "_pixels_before has looked"
    bias = np.float64(bias) - (np.float64(weight) * mean[:, None, None]).sum(axis=(1, 2, 3))
    name = graph.add_constant(f"{conv.name}_bias_of_pixels", bias.astype(weight.dtype))
    del conv.input[2:]
    conv.input.append(name)
    kept = [entry for entry in conv.attribute if entry.name != "pads"]
    del conv.attribute[:]
    conv.attribute.extend([*kept, helper.make_attribute("pads", [0, 0, 0, 0])])
    return np.asarray(weight, np.float64)


def _padded(graph: Graph, pixels: str, mean: npt.NDArray[np.float64], pads: list[int]) -> tuple[list[Node], str]:
    """Nodes that put whole means around uint8 pixels (N, C, H, W) and cast them, and the name of the result.

    Pixels that were transposed from (N, H, W, C) are padded before that: rows are then whole blocks of memory.
    """
    from onnx import TensorProto, helper

    source = graph.producer.get(pixels)
    moved = source is not None and source.op_type == "Transpose" and attribute(source, "perm") == [0, 3, 1, 2]
    name = source.input[0] if moved and source is not None else pixels
    axes, channels = ((1, 2), 3) if moved else ((2, 3), 1)
    sides = list(graph.shape(name) or ())
    nodes: list[Node] = []

    def add(op_type: str, *inputs: str, **attributes: Any) -> str:
        output = graph.fresh(f"{pixels}_padded_{op_type}")
        nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def border(axis: int, width: int) -> str:
        shape = [width if index == axis else side or 1 for index, side in enumerate(sides)]
        colors = np.rint(mean).astype(np.uint8).reshape([-1 if index == channels else 1 for index in range(4)])
        value = graph.add_constant(f"{pixels}_border", np.broadcast_to(colors, shape))
        if sides[0] is not None:
            return value
        start, end, others = (graph.add_constant(f"{pixels}_sides", np.array(each)) for each in ([0], [1], [1, 1, 1]))
        batch = add("Slice", add("Shape", name), start, end)
        return add("Expand", value, add("Concat", batch, others, axis=0))

    for axis, before, after in zip(axes, pads[:2], pads[2:], strict=True):
        first, last = ([border(axis, width)] if width else [] for width in (before, after))
        if first or last:
            name = add("Concat", *first, name, *last, axis=axis)
            sides[axis] = (sides[axis] or 0) + before + after
    if moved:
        name = add("Transpose", name, perm=[0, 3, 1, 2])
    return nodes, add("Cast", name, to=TensorProto.FLOAT)


def drop_casts_of_pixels(model: onnx.ModelProto) -> None:
    """Let pixels that are cast to float and quantized again, with scale 1 and zero point 0, stay uint8, in place."""
    graph = Graph(model)
    for quantize in graph.nodes:
        cast = graph.producer.get(quantize.input[0]) if quantize.op_type == "QuantizeLinear" else None
        if cast is None or cast.op_type != "Cast":
            continue
        scale, zero_point = (graph.constant(name) for name in quantize.input[1:3])
        source_type, own_type = graph.element_type(cast.input[0]), graph.element_type(quantize.output[0])
        if scale == 1 and zero_point == 0 and source_type == own_type:
            _read_instead(graph.consumers[quantize.output[0]], {quantize.output[0]: cast.input[0]})
    graph.replace_nodes(graph.nodes)


def _read_instead(readers: Collection[Node], names: dict[str, str]) -> None:
    """Let nodes read other tensors, by today's name, in place."""
    for reader in readers:
        for position, name in enumerate(reader.input):
            reader.input[position] = names.get(name, name)
