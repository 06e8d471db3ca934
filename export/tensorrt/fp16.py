"""FP16 by conversion of the ONNX file: strongly typed networks take their arithmetic from the graph alone.

Layers that sum many values (LayerNormalization, Softmax, means over the image) stay float32 where the measured range
says that a sum in half precision overflows or loses its digits, and all of them do where nothing was measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fptk.calibration.images import ImageStream
from fptk.calibration.onnx_graph import (
    QUANTIZED_OPS,
    Graph,
    Node,
    apply,
    attribute,
    common_passes,
    float_tensors,
    load_float_model,
    load_model,
)
from fptk.calibration.range_cache import Range
from fptk.calibration.ranges import measure_ranges
from fptk.calibration.report import FloatLayer
from fptk.core.dataset import UInt8Array
from fptk.core.files import atomic_file

if TYPE_CHECKING:
    import onnx

FP16_MAX = 65504.0
"""Largest finite float16 (IEEE 754-2019, binary16)."""
FP16_MIN = np.float16(2**-24)
"""Smallest positive float16. A scale below it would become 0, which no engine takes."""
HEADROOM = 4.0
"""A value seen in calibration may be this much larger in use before it overflows."""
SOFTMAX_RANGE = 64.0
"""Above this the spacing of float16 is 1/16 or more: a score rounded there moves its weight by over 3 %."""
SOFTMAX_LENGTH = 2048
"""A half-precision sum of this many terms near each other rounds new terms away (11 bits of precision)."""
RANGE_IMAGES = 8
"""Calibration images that the range analysis reads."""

REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool")
SENSITIVE_OPS = ("LayerNormalization", "Softmax", *REDUCTIONS)
"""Operators that sum over a row or an image."""


@dataclass(frozen=True)
class Fp16Report:
    """What a conversion to FP16 left in float32.

    Attributes:
        converted: nodes that carry arithmetic and now run in float16.
        kept_float: nodes that stay float32, each with its reason.
        images: calibration images behind the range analysis; 0 where there was none.
    """

    converted: int
    kept_float: tuple[FloatLayer, ...]
    images: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        kept = [layer.model_dump() for layer in self.kept_float]
        return {"fp16_nodes": self.converted, "kept_float": kept, "range_images": self.images}


def convert_to_fp16(
    source: Path, destination: Path, images: ImageStream | None = None, *, quantized: Path | None = None
) -> Fp16Report:
    """Write ``destination``, the FP16 form of the float32 ONNX file ``source``; input and output keep their types.

    Args:
        source: float32 ONNX, input uint8 (N, H, W, 3), output uint8 (N, H, W).
        destination: file to write, whole or not at all.
        images: starts a pass over calibration images, uint8 (1, H, W, 3) each; the first :data:`RANGE_IMAGES` are read.
        quantized: the INT8 form of ``source``; where given, it is what is converted, its Q/DQ scales included, by the
            ranges of ``source``.

    Raises:
        InputError: ``source`` is missing, damaged or quantized, or ``onnx`` is not installed.
    """
    import onnx

    model = load_float_model(source)
    graph = Graph(model)
    ranges: dict[str, Range] = {}
    count = 0
    if images is not None:
        tensors = sorted(float_tensors(model) & set(graph.producer))
        table = measure_ranges(model, tensors, _first(images))
        ranges, count = table.ranges, table.images
    kept = choose_float_nodes(graph, ranges)
    if quantized is not None:
        model = load_model(quantized)
    half = fp16_model(model, {layer.name for layer in kept})
    onnx.checker.check_model(half, full_check=True)
    with atomic_file(destination) as temporary:
        temporary.write_bytes(half.SerializeToString())
    return Fp16Report(_count_fp16(half), tuple(kept), count)


def _first(images: ImageStream) -> ImageStream:
    def start() -> Iterable[UInt8Array]:
        return itertools.islice(images(), RANGE_IMAGES)

    return start


def choose_float_nodes(graph: Graph, ranges: dict[str, Range]) -> list[FloatLayer]:
    """Nodes that must stay float32, with the reason.

    Args:
        graph: the float32 model with inferred shapes.
        ranges: (low, high) seen of each activation; empty keeps every operator of :data:`SENSITIVE_OPS`.
    """
    chosen = []
    for node in graph.nodes:
        reason = _overflow(graph, node, ranges)
        if not reason and node.op_type in SENSITIVE_OPS:
            reason = _lost_digits(graph, node, ranges) if ranges else "it sums many values and no range was measured"
        if reason:
            chosen.append(FloatLayer(name=node.name, op_type=node.op_type, reason=reason))
    return chosen


def _overflow(graph: Graph, node: Node, ranges: dict[str, Range]) -> str:
    """Why an input or output of the node doesn't fit float16, if it does not."""
    for name in (*node.input, *node.output):
        largest = _largest(ranges, name)
        if largest * HEADROOM > FP16_MAX:
            return f"'{name}' reaches {largest:.4g}, within a factor {HEADROOM:g} of float16's {FP16_MAX:g}"
        if name in graph.initializers:
            value = graph.constant(name)
            if value is not None and value.dtype == np.float32 and value.size and np.abs(value).max() > FP16_MAX:
                return f"constant '{name}' holds {np.abs(value).max():.4g}, beyond float16's {FP16_MAX:g}"
    return ""


def _lost_digits(graph: Graph, node: Node, ranges: dict[str, Range]) -> str:
    """Why the node's inner sum overflows or rounds in float16, if it does."""
    largest = _largest(ranges, node.input[0])
    length = _summed_length(graph, node)
    if node.op_type == "Softmax":
        if largest > SOFTMAX_RANGE:
            return f"scores reach {largest:.4g}; above {SOFTMAX_RANGE:g} float16 is too coarse for exp"
        if length > SOFTMAX_LENGTH:
            return f"rows of {length} terms; a float16 sum of over {SOFTMAX_LENGTH} rounds terms away"
        return ""
    squared = node.op_type in ("LayerNormalization", "ReduceL2", "ReduceSumSquare")
    total = length * (largest**2 if squared else largest)
    if total * HEADROOM > FP16_MAX:
        what = "squares" if squared else "terms"
        return f"a sum of {length} {what} up to {largest:.4g} may reach {total:.4g}, too close to {FP16_MAX:g}"
    if length > SOFTMAX_LENGTH:
        return f"a float16 sum of {length} terms rounds terms away"
    return ""


def _summed_length(graph: Graph, node: Node) -> int:
    """How many values the node sums into one; open dimensions count as 1."""
    shape = graph.shape(node.input[0])
    if shape is None:
        return SOFTMAX_LENGTH + 1
    rank = len(shape)
    if node.op_type == "GlobalAveragePool":
        axes = list(range(2, rank))
    elif node.op_type == "LayerNormalization":
        axes = list(range(attribute(node, "axis", -1) % rank, rank))
    elif node.op_type == "Softmax":
        axes = [attribute(node, "axis", -1) % rank]
    else:
        given = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        listed = given.tolist() if given is not None else attribute(node, "axes")
        axes = [axis % rank for axis in listed] if listed else list(range(rank))
    return math.prod(shape[axis] or 1 for axis in axes)


def _largest(ranges: dict[str, Range], name: str) -> float:
    low, high = ranges.get(name, (0.0, 0.0))
    return max(abs(low), abs(high))


def fp16_model(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """A copy of ``model`` whose nodes compute in float16, except those named in ``kept`` and their constants.

    A tensor has the type of the node that makes it; where a node takes another, one Cast stands between, shared by all
    takers. ``scales`` and ``roi`` of Resize stay float32, as its definition asks for ``scales``.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    apply(copy, common_passes().LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0))
    graph = Graph(copy)
    nodes = _Fp16Converter(graph, kept).convert()
    del copy.graph.value_info[:]  # it tells float32 of tensors that are float16 now
    graph.replace_nodes(nodes)
    return copy


class _Fp16Converter:
    def __init__(self, graph: Graph, kept: Collection[str]) -> None:
        self.graph = graph
        self.kept = kept
        self.constants: dict[str, str] = {}
        """Float16 form of constants."""
        self.nodes: list[Node] = []
        self.half: set[str] = set()
        """Activations that are float16 so far."""
        self.casts: dict[tuple[str, bool], str] = {}

    def convert(self) -> list[Node]:
        for node in self.graph.nodes:
            if node.name in self.kept:
                self._rewire(node, to_fp16=False)
            else:
                self._rewire(node, to_fp16=True)
                _retarget(node)
                self.half.update(name for name in node.output if self._is_float(name))
            self.nodes.append(node)
        self._restore_outputs()
        return self.nodes

    def _is_float(self, name: str) -> bool:
        import onnx

        return self.graph.element_type(name) == onnx.TensorProto.FLOAT

    def _rewire(self, node: Node, *, to_fp16: bool) -> None:
        """Point every input of the node at a tensor of the type that it computes in."""
        for index, name in enumerate(node.input):
            if name in self.graph.initializers:
                wanted = to_fp16 and self._is_float(name) and not (node.op_type == "Resize" and index in (1, 2))
                scale = node.op_type in QUANTIZED_OPS and index == 1
                node.input[index] = self._fp16_constant(name, scale=scale) if wanted else name
            elif name and node.op_type != "Cast" and self._is_float(name) and (name in self.half) != to_fp16:
                node.input[index] = self._cast(name, to_fp16=to_fp16)

    def _fp16_constant(self, name: str, *, scale: bool) -> str:
        if name not in self.constants:
            value = self.graph.constant(name)
            assert value is not None
            half = value.astype(np.float16)
            smallest = FP16_MIN if scale else -np.inf
            self.constants[name] = self.graph.add_constant(f"{name}_half", np.maximum(half, smallest))
        return self.constants[name]

    def _cast(self, name: str, *, to_fp16: bool) -> str:
        import onnx

        if (name, to_fp16) not in self.casts:
            kind = onnx.TensorProto.FLOAT16 if to_fp16 else onnx.TensorProto.FLOAT
            new = self.graph.fresh(f"{name}_{'half' if to_fp16 else 'float'}")
            self.nodes.append(onnx.helper.make_node("Cast", [name], [new], name=f"cast_{new}", to=kind))
            self.casts[(name, to_fp16)] = new
        return self.casts[(name, to_fp16)]

    def _restore_outputs(self) -> None:
        """Graph outputs keep their declared type: a float32 one is cast back under its own name."""
        import onnx

        for value in self.graph.model.graph.output:
            if value.name in self.half:
                inner = self.graph.fresh(f"{value.name}_before_cast")
                for node in self.nodes:
                    for names in (node.input, node.output):
                        for index, name in enumerate(names):
                            if name == value.name:
                                names[index] = inner
                self.nodes.append(
                    onnx.helper.make_node(
                        "Cast", [inner], [value.name], to=onnx.TensorProto.FLOAT, name=f"{inner}_cast"
                    )
                )


def _retarget(node: Node) -> None:
    """Let a node that names float32 in an attribute name float16."""
    import onnx

    for entry in node.attribute:
        if entry.name in ("to", "dtype") and entry.i == onnx.TensorProto.FLOAT:
            entry.i = onnx.TensorProto.FLOAT16
        elif entry.name == "value" and entry.t.data_type == onnx.TensorProto.FLOAT:
            value = onnx.numpy_helper.to_array(entry.t).astype(np.float16)
            entry.t.CopyFrom(onnx.numpy_helper.from_array(value))


def _count_fp16(model: onnx.ModelProto) -> int:
    import onnx

    graph = Graph(model)
    return sum(
        node.op_type != "Cast" and any(graph.element_type(name) == onnx.TensorProto.FLOAT16 for name in node.output)
        for node in graph.nodes
    )
