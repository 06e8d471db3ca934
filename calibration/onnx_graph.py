"""Reading an ONNX graph the way a quantiser needs it: which layers there are, what feeds them, what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.errors import InputError, missing_package

if TYPE_CHECKING:
    import onnx

QUANTIZABLE_OPS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that do nearly all of the arithmetic and have int8 kernels."""

_QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)


def load_float_model(path: Path) -> onnx.ModelProto:
    """Read a float ONNX model, with shapes inferred and every node named.

    Raises:
        InputError: the file is missing, damaged, or already quantised.
    """
    import_onnx()
    import onnx

    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    except Exception as error:  # onnx raises protobuf, checker and bare errors alike for a damaged file
        raise InputError(f"{path} is not a readable ONNX model: {str(error).splitlines()[0]}") from error
    refuse_quantized(model, str(path))
    _name_nodes(model)
    return fold_constants(model)


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace what does not depend on the input by constants, in place.

    A product of two weights that is left in the graph would be taken for a layer and rounded once as one, and once more
    as the weight of the next.
    """
    from onnx import ModelProto, numpy_helper

    fixed = {constant.name for constant in model.graph.initializer}
    foldable = []
    for node in model.graph.node:
        if all(name in fixed or not name for name in node.input) and not node.op_type.startswith("Random"):
            foldable.append(node)
            fixed.update(node.output)
    if not foldable:
        return model
    kept = [node for node in model.graph.node if node.name not in {folded.name for folded in foldable}]
    made = {name for node in foldable for name in node.output}
    needed = [name for name in dict.fromkeys(name for node in kept for name in node.input) if name in made]
    part = ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:]
    part.graph.node.extend(foldable)
    values = open_session(part, needed).run(needed, {}) if needed else []
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in zip(needed, values, strict=True)
    )
    drop_unused_constants(model)
    return model


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove, in place, the constants that no node reads."""
    read = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    used = [constant for constant in model.graph.initializer if constant.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)


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
    """Check that no layer is int8 yet: quantising twice would calibrate on rounded activations.

    Raises:
        InputError: the model holds Q/DQ or integer operators.
    """
    for node in model.graph.node:
        if node.op_type in _QUANTIZED_OPS:
            raise InputError(f"{name} is already quantised (it holds {node.op_type}); quantise the float model instead")


def quantizable_nodes(model: onnx.ModelProto, op_types: Sequence[str] = QUANTIZABLE_OPS) -> list[onnx.NodeProto]:
    """The nodes of ``op_types`` with float32 data input, in graph order."""
    floats = float_tensors(model)
    return [node for node in model.graph.node if node.op_type in op_types and node.input[0] in floats]


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 activations (not the constants)."""
    from onnx import TensorProto

    graph = model.graph
    return {
        info.name
        for infos in (graph.value_info, graph.output, graph.input)
        for info in infos
        if info.type.tensor_type.elem_type == TensorProto.FLOAT
    } - {constant.name for constant in graph.initializer}


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
    over: they hold other pixels after quantisation, and cannot be compared.

    Raises:
        InputError: the output does not depend on any float tensor.
    """
    floats: set[str] = float_tensors(model) - image_dependent_tensors(model)
    producers: dict[str, onnx.NodeProto] = {name: node for node in model.graph.node for name in node.output}
    frontier: list[str] = [model.graph.output[0].name]
    seen: set[str] = set()
    while frontier:
        name: str = frontier.pop(0)
        if name in floats:
            return name
        seen.add(name)
        if name in producers:
            frontier.extend(source for source in producers[name].input if source and source not in seen)
    raise InputError(f"output '{model.graph.output[0].name}' does not depend on a float tensor: no logits to compare")


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)


def import_onnx() -> None:
    """Import the package onnx.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise missing_package("onnx", "export") from None
