"""ONNX graphs: which files are taken, who makes and who reads a tensor, what its type and value are.

Whole-graph work is done by the passes of ``onnx_ir`` and the constant folding of ``onnxscript``. The currency is
``onnx.ModelProto``, which ONNX Runtime's quantizer, the checker and the shape inference of ``onnx`` speak.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.errors import FptkError, InputError, missing_package

if TYPE_CHECKING:
    import onnx

COMPUTE_OPS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that do nearly all of the arithmetic: those that int8 and float16 are for."""

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear")

_INTEGER_OPS = frozenset({*QUANTIZED_OPS, "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_MOVES_DATA = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_NO_LIMIT = 2**62

Node = Any
"""``onnx.NodeProto``: onnx is imported where it is used, so that a device without it can run engines."""

TensorType = tuple[int, tuple[int | None, ...] | None]
"""``onnx.TensorProto`` data type and shape: ``None`` for an open dimension, or for an unknown rank."""


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; every node gets a name of its own.

    Raises:
        InputError: the file is missing, damaged or without nodes, or ``onnx`` is not installed.
    """
    _package("onnx")
    import onnx

    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist")
    try:
        model = onnx.load(str(path))
        names = [node.name for node in model.graph.node]
        if len(set(names) - {""}) < len(names):
            apply(model, common_passes().NameFixPass(_NamesByOperator()))
    except FptkError:
        raise
    except Exception as error:  # onnx raises protobuf and bare errors alike for a damaged file
        raise _unreadable(path, str(error).splitlines()[0]) from error
    if not names:
        raise _unreadable(path, "it has no nodes")
    return model


def load_float_model(path: Path) -> onnx.ModelProto:
    """Read a float ONNX model: nodes named, tensors typed, and a constant wherever nothing depends on the input.

    A product of two weights that is left in the graph would be taken for a layer and rounded once as one, and once more
    as the weight of the next.

    Raises:
        InputError: the file is missing, damaged, or already quantized.
    """
    model = load_model(path)
    import onnx

    try:
        onnx.checker.check_model(model)
        infer_types(model)
    except Exception as error:  # as above
        raise _unreadable(path, str(error).splitlines()[0]) from error
    refuse_quantized(model, str(path))
    fold_constants(model)
    return model


def fold_constants(model: onnx.ModelProto) -> None:
    """Make a constant of every tensor that does not depend on the input, in place.

    Raises:
        InputError: ``onnx_ir`` or ``onnxscript`` is not installed.
    """
    passes, fold = common_passes(), _package("onnxscript.optimizer").fold_constants
    apply(
        model,
        partial(fold, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
    )


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a readable ONNX model: {why}")


class _NamesByOperator:
    """Names for what has none, before they are made unique: ``Conv``, ``Conv_1``."""

    def generate_node_name(self, node: Any) -> str:
        return str(node.name or node.op_type)

    def generate_value_name(self, value: Any) -> str:
        return str(value.name or "tensor")


def common_passes() -> Any:
    """The module of passes that ``onnx_ir`` brings.

    Raises:
        InputError: it is not installed.
    """
    return _package("onnx_ir.passes.common")


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_package(error.name or name, "export") from None


def apply(model: onnx.ModelProto, *passes: Callable[[Any], Any]) -> None:
    """Run passes of ``onnx_ir``, each of which changes an ``onnx_ir.Model`` in place, over ``model``, in place."""
    onnx_ir = _package("onnx_ir")
    graph = onnx_ir.from_proto(model)
    for each in passes:
        each(graph)
    model.CopyFrom(onnx_ir.to_proto(graph))


def infer_types(model: onnx.ModelProto) -> None:
    """Note the types and shapes of all tensors, in place.

    Not by ``onnx_ir``'s pass: it writes a traceback to the log where a file cannot be inferred.

    Raises:
        Exception: what ``onnx`` raises for types that contradict each other.
    """
    import onnx

    model.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))


def open_session(
    model: onnx.ModelProto, outputs: Sequence[str], *, float_only: bool = False, arena: bool = True
) -> Any:
    """An ONNX Runtime session on the CPU that computes the tensors ``outputs`` of ``model`` and nothing else.

    Args:
        model: any model; it is not changed.
        outputs: names of tensors in the graph.
        float_only, arena: as for :func:`fptk.calibration.onnx_cpu.open_cpu_session`.
    """
    from onnx import ModelProto, ValueInfoProto

    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return open_cpu_session(probe.SerializeToString(), float_only=float_only, arena=arena)


def refuse_quantized(model: onnx.ModelProto, name: str) -> None:
    """Check that no layer is int8 yet: quantizing twice would calibrate on rounded activations.

    Raises:
        InputError: the model holds Q/DQ or integer operators.
    """
    for node in model.graph.node:
        if node.op_type in _INTEGER_OPS:
            raise InputError(f"{name} is already quantised (it holds {node.op_type}); quantise the float model instead")


class Graph:
    """An ONNX model with the lookups that reading and rewriting it needs.

    Args:
        model: ``onnx.ModelProto``. The lookups tell of it as it was when they were first used.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[Node] = list(model.graph.node)
        self.producer: dict[str, Node] = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[Node]] = defaultdict(list)
        """Nodes that read a tensor, each as often as it does."""
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)
        self.initializers = {entry.name: entry for entry in model.graph.initializer}

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        return max(versions, default=0)

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Element type and shape of every tensor that the file or inference knows them of."""
        known = self._noted(self.model)
        if not all(name in known for name in self.producer):
            copy = type(self.model)()
            copy.CopyFrom(self.model)
            try:
                infer_types(copy)
            except Exception:  # inference is a help here: a file it refuses is still read node by node
                return known
            known = self._noted(copy)
        return known

    def _noted(self, model: onnx.ModelProto) -> dict[str, TensorType]:
        found: dict[str, TensorType] = {
            name: (entry.data_type, tuple(entry.dims)) for name, entry in self.initializers.items()
        }
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
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
        """Value of an initializer or ``Constant`` node, ``None`` where ``name`` is computed."""
        from onnx import numpy_helper

        entry = self.initializers.get(name)
        if entry is None and name in self.producer and self.producer[name].op_type == "Constant":
            entry = attribute(self.producer[name], "value")
        return None if entry is None else np.asarray(numpy_helper.to_array(entry))

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

    def is_dequantized(self, name: str) -> bool:
        """Whether a tensor comes from a DequantizeLinear, directly or through nodes that only move data."""
        node = self.producer.get(name)
        while node is not None and node.op_type in _MOVES_DATA:
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

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

    def add_constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Put a constant into the model; its name is like ``name``, and new."""
        from onnx import numpy_helper

        name = self.fresh(name)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def replace_nodes(self, nodes: Iterable[Node]) -> None:
        """Give the model these nodes instead of its own, in any order, and remove what no output needs.

        The lookups are out of date after this.
        """
        passes, nodes = common_passes(), list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        apply(self.model, passes.TopologicalSortPass(), passes.RemoveUnusedNodesPass())


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Value of an attribute of ``node``."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def quantizable_nodes(model: onnx.ModelProto, op_types: Sequence[str] = COMPUTE_OPS) -> list[onnx.NodeProto]:
    """The nodes of ``op_types`` with float32 data input, in graph order."""
    floats = float_tensors(model)
    return [node for node in model.graph.node if node.op_type in op_types and node.input[0] in floats]


def activation_products(graph: Graph) -> list[str]:
    """Names of the MatMul nodes that multiply two activations: an attention's scores, and its scores by its values."""
    return [
        node.name
        for node in graph.nodes
        if node.op_type == "MatMul" and not any(graph.is_constant(name) for name in node.input)
    ]


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 activations (not the constants)."""
    from onnx import TensorProto

    graph = Graph(model)
    return {name for name, (kind, _) in graph.types.items() if kind == TensorProto.FLOAT} - set(graph.initializers)


def node_group(node: onnx.NodeProto) -> str:
    """The module that a node was exported from, e.g. ``encoder.stages.2``; its own name where the exporter left none.

    torch's exporter writes the module path of each node into its metadata (``pkg.torch.onnx.name_scopes``).
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"[]") for part in entry.value.split(",")]
            # The last entry is the operator itself, the ones before it are the modules from the outside in.
            modules: list[str] = [scope for scope in scopes[:-1] if scope]
            if modules:
                return modules[-1]
    return str(node.name)


def image_dependent_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors with a dimension that is neither fixed nor one of the inputs': it depends on the pixels."""
    given = {dim.dim_param for info in model.graph.input for dim in info.type.tensor_type.shape.dim}
    return {
        info.name
        for info in model.graph.value_info
        if any(not dim.HasField("dim_value") and dim.dim_param not in given for dim in info.type.tensor_type.shape.dim)
    }


def logits_tensor(model: onnx.ModelProto) -> str:
    """Name of the float tensor that the label map is decided from: the nearest one upstream of the first output.

    Tensors whose shape depends on the image, such as the logits between those pixels whose labels differ, are passed
    over: they hold other pixels after quantization, and cannot be compared.

    Raises:
        InputError: the output does not depend on any float tensor.
    """
    floats = float_tensors(model) - image_dependent_tensors(model)
    producer = Graph(model).producer
    frontier: list[str] = [model.graph.output[0].name]
    seen: set[str] = set()
    while frontier:
        name = frontier.pop(0)
        if name in floats:
            return name
        seen.add(name)
        if name in producer:
            frontier.extend(source for source in producer[name].input if source and source not in seen)
    raise InputError(f"output '{model.graph.output[0].name}' does not depend on a float tensor: no logits to compare")
