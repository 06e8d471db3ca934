"""The nodes around a foreign network: pixels to its input in front of it, its output to labels behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fptk.calibration.onnx_graph import Graph, Node, attribute
from fptk.export.foreign.file import Interface
from fptk.export.foreign.label_map import LABEL_MAPS, Coarse, argmax
from fptk.export.foreign.nodes import Nodes
from fptk.export.onnx import INPUT_NAME, OUTPUT_NAME
from fptk.models.engine_form import EngineForm

if TYPE_CHECKING:
    import onnx

PLAIN = EngineForm(label_map="plain")
"""The graph as it is usually written."""

_MONOTONIC = ("Softmax", "LogSoftmax")
"""Operators over the classes of a pixel that leave the order of its scores as it was."""

MOST_COMPARISONS = 512
"""Classes times scale in the form ``phases``; beyond, its comparisons cost more than they save."""


def wrap(model: onnx.ModelProto, interface: Interface, form: EngineForm, batch: int | None) -> onnx.ModelProto:
    """A copy of the network that takes uint8 (N, H, W, 3) RGB and gives uint8 (N, H, W), the lowest of equal classes.

    Args:
        model: the network, its dimensions fixed; see :func:`fptk.export.foreign.prepare.prepare`.
        interface: how it is fed and read.
        form: how the engine wants what stands around the network.
        batch: N; ``None`` is open.
    """
    wrapped = type(model)()
    wrapped.CopyFrom(model)
    _make_room(wrapped, (INPUT_NAME, OUTPUT_NAME))
    renamed = {INPUT_NAME: f"network/{INPUT_NAME}", OUTPUT_NAME: f"network/{OUTPUT_NAME}"}
    own_input = renamed.get(interface.input, interface.input)
    own_output = renamed.get(interface.output, interface.output)
    graph = Graph(wrapped)
    nodes = Nodes(graph, "fptk")
    _front(nodes, interface, own_input, form)
    labels = _tail(nodes, interface, own_output, form, batch)
    nodes.add("Identity", labels, output=OUTPUT_NAME)
    _set_ports(wrapped, interface.size, batch)
    nodes.finish()
    return wrapped


def _make_room(model: onnx.ModelProto, taken: tuple[str, ...]) -> None:
    """Rename the network's own tensors of these names, in place."""
    names = {name: f"network/{name}" for name in taken}
    for node in model.graph.node:
        for place in (node.input, node.output):
            for index, name in enumerate(place):
                place[index] = names.get(name, name)
    for entry in (*model.graph.initializer, *model.graph.input, *model.graph.output, *model.graph.value_info):
        entry.name = names.get(entry.name, entry.name)


def _set_ports(model: onnx.ModelProto, size: tuple[int, int], batch: int | None) -> None:
    from onnx import TensorProto, helper

    n = "batch" if batch is None else batch
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [n, *size, 3]))
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.UINT8, [n, *size]))


def _front(nodes: Nodes, interface: Interface, own_input: str, form: EngineForm) -> None:
    """Make the network's input from the images, in the manner of :class:`fptk.models.deploy.serving.Serving`."""
    from onnx import TensorProto

    height, width = interface.size
    transposed = interface.layout == "NCHW"
    by_rows = form.channels_last and transposed and interface.pixels == "float32"
    x = INPUT_NAME
    if interface.channels == "bgr":
        x = nodes.add("Gather", x, np.array([2, 1, 0], np.int64), axis=3)
    if by_rows:
        x = nodes.reshape(x, 0, height, width * 3)
    elif transposed:
        x, transposed = nodes.transpose(x, 0, 3, 1, 2), False
    if interface.pixels == "float32":
        x = nodes.cast(x, TensorProto.FLOAT)
        for op_type, values in normalization(interface):
            x = nodes.add(op_type, x, _broadcast(values, interface, by_rows))
    if by_rows:
        x = nodes.transpose(nodes.reshape(x, 0, height, width, 3), 0, 3, 1, 2)
    nodes.add("Identity", x, output=own_input)


def normalization(interface: Interface) -> list[tuple[str, Any]]:
    """Operators and float64 (3) values, in the network's order of channels, that normalize pixels of 0-255."""
    if interface.mean is None or interface.std is None:
        return []
    order = slice(None, None, -1 if interface.channels == "bgr" else 1)
    mean, std = np.array(interface.mean)[order], np.array(interface.std)[order]
    steps = [("Sub", 255 * mean, 0.0), ("Mul", 1 / (255 * std), 1.0)]
    return [(op_type, values) for op_type, values, neutral in steps if np.any(np.float32(values) != neutral)]


def _broadcast(values: Any, interface: Interface, by_rows: bool) -> Any:
    if by_rows:
        return np.tile(values, interface.size[1]).astype(np.float32)
    return values.reshape(3, 1, 1).astype(np.float32) if interface.layout == "NCHW" else values.astype(np.float32)


def _tail(nodes: Nodes, interface: Interface, own_output: str, form: EngineForm, batch: int | None) -> str:
    """Labels uint8 (N, H, W) from the network's output."""
    from onnx import TensorProto

    scores = Scores.of(interface, own_output)
    if form is not PLAIN:
        scores = step_back(nodes.graph, scores, interface.size)
    if scores is None:
        return nodes.cast(nodes.reshape(own_output, -1, *interface.size), TensorProto.UINT8)
    name = nodes.transpose(scores.name, 0, 3, 1, 2) if scores.class_axis == 3 else scores.name
    if scores.sides == interface.size:
        return argmax(nodes, name, form.label_map, scores.classes, interface.size)
    height, width = interface.size
    scale = height // scores.sides[0]
    label_map = form.label_map
    if label_map == "phases" and scores.classes * scale > MOST_COMPARISONS:
        label_map = "plain"
    exact = (scores.sides[0] * scale, scores.sides[1] * scale) == (height, width)
    if not scores.aligned and exact and scale % 2 == 0:
        return LABEL_MAPS[label_map](nodes, Coarse(name, scores.classes, *scores.sides, scale, batch))
    factors = np.array([1, 1, height / scores.sides[0], width / scores.sides[1]], np.float32)
    sizes = ("", np.array([batch, scores.classes, height, width], np.int64)) if batch else (factors,)
    mode = "align_corners" if scores.aligned else "half_pixel"
    full = nodes.add("Resize", name, "", *sizes, mode="linear", coordinate_transformation_mode=mode)
    return argmax(nodes, full, label_map, scores.classes, interface.size)


@dataclass(frozen=True)
class Scores:
    """A tensor of scores that labels are the argmax of, upsampled first where it is smaller than the images."""

    name: str
    class_axis: int
    classes: int
    sides: tuple[int, int]
    aligned: bool = False

    @classmethod
    def of(cls, interface: Interface, name: str) -> Scores | None:
        """The network's output; ``None`` where that is labels."""
        if interface.kind == "labels":
            return None
        aligned = interface.upsampling == "align-corners"
        return cls(name, interface.class_axis, interface.shape[interface.class_axis], interface.coarse_size, aligned)


def step_back(graph: Graph, scores: Scores | None, size: tuple[int, int]) -> Scores | None:
    """The scores that the network's own last operators make its output of, as far as labels stay the same.

    An argmax, a softmax over the classes, a transposition and a last bilinear upsampling are left to the engine's form.
    """
    if scores is None:
        return None
    while (before := _before(graph, scores, size)) is not None:
        scores = before
    return scores


def _before(graph: Graph, scores: Scores, size: tuple[int, int]) -> Scores | None:
    node = graph.producer.get(scores.name)
    if node is None:
        return None
    source = node.input[0]
    if node.op_type == "Identity":
        return replace(scores, name=source)
    if node.op_type in _MONOTONIC and scores.sides == size and attribute(node, "axis", -1) % 4 == scores.class_axis:
        return replace(scores, name=source)
    if node.op_type == "Transpose":
        axis = {(0, 2, 3, 1): 3, (0, 3, 1, 2): 1}.get(tuple(attribute(node, "perm", ())))
        return replace(scores, name=source, class_axis=4 - axis) if axis == scores.class_axis else None
    if node.op_type == "Resize" and scores.class_axis == 1 and scores.sides == size:
        sides = upsampled_sides(graph, node)
        return replace(scores, name=source, sides=sides) if sides else None
    return None


def upsampled_sides(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Height and width of what a Resize upsamples bilinearly by one even factor, half-pixel centers; else ``None``."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    modes = attribute(node, "mode", b"nearest"), attribute(node, "coordinate_transformation_mode", b"half_pixel")
    if modes[0] != b"linear" or modes[1] not in (b"half_pixel", b"pytorch_half_pixel"):
        return None
    if before is None or after is None or len(before) != 4:
        return None
    given, made = _fixed(before[1:]), _fixed(after[1:])
    if given is None or made is None:
        return None
    (channels, h, w), (same, height, width) = given, made
    if channels != same or height % h or height // h * w != width or (height // h) % 2:
        return None
    factors = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if factors is not None and factors.size and [*factors] != [1, 1, height // h, width // w]:
        return None
    return h, w


def _fixed(shape: tuple[int | None, ...]) -> list[int] | None:
    """The sides of a shape, ``None`` where one of them is open."""
    sides = [side for side in shape if side is not None]
    return sides if len(sides) == len(shape) else None
