"""Reading an ONNX graph: who makes a tensor, who takes it, which type it has, what a constant holds."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.core.errors import InputError, missing_package

COMPUTE_OPS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that carry the arithmetic: those that INT8 and FP16 are for."""

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear")

Node = Any
"""``onnx.NodeProto``: onnx is imported where it is used, so that a device without it can run engines."""


class Graph:
    """An ONNX file with the lookups that a check needs.

    Args:
        model: ``onnx.ModelProto``; every node gets a name, ``OP_INDEX`` where the file has none.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Node] = list(model.graph.node)
        for index, node in enumerate(self.nodes):
            if not node.name:
                node.name = f"{node.op_type}_{index}"
        self.producer: dict[str, Node] = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)
        self.initializers = {entry.name: entry for entry in model.graph.initializer}

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Parse the file.

        Raises:
            InputError: it is missing or no ONNX file, or ``onnx`` is not installed.
        """
        try:
            import onnx
        except ImportError as error:
            raise missing_package("onnx", "export") from error
        try:
            model = onnx.load(str(path))
        except FileNotFoundError as error:
            raise InputError(f"ONNX file {path} (or its external weights) does not exist: {error}") from error
        except Exception as error:  # protobuf's decode errors share no public base
            raise InputError(f"{path} is no readable ONNX file: {error}") from error
        if not model.graph.node:
            raise InputError(f"{path} is no ONNX model: it has no nodes")
        return cls(model)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        return max(versions, default=0)

    @cached_property
    def _names(self) -> set[str]:
        graph = self.model.graph
        tensors = {name for node in self.nodes for name in (*node.input, *node.output)}
        return tensors | set(self.initializers) | {value.name for value in (*graph.input, *graph.output)}

    def fresh(self, name: str) -> str:
        """A tensor name like ``name`` that the file has not used and that is not given out again."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    @cached_property
    def types(self) -> dict[str, tuple[int, tuple[int | None, ...] | None]]:
        """Element type and shape (``None`` for an open dimension, or for an unknown rank) of every typed tensor."""
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except Exception:  # inference is a help here: a file it refuses is still checked node by node
            graph = self.model.graph
        known = {name: (entry.data_type, tuple(entry.dims)) for name, entry in self.initializers.items()}
        found: dict[str, tuple[int, tuple[int | None, ...] | None]] = {**known}
        for value in [*graph.input, *graph.output, *graph.value_info]:
            tensor = value.type.tensor_type
            shape = None
            if tensor.HasField("shape"):
                shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
            found[value.name] = (tensor.elem_type, shape)
        return found

    def element_type(self, name: str) -> int | None:
        """``onnx.TensorProto`` data type of a tensor, ``None`` where inference could not tell."""
        entry = self.types.get(name)
        return entry[0] if entry else None

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a tensor, ``None`` where inference could not tell."""
        entry = self.types.get(name)
        return entry[1] if entry else None

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Value of an initialiser or ``Constant`` node, ``None`` where ``name`` is computed."""
        import onnx

        if name in self.initializers:
            return np.asarray(onnx.numpy_helper.to_array(self.initializers[name]))
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return np.asarray(onnx.numpy_helper.to_array(attribute.t))
        return None

    @cached_property
    def _known(self) -> frozenset[str]:
        known = set(self.initializers)
        for node in self.nodes:  # ONNX files list their nodes in topological order
            if all(name in known for name in node.input if name):
                known.update(node.output)
        return frozenset(known)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known when the engine is built, through any chain of nodes of the file."""
        return name in self._known


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Value of an attribute of ``node``."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def activation_products(graph: Graph) -> list[str]:
    """Names of the MatMul nodes that multiply two activations: an attention's scores, and its scores by its values."""
    return [
        node.name
        for node in graph.nodes
        if node.op_type == "MatMul" and not any(graph.is_constant(name) for name in node.input)
    ]


def is_dequantized(graph: Graph, name: str) -> bool:
    """Whether a tensor comes from a DequantizeLinear, directly or through nodes that only move data."""
    node = graph.producer.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
