"""Proof from the build: which precision each convolution and matrix product of the engine really runs in.

Two sources give the same records: the ``Layers:`` block that a build with ``ProfilingVerbosity.DETAILED`` ends its
verbose log with (TensorRT-RTX, no GPU needed), and the JSON of ``EngineInspector`` (TensorRT, whose field
``Format/Datatype`` became ``Format`` and ``Datatype`` in 11.0; *Migrating IEngineInspector usage*).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fptk.calibration.onnx_graph import COMPUTE_OPS, Graph
from fptk.core.errors import GateRefusedError

INT8, HALF, FLOAT, OTHER = "Int8", "Half", "Float", "other"

_TYPES = (
    (INT8, re.compile(r"int8", re.IGNORECASE)),
    (HALF, re.compile(r"half|fp16|float16", re.IGNORECASE)),
    (FLOAT, re.compile(r"float|fp32|tf32", re.IGNORECASE)),
)
_ARITHMETIC = re.compile(r"correlation|conv|gemm|matmul|matrix_?multiply|mha|runtime_fusion", re.IGNORECASE)
_PLUMBING = re.compile(r"signal|wait|reformat|noop|shape|constant|kgen|pointwise", re.IGNORECASE)
_LINE = re.compile(r"^(?:\[[^\]]*\] )*Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), (?P<rest>Inputs: \[.*)$")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TENSOR = re.compile(r"\{ Name: .*?Dimensions: \[(?P<shape>[^\]]*)\].*?Datatype: (?P<type>\w+)")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: the engine's name of it.
        kind: the engine's layer type, e.g. ``correlation`` (a convolution), ``gemm``, ``kgen`` (generated kernel).
        operands: data types of the tensors that it multiplies (see :func:`_operands`).
        onnx_nodes: ONNX nodes that it computes, wholly or in part.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    onnx_nodes: tuple[str, ...]

    @property
    def precision(self) -> str:
        """``Int8``, ``Half`` or ``Float``: the widest type among the operands, which is what the arithmetic needs."""
        for kind in (FLOAT, HALF, INT8):
            if kind in self.operands:
                return kind
        return OTHER

    @property
    def is_arithmetic(self) -> bool:
        """Whether the layer type is one of a convolution or matrix product."""
        return bool(_ARITHMETIC.search(self.kind)) and not _PLUMBING.search(self.kind)


@dataclass(frozen=True)
class ComputeLayer:
    """An engine layer that carries convolutions or matrix products of the ONNX file."""

    name: str
    kind: str
    precision: str
    onnx_nodes: tuple[str, ...]
    """The Conv, ConvTranspose, MatMul and Gemm nodes among those it computes."""
    reason: str = ""
    """Why it does not run in INT8, where that was asked for."""


@dataclass(frozen=True)
class LayerReport:
    """How many convolution and matrix-product layers of an engine run in which precision."""

    layers: tuple[ComputeLayer, ...]
    absorbed: tuple[str, ...]
    """Conv, MatMul and Gemm nodes of the ONNX file that no layer names: folded into constants at build time."""

    @property
    def counts(self) -> dict[str, int]:
        """Layers by precision, e.g. ``{"Int8": 64}``."""
        return dict(Counter(layer.precision for layer in self.layers))

    @property
    def int8_share(self) -> float:
        """Layers in INT8 over all of them, 0-1; 0 where the engine has none."""
        return self.counts.get(INT8, 0) / len(self.layers) if self.layers else 0.0

    @property
    def summary(self) -> str:
        """One line, e.g. ``64 of 64 conv and gemm layers in Int8``."""
        counted = ", ".join(f"{count} in {precision}" for precision, count in sorted(self.counts.items()))
        return f"{len(self.layers)} conv and gemm layers: {counted or 'none'}"

    def as_dict(self) -> dict[str, Any]:
        """The figures and the layers outside INT8, for JSON."""
        return {
            "total": len(self.layers),
            "counts": self.counts,
            "int8_share": round(self.int8_share, 4),
            "absorbed": list(self.absorbed),
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "precision": layer.precision,
                    "onnx": list(layer.onnx_nodes),
                    "reason": layer.reason,
                }
                for layer in self.layers
            ],
        }

    def require_int8(self, share: float) -> None:
        """Refuse an engine that runs too much in float.

        Raises:
            GateRefusedError: fewer than ``share`` (0-1) of the layers run in INT8; names the first of the others. Also
                where the builder listed no layers, for then nothing is proven.
        """
        if not self.layers:
            raise GateRefusedError("the builder listed no conv or gemm layers, so that nothing proves the engine INT8")
        if self.int8_share >= share:
            return
        floats = [layer for layer in self.layers if layer.precision != INT8]
        named = "; ".join(f"{', '.join(layer.onnx_nodes)} ({layer.precision}: {layer.reason})" for layer in floats[:3])
        raise GateRefusedError(
            f"{len(self.layers) - len(floats)} of {len(self.layers)} conv and gemm layers run in INT8 "
            f"({self.int8_share:.0%}), {share:.0%} are asked for (min_int8_layers)"
            + (f"; in float: {named}" if named else "")
        )


def report_layers(engine: Sequence[EngineLayer], graph: Graph, *, int8: bool) -> LayerReport:
    """Join an engine's layers with the ONNX file that it was built from.

    A node may be named by several layers (its kernel and the generated kernels around it); the one whose type is
    arithmetic computes it.

    Args:
        engine: layers as parsed.
        graph: the ONNX file, quantized where ``int8`` is true.
        int8: whether layers outside INT8 need a reason.
    """
    wanted = {node.name: node for node in graph.nodes if node.op_type in COMPUTE_OPS}
    chosen: dict[str, EngineLayer] = {}
    for layer in sorted(engine, key=lambda layer: layer.is_arithmetic):
        chosen.update((name, layer) for name in layer.onnx_nodes if name in wanted)
    carried: dict[int, list[str]] = {}
    for name, layer in chosen.items():
        carried.setdefault(id(layer), []).append(name)
    layers = []
    for layer in engine:
        names = carried.get(id(layer))
        if names:
            reason = _why_not_int8(graph, [wanted[name] for name in names]) if int8 and layer.precision != INT8 else ""
            layers.append(ComputeLayer(layer.name, layer.kind, layer.precision, tuple(names), reason))
    return LayerReport(tuple(layers), tuple(name for name in wanted if name not in chosen))


def _why_not_int8(graph: Graph, nodes: Iterable[Any]) -> str:
    bare = [name for node in nodes for name in node.input[:2] if not graph.is_dequantized(name)]
    if bare:
        return f"no Q/DQ on {', '.join(dict.fromkeys(bare))}"
    return "its inputs are quantised, the builder found no INT8 kernel for it"


def parse_log(text: str) -> list[EngineLayer]:
    """Layers of the last ``Layers:`` block of a verbose build log; empty where there is none."""
    found: list[EngineLayer] = []
    inside = False
    for line in text.splitlines():
        if line.rstrip().endswith("Layers:"):
            found, inside = [], True
        elif inside:
            match = _LINE.match(line)
            if match is None:
                inside = False
            else:
                found.append(_from_line(match))
    return found


def _from_line(match: re.Match[str]) -> EngineLayer:
    inputs, _, rest = match["rest"].partition("], Constants: [")
    constants, _, tail = rest.partition("], Outputs: [")
    taken = [entry["type"] for entry in _TENSOR.finditer(inputs)]
    held = [(_sides(entry["shape"].split(",")), entry["type"]) for entry in _TENSOR.finditer(constants)]
    nodes = _ONNX_NODE.findall(tail.rpartition("Metadata:")[2])
    return EngineLayer(match["name"], match["kind"], _operands(taken, held), tuple(nodes))


def _sides(shape: Iterable[Any]) -> list[int]:
    """Sides longer than 1; an open one counts as 2."""
    sides = [int(side) if str(side).strip().isdigit() else 2 for side in shape]
    return [side for side in sides if side > 1]


def _operands(taken: Sequence[str], held: Sequence[tuple[list[int], str]]) -> tuple[str, ...]:
    """Types of what a layer multiplies: its first input with its weights, or all inputs where it holds no weights.

    Weights are the largest constant with two sides; scales and biases have one. With weights, further inputs are
    residuals that the kernel adds.
    """
    weights = [entry for entry in held if len(entry[0]) >= 2]
    if not weights:
        return tuple(_type(kind) for kind in taken)
    largest = max(weights, key=lambda entry: math.prod(entry[0]))
    return tuple(_type(kind) for kind in (*taken[:1], largest[1]))


def parse_inspector(text: str) -> list[EngineLayer]:
    """Layers of the JSON that ``EngineInspector.get_engine_information`` gives.

    Layers that were built without ``ProfilingVerbosity.DETAILED`` are bare names and are left out.

    Raises:
        ValueError: it is no such JSON.
    """
    content = json.loads(text)
    if not isinstance(content, Mapping) or "Layers" not in content:
        raise ValueError("the engine inspector's JSON has no field 'Layers'")
    return [_from_inspector(entry) for entry in content["Layers"] if isinstance(entry, Mapping)]


def _from_inspector(entry: Mapping[str, Any]) -> EngineLayer:
    taken = [_data_type(tensor) for tensor in entry.get("Inputs", ())]
    held = [
        (_sides(tensor.get("Dimensions", ())), _data_type(tensor))
        for tensor in entry.get("Constants", ())
        if isinstance(tensor, Mapping)
    ]
    weights = entry.get("Weights")
    if isinstance(weights, Mapping) and weights.get("Count"):
        held.append(([int(weights["Count"]), 2], str(weights.get("Type", ""))))
    nodes = _ONNX_NODE.findall(str(entry.get("Metadata", "")))
    kind = str(entry.get("LayerType", ""))
    return EngineLayer(str(entry.get("Name", "")), kind, _operands(taken, held), tuple(nodes))


def _data_type(tensor: Mapping[str, Any]) -> str:
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        if key in tensor:
            return str(tensor[key])
    return ""


def _type(text: str) -> str:
    for name, pattern in _TYPES:
        if pattern.search(text) and not re.search(r"uint8", text, re.IGNORECASE):
            return name
    return OTHER
