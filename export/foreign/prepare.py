"""A foreign network made ready for rewrites and engines: one batch, one size, one output, nothing left to compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fptk.calibration.onnx_graph import Graph, fold_constants, infer_types
from fptk.core.errors import InputError
from fptk.export.foreign.file import Interface

if TYPE_CHECKING:
    import onnx

LOWEST = 13
"""Opset of the operators that fptk adds: their axes are inputs."""


def prepare(path: Path, model: onnx.ModelProto, interface: Interface, batch: int | None) -> onnx.ModelProto:
    """A copy of the network for images of its size, with shapes inferred and constants folded.

    An old file is converted to the operators that fptk's own are written in. What exporters note about their own files
    and lines is left out.

    Args:
        path: named in errors.
        model: as read.
        interface: its size, and the one tensor that becomes its output.
        batch: N; ``None`` is open.

    Raises:
        InputError: the batch is fixed in the file and another is wanted, or the size does not go through the network.
    """
    from onnx import TensorProto, helper

    prepared = _converted(path, model)
    graph = prepared.graph
    _strip(prepared)
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    weights = {entry.name for entry in graph.initializer}
    images = next(value for value in graph.input if value.name not in weights)
    dims = images.type.tensor_type.shape.dim
    if batch != 1 and dims[0].HasField("dim_value"):
        raise InputError(f"{path} takes {dims[0].dim_value} image at a time; export it with an open batch")
    del graph.input[:]
    graph.input.append(images)
    shape = (3, *interface.size) if interface.layout == "NCHW" else (*interface.size, 3)
    for dim, side in zip(dims, (batch, *shape), strict=True):
        dim.Clear()
        if side is None:
            dim.dim_param = "batch"
        else:
            dim.dim_value = side
    del graph.output[:], graph.value_info[:]
    kind = TensorProto.FLOAT if interface.kind == "scores" else kinds[interface.output]
    graph.output.append(helper.make_tensor_value_info(interface.output, kind, None))
    try:
        infer_types(prepared)
        fold_constants(prepared)
        infer_types(prepared)
    except InputError:
        raise
    except Exception as error:  # onnx and onnxscript raise bare errors of several kinds
        raise InputError(
            f"{path} does not work out for images of {interface.size}: {str(error).splitlines()[0][:300]}"
        ) from error
    return prepared


def _converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model of opset :data:`LOWEST` or above."""
    from onnx import version_converter

    if Graph(model).opset < LOWEST:
        try:
            return version_converter.convert_version(model, LOWEST)
        except Exception as error:  # its C++ code raises bare errors
            raise InputError(
                f"{path} is of opset {Graph(model).opset} and does not convert to {LOWEST}: "
                f"{str(error).splitlines()[0][:300]}; export it again with opset {LOWEST} or above"
            ) from error
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _strip(model: onnx.ModelProto) -> None:
    """Remove what says where in whose files the network was written."""
    model.producer_name, model.producer_version, model.doc_string, model.domain = "fptk", "", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
