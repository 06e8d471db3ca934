"""The nodes of an engine of OpenVINO's CPU plugin, as its runtime model tells them: types, fused layers, tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from fptk.benchmarks.profile import NodeTime, Tensor

GENERATED = re.compile(r"([A-Za-z]+)(_\d+)+")
"""Names that the plugin gives to layers of its own: type and number."""

BF16_BYTES = 2


def runtime_nodes(compiled: Any, model: Any, times: Mapping[str, NodeTime]) -> list[NodeTime]:
    """Every node of a compiled model, each after those whose tensors it reads.

    A node that needed no work (a view, a reorder that the layout made needless) is there with ``ran=False``.

    Args:
        compiled: ``openvino.CompiledModel``.
        model: the ``openvino.Model`` that it was compiled from: its layers' types are looked up by name.
        times: what ran, by name.
    """
    types = {layer.get_friendly_name(): layer.get_type_name() for layer in model.get_ops()}
    constants: set[str] = set()
    nodes = []
    for layer in compiled.get_runtime_model().get_ordered_ops():
        name, info = layer.get_friendly_name(), _texts(layer)
        reads = tuple(_read(port, constants, info) for port in layer.inputs() if _filled(port))
        kind = info.get("layerType", "")
        constant = kind == "Const" or bool(reads and all(tensor.constant for tensor in reads))
        if constant:
            constants.add(name)
        if kind == "Output" or (constant and name not in times):
            continue
        fused = tuple(filter(None, (_type(each, types) for each in info.get("originalLayersNames", "").split(","))))
        writes = tuple(_tensor(port, f"{name}:{port.get_index()}", constant) for port in layer.outputs())
        ran = times.get(name) or NodeTime(name, kind, info.get("primitiveType", ""), 0.0, ran=False)
        nodes.append(NodeTime(name, ran.type, ran.kernel, ran.milliseconds, reads, writes, fused, ran.ran))
    listed = {node.name for node in nodes}
    return [*nodes, *(node for name, node in times.items() if name not in listed)]


def _texts(layer: Any) -> dict[str, str]:
    """What the runtime model notes about a node."""
    return {key: value.astype(str) if hasattr(value, "astype") else str(value) for key, value in layer.rt_info.items()}


def _filled(port: Any) -> bool:
    """Whether an input has anything in it: an absent bias is an empty tensor."""
    shape = port.get_partial_shape()
    return not (shape.is_static and math.prod(shape.to_shape()) == 0)


def _read(port: Any, constants: set[str], info: Mapping[str, str]) -> Tensor:
    """A tensor that a node reads.

    A weight is noted in the type that the file has; a node that computes in bf16 packs it in bf16.
    """
    source = port.get_source_output()
    writer = source.get_node().get_friendly_name()
    tensor = _tensor(port, f"{writer}:{source.get_index()}", writer in constants)
    if tensor.constant and tensor.dtype == "f32" and info.get("runtimePrecision") == "bf16":
        return Tensor(tensor.name, "bf16", BF16_BYTES, tensor.shape, constant=True)
    return tensor


def _tensor(port: Any, name: str, constant: bool) -> Tensor:
    kind, shape = port.get_element_type(), port.get_partial_shape()
    sides = tuple(shape.to_shape()) if shape.is_static else None
    return Tensor(name, kind.get_type_name(), max(1, kind.size), sides, constant)


def _type(name: str, types: Mapping[str, str]) -> str:
    """Type of a layer that was fused into a node; empty where its name doesn't tell.

    The plugin renames layers (``node_mul_10_1`` was ``node_mul_10``) and makes some of its own (``Softmax_10742``, and
    ``.../DequantizationMultiply`` after a layer whose input was quantized).
    """
    last = name.strip().rpartition("/")[2]
    if last.startswith("Dequantization"):
        return "Dequantization"
    if last.startswith("fq_"):
        return "FakeQuantize"
    for known in (name, re.sub(r"_\d+$", "", name)):
        if known in types:
            return types[known]
    generated = GENERATED.fullmatch(last)
    return generated[1] if generated else ""
