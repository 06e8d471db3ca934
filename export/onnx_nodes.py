"""The nodes of an ONNX Runtime session: their times from its trace, their tensors from the graph that really runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.benchmarks.profile import NodeTime, Tensor, median_times
from fptk.core.errors import missing_package

if TYPE_CHECKING:
    import onnx

ITEMSIZES = {
    "float": 4, "float16": 2, "bfloat16": 2, "double": 8, "bool": 1,
    "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
}  # fmt: skip
"""Bytes of an element, by ONNX Runtime's word for its type."""


def traced_nodes(trace: Path, optimized: Path) -> list[NodeTime]:
    """Nodes of a profiled session, in the order in which they ran, each with its median time and its tensors.

    Args:
        trace: JSON file of node timings of several inferences; the first is left out, since it plans memory.
        optimized: the graph after ONNX Runtime's own fusions, as it saved it.

    Raises:
        InputError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_package("onnx", "export") from error
    events = json.loads(trace.read_text(encoding="utf-8"))
    runs = _runs(events)
    nodes = median_times([_node_time(event) for event in run] for run in runs[1:])
    results = {_name(event): event["args"].get("output_type_shape", []) for event in runs[-1]}
    return _with_tensors(nodes, results, onnx.load(str(optimized)).graph)


def _name(event: dict[str, Any]) -> str:
    return str(event["name"]).removesuffix("_kernel_time")


def _runs(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The node events of the trace, one list per inference."""
    runs: list[list[dict[str, Any]]] = []
    seen: set[str] = set()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        if not runs or _name(event) in seen:
            runs.append([])
            seen = set()
        seen.add(_name(event))
        runs[-1].append(event)
    return runs


def _node_time(event: dict[str, Any]) -> NodeTime:
    return NodeTime(_name(event), event["args"]["op_name"], event["args"]["provider"], event["dur"] / 1e3)


def _with_tensors(
    nodes: list[NodeTime], results: dict[str, list[dict[str, list[int]]]], graph: onnx.GraphProto
) -> list[NodeTime]:
    """Nodes with what they read and write.

    The trace tells type and shape of every result, but no name, and nothing of a weight that a kernel keeps in a packed
    form. The graph has names and weights, and no shapes.
    """
    from dataclasses import replace

    from onnx import helper

    known: dict[str, Tensor] = {}
    for weight in graph.initializer:
        dtype = _word(helper.tensor_dtype_to_string(weight.data_type))
        known[weight.name] = _tensor(weight.name, dtype, tuple(weight.dims), constant=True)
    for entry in graph.input:
        kind = entry.type.tensor_type
        sides = tuple(side.dim_value for side in kind.shape.dim)
        dtype = _word(helper.tensor_dtype_to_string(kind.elem_type))
        known[entry.name] = _tensor(entry.name, dtype, sides if all(sides) else None)
    by_name = {node.name: node for node in graph.node}
    found = []
    for node in nodes:
        proto = by_name.get(node.name)
        if proto is None:
            found.append(node)
            continue
        written = zip((name for name in proto.output if name), results.get(node.name, []), strict=False)
        writes = tuple(_tensor(name, *next(iter(each.items()))) for name, each in written)
        reads = tuple(known[name] for name in dict.fromkeys(proto.input) if name in known)
        known |= {tensor.name: tensor for tensor in writes}
        found.append(replace(node, reads=reads, writes=writes))
    return found


def _tensor(name: str, dtype: str, shape: list[int] | tuple[int, ...] | None, *, constant: bool = False) -> Tensor:
    return Tensor(name, dtype, ITEMSIZES.get(dtype, 4), None if shape is None else tuple(shape), constant)


def _word(dtype: str) -> str:
    """ONNX Runtime's word for a type of ONNX, ``TensorProto.FLOAT``."""
    return dtype.rpartition(".")[2].lower()
