"""SmoothQuant on an ONNX graph: outlier channels of activations are scaled down, the weights that read them up.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
equations 3 and 4: ``Y = (X diag(s)^-1) (diag(s) W)`` with ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``. The product
is the same in exact arithmetic; only the rounding differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fptk.calibration.images import ImageStream
from fptk.calibration.onnx_graph import Graph, Node, attribute, infer_types
from fptk.calibration.ranges import channel_maxima

if TYPE_CHECKING:
    import onnx

Float32 = npt.NDArray[np.float32]


def smooth(model: onnx.ModelProto, nodes: Sequence[str], images: ImageStream, alpha: float = 0.5) -> onnx.ModelProto:
    """A copy of ``model`` whose outputs are the same up to rounding and whose activations are easier to quantize.

    Every activation that feeds chosen ``MatMul``, ``Gemm`` or ungrouped ``Conv`` nodes with constant weights is divided
    by one scale per channel (inside the LayerNormalization that makes it, where nothing else reads it; by a ``Mul``
    otherwise), and those weights are multiplied by it.

    Args:
        model: float model with inferred shapes and unique node names.
        nodes: names of the nodes that will be quantized.
        images: starts a pass over the calibration images.
        alpha: migration strength, 0-1.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    readers = _readers(graph, set(nodes))
    axes = [(name, _input_axis(group[0])) for name, group in readers.items()]
    maxima = channel_maxima(model, axes, images)
    for name, group in readers.items():
        peaks = np.max([_weight_peaks(graph, node) for node in group], axis=0)
        scale = _scales(maxima[name], peaks, alpha)
        for node in group:
            _scale_weight(graph, node, scale)
        if not _fold_into_norm(graph, name, group, scale):
            _insert_mul(graph, name, group, scale)
    graph.replace_nodes(graph.nodes)
    infer_types(copy)
    return copy


def _readers(graph: Graph, nodes: set[str]) -> dict[str, list[Node]]:
    """Smoothable nodes by the activation that they read; of one activation only those with one channel axis."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.name not in nodes or node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        if node.input[1] not in graph.initializers:
            continue
        if node.op_type == "Conv" and attribute(node, "group", 1) != 1:
            continue  # a depthwise weight has one input channel per group: nothing to balance within a scale
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            continue
        group = found.setdefault(node.input[0], [])
        if not group or _input_axis(group[0]) == _input_axis(node):
            group.append(node)
    return found


def _scales(activation: Float32, weight: Float32, alpha: float) -> Float32:
    """Equation 4; channels that are silent in activation or weight keep their scale."""
    alive = (activation > 1e-5) & (weight > 1e-8)
    raw = np.power(np.where(alive, activation, 1), alpha) / np.power(np.where(alive, weight, 1), 1 - alpha)
    return np.where(alive, np.clip(raw, 1e-4, 1e4), 1).astype(np.float32)


def _weight_peaks(graph: Graph, node: Node) -> Float32:
    """Largest absolute weight of each input channel, float32 (C,)."""
    weight = np.abs(_constant(graph, node.input[1]))
    axis = _weight_axis(node) % weight.ndim
    return np.asarray(weight.max(axis=tuple(a for a in range(weight.ndim) if a != axis)), np.float32)


def _scale_weight(graph: Graph, node: Node, scale: Float32) -> None:
    """Give ``node`` a weight of its own, multiplied by ``scale`` along its input channels."""
    weight = _constant(graph, node.input[1])
    shape = [1] * weight.ndim
    shape[_weight_axis(node) % weight.ndim] = -1
    scaled = (weight * scale.reshape(shape)).astype(weight.dtype)
    node.input[1] = graph.add_constant(f"{node.input[1]}:smoothed:{node.name}", scaled)


def _fold_into_norm(graph: Graph, name: str, group: Sequence[Node], scale: Float32) -> bool:
    """Divide the LayerNormalization that makes ``name`` by ``scale``, if only ``group`` reads it."""
    producer = graph.producer.get(name)
    if producer is None or producer.op_type != "LayerNormalization" or len(graph.consumers[name]) != len(group):
        return False
    if any(output.name == name for output in graph.model.graph.output):
        return False
    if any(source not in graph.initializers for source in producer.input[1:] if source):
        return False
    for position in range(1, len(producer.input)):
        value = _constant(graph, producer.input[position])
        fresh = f"{producer.input[position]}:smoothed:{producer.name}"
        producer.input[position] = graph.add_constant(fresh, (value / scale).astype(value.dtype))
    return True


def _insert_mul(graph: Graph, name: str, group: Sequence[Node], scale: Float32) -> None:
    """Let ``group`` read ``name / scale``."""
    from onnx import helper

    inverse = (1 / scale).astype(np.float32)
    if _input_axis(group[0]) == 1:
        inverse = inverse.reshape(1, -1, 1, 1)
    factor, smoothed = graph.add_constant(f"{name}:smooth_factor", inverse), graph.fresh(f"{name}:smoothed")
    graph.nodes.append(helper.make_node("Mul", [name, factor], [smoothed], name=f"{name}:smooth"))
    for node in group:
        node.input[0] = smoothed


def _input_axis(node: Node) -> int:
    """Channel axis of the activation that ``node`` reads."""
    return 1 if node.op_type == "Conv" else -1


def _weight_axis(node: Node) -> int:
    """Axis of the weight that runs over the input channels."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 1
    return -2


def _constant(graph: Graph, name: str) -> Float32:
    value = graph.constant(name)
    assert value is not None
    return value
