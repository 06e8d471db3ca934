"""Rewrites what TensorRT has no kernels for into what it has, without changing what the graph computes.

**uint8 arithmetic** becomes float32 or int32; images and labels stay uint8 at the graph's ends. Other engines run
faster when the image is transposed as bytes or labels are compared as bytes, so the export may do so. TensorRT takes
uint8 in a Cast only (*TensorRT: Data Types*), and fuses that Cast with what follows.

**Transposed convolutions** run in float even behind Q/DQ (TensorRT-RTX 1.7, built and listed). One whose kernel is its
stride writes every output pixel once: it is a 1x1 convolution to k·k times the channels and a DepthToSpace, which do
run in INT8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fptk.calibration.onnx_graph import QUANTIZED_OPS, Graph, Node, attribute

if TYPE_CHECKING:
    import onnx

TAKES_UINT8 = ("Cast", "Identity", *QUANTIZED_OPS)
"""Operators that TensorRT takes on a uint8 tensor."""


def lower_uint8(model: onnx.ModelProto) -> list[str]:
    """Rewrite ``model`` in place so that only Casts at its ends touch uint8; the labels it gives stay the same.

    What comes from a uint8 input becomes float32 (it holds 0-255 exactly), every other uint8 tensor int32.

    Returns:
        Names of the nodes that computed in uint8; empty where there was nothing to do.
    """
    graph = Graph(model)
    found = [node.name for node in graph.nodes if node.op_type not in TAKES_UINT8 and _takes_uint8(graph, node)]
    if found:
        _Lowering(graph).run()
    return found


def _is_uint8(graph: Graph, name: str) -> bool:
    import onnx

    return graph.element_type(name) == onnx.TensorProto.UINT8


def _takes_uint8(graph: Graph, node: Node) -> bool:
    return any(_is_uint8(graph, name) for name in node.input if name)


def lower_transposed(model: onnx.ModelProto) -> list[str]:
    """Rewrite in place every ConvTranspose whose kernel is its stride as Conv 1x1 and DepthToSpace.

    The Conv takes over the node's name. ``weight[c k k + i k + j, d] = transposed[d, c, i, j]``: the order of channels
    that DepthToSpace's mode ``CRD`` takes apart.

    Returns:
        Names of the nodes rewritten.
    """
    graph = Graph(model)
    nodes: list[Node] = []
    found = []
    for node in graph.nodes:
        factor = _upsampling_factor(graph, node) if node.op_type == "ConvTranspose" else None
        if factor is None:
            nodes.append(node)
        else:
            nodes += _as_shuffled_conv(graph, node, factor)
            found.append(node.name)
    if found:
        graph.replace_nodes(nodes)
    return found


def _upsampling_factor(graph: Graph, node: Node) -> int | None:
    """k where the node is a k x k transposed convolution with stride k and nothing else to it."""
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32 or weight.shape[2] != weight.shape[3]:
        return None
    if len(node.input) > 2 and node.input[2] and graph.constant(node.input[2]) is None:
        return None
    size = int(weight.shape[2])
    plain = (
        list(attribute(node, "strides", [1, 1])) == [size, size]
        and not any(attribute(node, "pads", []))
        and not any(attribute(node, "output_padding", []))
        and list(attribute(node, "dilations", [1, 1])) == [1, 1]
        and attribute(node, "group", 1) == 1
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and not attribute(node, "output_shape", [])
    )
    return size if plain else None


def _as_shuffled_conv(graph: Graph, node: Node, factor: int) -> list[Node]:
    from onnx import helper

    weight = graph.constant(node.input[1])
    assert weight is not None
    inputs, outputs = weight.shape[:2]
    dense_weight = weight.transpose(1, 2, 3, 0).reshape(outputs * factor**2, inputs, 1, 1)
    constants = [graph.add_constant(f"{node.name}_weight", dense_weight)]
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is not None:
        constants.append(graph.add_constant(f"{node.name}_bias", np.repeat(bias, factor**2)))
    dense = graph.fresh(f"{node.name}_dense")
    return [
        helper.make_node("Conv", [node.input[0], *constants], [dense], name=node.name),
        helper.make_node(
            "DepthToSpace", [dense], list(node.output), name=f"{node.name}_shuffle", blocksize=factor, mode="CRD"
        ),
    ]


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        import onnx

        self.graph = graph
        self.outputs = {value.name for value in graph.model.graph.output}
        self.wide: dict[str, int] = {}
        """Tensors that were uint8, with their new type."""
        self.renamed: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.constants: dict[tuple[str, int], str] = {}
        self.float = int(onnx.TensorProto.FLOAT)
        self.int32 = int(onnx.TensorProto.INT32)

    def run(self) -> None:
        for value in self.graph.model.graph.input:
            if _is_uint8(self.graph, value.name):
                self._open(value.name)
        for node in self.graph.nodes:
            self._lower(node)
        del self.graph.model.graph.value_info[:]  # it tells of uint8 tensors that are no more
        self.graph.replace_nodes(self.nodes)

    def _open(self, name: str) -> None:
        """Cast a uint8 input to float32 before anything else."""
        wide = self.graph.fresh(f"{name}_float")
        self._cast(name, wide, self.float)
        self.renamed[name] = wide
        self.wide[wide] = self.float

    def _cast(self, source: str, destination: str, kind: int) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node("Cast", [source], [destination], name=f"cast_{destination}", to=kind))

    def _lower(self, node: Node) -> None:
        narrow = [name for name in node.output if name and _is_uint8(self.graph, name)]
        if node.op_type == "Cast" and narrow and narrow[0] in self.outputs and not self.graph.consumers[narrow[0]]:
            self._rename_inputs(node, self.int32)
            self.nodes.append(node)  # a Cast at the output's end is what TensorRT wants
            return
        from_image = any(self.wide.get(self.renamed.get(name, name)) == self.float for name in node.input)
        kind = self.float if from_image else self.int32
        self._rename_inputs(node, kind)
        self.nodes.append(node)
        for name in narrow:
            self._widen(node, name, kind)

    def _rename_inputs(self, node: Node, kind: int) -> None:
        for index, name in enumerate(node.input):
            if name in self.graph.initializers and _is_uint8(self.graph, name):
                node.input[index] = self._constant(name, kind)
            elif name in self.renamed:
                node.input[index] = self.renamed[name]

    def _constant(self, name: str, kind: int) -> str:
        if (name, kind) not in self.constants:
            value = self.graph.constant(name)
            assert value is not None
            wide = value.astype(np.float32 if kind == self.float else np.int32)
            suffix = "float" if kind == self.float else "int32"
            self.constants[name, kind] = self.graph.add_constant(f"{name}_{suffix}", wide)
        return self.constants[name, kind]

    def _widen(self, node: Node, name: str, kind: int) -> None:
        """Give an output of ``node`` its new type; an output of the graph gets its uint8 back behind a Cast."""
        import onnx

        for entry in node.attribute:
            if entry.name == "to" and entry.i == onnx.TensorProto.UINT8:
                entry.i = kind
            elif entry.name == "value" and entry.t.data_type == onnx.TensorProto.UINT8:
                value = onnx.numpy_helper.to_array(entry.t)
                wide = value.astype(np.float32 if kind == self.float else np.int32)
                entry.t.CopyFrom(onnx.numpy_helper.from_array(wide))
        self.wide[name] = kind
        if name in self.outputs:
            wide_name = self.graph.fresh(f"{name}_wide")
            for index, output in enumerate(node.output):
                if output == name:
                    node.output[index] = wide_name
            self.renamed[name] = wide_name
            self.wide[wide_name] = kind
            self._cast(wide_name, name, int(onnx.TensorProto.UINT8))
