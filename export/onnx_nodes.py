"""The nodes of an ONNX Runtime session: their times from its trace, their tensors from the graph that really runs."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from fptk.benchmarks.profile import NodeTime, Tensor, median_times
from fptk.export.onnx_external import fields

TYPES = {
    1: ("float", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4),
    7: ("int64", 8), 9: ("bool", 1), 10: ("float16", 2), 11: ("double", 8), 12: ("uint32", 4), 13: ("uint64", 8),
    16: ("bfloat16", 2),
}  # fmt: skip
"""ONNX Runtime's word for a type of ONNX, and the bytes of an element, by the type's number in a file."""

ITEMSIZES = dict(TYPES.values())


def traced_nodes(trace: Path, optimized: Path) -> list[NodeTime]:
    """Nodes of a profiled session, in the order in which they ran, each with its median time and its tensors.

    The package ``onnx`` is not needed: a device that runs a bundle has ONNX Runtime without it.

    Args:
        trace: JSON file of node timings of several inferences; the first is left out, since it plans memory.
        optimized: the graph after ONNX Runtime's own fusions, as it saved it.
    """
    runs = _runs(json.loads(trace.read_text(encoding="utf-8")))
    nodes = median_times([_node_time(event) for event in run] for run in runs[1:])
    results = {_name(event): event["args"].get("output_type_shape", []) for event in runs[-1]}
    return _with_tensors(nodes, results, _Graph(optimized))


class _Graph:
    """What an ONNX file says of its nodes and weights.

    Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
    """

    def __init__(self, path: Path) -> None:
        model = _Message(memoryview(path.read_bytes()))
        graph = model.messages(7)[0]
        nodes = graph.messages(1)
        self.names, self.types = [node.text(3) for node in nodes], [node.text(4) for node in nodes]
        self.ends = [tuple([each for each in node.texts(side) if each] for side in (1, 2)) for node in nodes]
        """Names of what each node reads, and of what it writes."""
        self.weights = [
            _tensor(weight.text(8), *TYPES.get(weight.numbers(2)[0], ("unknown", 4)), weight.numbers(1), constant=True)
            for weight in graph.messages(5)
        ]
        self.inputs = [self._input(entry) for entry in graph.messages(11)]

    @staticmethod
    def _input(entry: _Message) -> Tensor:
        kind = entry.messages(2)[0].messages(1)[0]
        sides = [side.numbers(1) for shape in kind.messages(2) for side in shape.messages(1)]
        shape = [side[0] for side in sides] if all(sides) else None
        return _tensor(entry.text(1), *TYPES.get(kind.numbers(1)[0], ("unknown", 4)), shape)


class _Message:
    """The fields of a protobuf message, by number."""

    def __init__(self, content: memoryview) -> None:
        self._fields: dict[int, list[memoryview | int]] = defaultdict(list)
        for number, value in fields(content):
            self._fields[number].append(value)

    def numbers(self, number: int) -> list[int]:
        return [value for value in self._fields[number] if isinstance(value, int)]

    def messages(self, number: int) -> list[_Message]:
        return [_Message(value) for value in self._fields[number] if not isinstance(value, int)]

    def texts(self, number: int) -> list[str]:
        return [bytes(value).decode() for value in self._fields[number] if not isinstance(value, int)]

    def text(self, number: int) -> str:
        return next(iter(self.texts(number)), "")


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
    nodes: list[NodeTime], results: dict[str, list[dict[str, list[int]]]], graph: _Graph
) -> list[NodeTime]:
    """Nodes with what they read and write.

    The trace tells type and shape of every result, but no name, and nothing of a weight that a kernel keeps in a packed
    form. The graph has names and weights, and no shapes.
    """
    known = {tensor.name: tensor for tensor in (*graph.weights, *graph.inputs)}
    by_name = dict(zip(graph.names, graph.ends, strict=True))
    # A node without a name has one in the trace that the graph doesn't know; nodes run in the graph's order.
    in_order = [node.type for node in nodes] == graph.types
    found = []
    for place, node in enumerate(nodes):
        read, written = graph.ends[place] if in_order else by_name.get(node.name, ([], []))
        reads = [known[name] for name in dict.fromkeys(read) if name in known]
        # Weights that are dequantized in each inference stay weights.
        constant = bool(reads) and all(tensor.constant for tensor in reads)
        writes = []
        for name, result in zip(written, results.get(node.name, []), strict=False):
            dtype, shape = next(iter(result.items()))
            writes.append(_tensor(name, dtype, ITEMSIZES.get(dtype, 4), shape, constant=constant))
        known |= {tensor.name: tensor for tensor in writes}
        found.append(replace(node, reads=tuple(reads), writes=tuple(writes)))
    return found


def _tensor(name: str, dtype: str, itemsize: int, shape: list[int] | None, *, constant: bool = False) -> Tensor:
    return Tensor(name, dtype, itemsize, None if shape is None else tuple(shape), constant)
