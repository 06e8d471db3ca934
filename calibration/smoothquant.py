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
from fptk.calibration.ranges import channel_maxima

if TYPE_CHECKING:
    import onnx

Float32 = npt.NDArray[np.float32]


def smooth(model: onnx.ModelProto, nodes: Sequence[str], images: ImageStream, alpha: float = 0.5) -> onnx.ModelProto:
    """A copy of ``model`` whose outputs are the same up to rounding and whose activations are easier to quantise.

    Every activation that feeds chosen ``MatMul``, ``Gemm`` or ungrouped ``Conv`` nodes with constant weights is divided
    by one scale per channel (inside the LayerNormalization that makes it, where nothing else reads it; by a ``Mul``
    otherwise), and those weights are multiplied by it.

    Args:
        model: float model with inferred shapes and unique node names.
        nodes: names of the nodes that will be quantised.
        images: starts a pass over the calibration images.
        alpha: migration strength, 0-1.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    readers = _readers(copy, set(nodes))
    axes = [(name, _input_axis(group[0])) for name, group in readers.items()]
    maxima = channel_maxima(model, axes, images)
    for name, group in readers.items():
        peaks = np.max([_weight_peaks(copy, node) for node in group], axis=0)
        scale = _scales(maxima[name], peaks, alpha)
        for node in group:
            _scale_weight(copy, node, scale)
        if not _fold_into_norm(copy, name, group, scale):
            _insert_mul(copy, name, group, scale)
    return onnx.shape_inference.infer_shapes(copy)


def _readers(model: onnx.ModelProto, nodes: set[str]) -> dict[str, list[onnx.NodeProto]]:
    """Smoothable nodes by the activation that they read; of one activation only those with one channel axis."""
    constants = {constant.name for constant in model.graph.initializer}
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.name not in nodes or node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in constants:
            continue
        if node.op_type == "Conv" and _attribute(node, "group", 1) != 1:
            continue  # a depthwise weight has one input channel per group: nothing to balance within a scale
        if node.op_type == "Gemm" and _attribute(node, "transA", 0):
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


def _weight_peaks(model: onnx.ModelProto, node: onnx.NodeProto) -> Float32:
    """Largest absolute weight of each input channel, float32 (C,)."""
    weight = np.abs(_constant(model, node.input[1]))
    axis = _weight_axis(node) % weight.ndim
    return np.asarray(weight.max(axis=tuple(a for a in range(weight.ndim) if a != axis)), np.float32)


def _scale_weight(model: onnx.ModelProto, node: onnx.NodeProto, scale: Float32) -> None:
    """Give ``node`` a weight of its own, multiplied by ``scale`` along its input channels."""
    from onnx import numpy_helper

    weight = _constant(model, node.input[1])
    shape = [1] * weight.ndim
    shape[_weight_axis(node) % weight.ndim] = -1
    name = f"{node.input[1]}:smoothed:{node.name}"
    model.graph.initializer.append(numpy_helper.from_array((weight * scale.reshape(shape)).astype(weight.dtype), name))
    node.input[1] = name


def _fold_into_norm(model: onnx.ModelProto, name: str, group: Sequence[onnx.NodeProto], scale: Float32) -> bool:
    """Divide the LayerNormalization that makes ``name`` by ``scale``, if only ``group`` reads it."""
    from onnx import numpy_helper

    producer = next((node for node in model.graph.node if name in node.output), None)
    readers = sum(source == name for node in model.graph.node for source in node.input)
    outputs = {output.name for output in model.graph.output}
    constants = {constant.name for constant in model.graph.initializer}
    if producer is None or producer.op_type != "LayerNormalization" or readers != len(group) or name in outputs:
        return False
    if any(source not in constants for source in producer.input[1:] if source):
        return False
    for position in range(1, len(producer.input)):
        value = _constant(model, producer.input[position])
        fresh = f"{producer.input[position]}:smoothed:{producer.name}"
        model.graph.initializer.append(numpy_helper.from_array((value / scale).astype(value.dtype), fresh))
        producer.input[position] = fresh
    return True


def _insert_mul(model: onnx.ModelProto, name: str, group: Sequence[onnx.NodeProto], scale: Float32) -> None:
    """Let ``group`` read ``name / scale``."""
    from onnx import helper, numpy_helper

    inverse = (1 / scale).astype(np.float32)
    if _input_axis(group[0]) == 1:
        inverse = inverse.reshape(1, -1, 1, 1)
    factor, smoothed = f"{name}:smooth_factor", f"{name}:smoothed"
    model.graph.initializer.append(numpy_helper.from_array(inverse, factor))
    mul = helper.make_node("Mul", [name, factor], [smoothed], name=f"{name}:smooth")
    first = next(i for i, node in enumerate(model.graph.node) if node.name == group[0].name)
    model.graph.node.insert(first, mul)
    names = {node.name for node in group}
    for node in model.graph.node:
        if node.name in names:
            node.input[0] = smoothed


def _input_axis(node: onnx.NodeProto) -> int:
    """Channel axis of the activation that ``node`` reads."""
    return 1 if node.op_type == "Conv" else -1


def _weight_axis(node: onnx.NodeProto) -> int:
    """Axis of the weight that runs over the input channels."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB", 0)):
        return 1
    return -2


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _constant(model: onnx.ModelProto, name: str) -> Float32:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(next(c for c in model.graph.initializer if c.name == name)))
