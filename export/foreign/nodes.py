"""Writing ONNX nodes as one writes calls: each gives the name of the tensor that it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_graph import Graph, Node

Operand = str | npt.NDArray[Any] | np.generic
"""Name of a tensor, or the value of a constant."""


class Nodes:
    """New nodes for a graph; :meth:`finish` puts them into it.

    Args:
        graph: its model gets the constants at once, and the nodes at the end.
        prefix: start of the names of nodes and tensors.
    """

    def __init__(self, graph: Graph, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self.made: list[Node] = []

    def add(self, op_type: str, *operands: Operand, output: str | None = None, **attributes: Any) -> str:
        """A node of one output; its name."""
        return self._add(op_type, operands, [output or self._name(op_type)], attributes)[0]

    def constant(self, value: npt.NDArray[Any] | np.generic) -> str:
        """A constant; its name."""
        return self.graph.add_constant(f"{self.prefix}/constant", np.asarray(value))

    def split(self, operand: str, parts: list[int], axis: int) -> list[str]:
        """The parts of a tensor along an axis."""
        names = [self._name("Split") for _ in parts]
        return self._add("Split", (operand, np.array(parts, np.int64)), names, {"axis": axis})

    def reshape(self, operand: str, *shape: int) -> str:
        """The tensor in another shape; 0 copies a side, -1 follows from the others."""
        return self.add("Reshape", operand, np.array(shape, np.int64))

    def transpose(self, operand: str, *order: int) -> str:
        """The tensor with its dimensions in another order."""
        return self.add("Transpose", operand, perm=list(order))

    def cast(self, operand: str, kind: int, output: str | None = None) -> str:
        """The tensor in another type (``onnx.TensorProto.DataType``)."""
        return self.add("Cast", operand, to=kind, output=output)

    def copy(self, node: Node, operand: str) -> str:
        """A node like another, with another first input; the name of its result."""
        like = type(node)()
        like.CopyFrom(node)
        like.input[0], like.output[0], like.name = operand, self._name(node.op_type), f"{node.name}/moved"
        self.made.append(like)
        return str(like.output[0])

    def finish(self) -> None:
        """Put the nodes into the model, and leave out what no output needs."""
        self.graph.replace_nodes([*self.graph.nodes, *self.made])

    def _name(self, op_type: str) -> str:
        return self.graph.fresh(f"{self.prefix}/{op_type}_{len(self.made)}")

    def _add(
        self, op_type: str, operands: tuple[Operand, ...], outputs: list[str], attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import helper

        names = [each if isinstance(each, str) else self.constant(each) for each in operands]
        self.made.append(
            helper.make_node(op_type, names, outputs, name=f"{self.prefix}/{op_type}_{len(self.made)}", **attributes)
        )
        return outputs
