"""Reading and rewriting ONNX graphs: which files are taken, what the lookups say, what a rewrite leaves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fptk.calibration.onnx_graph import Graph, load_float_model, load_model
from fptk.core.errors import InputError


def save(path: Path, nodes: Sequence[Any], constants: dict[str, Any] | None = None) -> Path:
    """A graph from ``x``, float32 (2, 3), to ``y``."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_every_node_gets_a_name_of_its_own_and_keeps_one_that_it_has(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"], name="mine"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Abs", ["c"], ["y"], name="mine"),
    ]
    names = [node.name for node in load_model(save(tmp_path / "net.onnx", nodes)).graph.node]
    assert names == ["Relu", "mine", "Relu_1", "mine_1"]


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08"], ids=["missing", "empty", "text", "cut"])
def test_what_is_no_model_is_refused_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    for load in (load_model, load_float_model):
        with pytest.raises(InputError, match="does not exist" if content is None else "not a readable ONNX") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_what_does_not_depend_on_the_input_becomes_a_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], name="two", value_float=2.0),
        helper.make_node("Mul", ["w", "two"], ["doubled"], name="double"),
        helper.make_node("Add", ["x", "doubled"], ["y"], name="add"),
        helper.make_node("Exp", ["x"], ["unread"], name="dead"),
    ]
    graph = Graph(load_float_model(save(tmp_path / "net.onnx", nodes, {"w": [1, 2, 3]})))
    assert [node.name for node in graph.nodes] == ["add"]
    (name,) = graph.initializers
    np.testing.assert_array_equal(graph.constant(name), np.array([2, 4, 6], np.float32))


def test_lookups_tell_types_readers_and_constants(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["one"], name="one", value=numpy_helper.from_array(np.float32([1]), "one")),
        helper.make_node("Neg", ["one"], ["minus"], name="minus"),
        helper.make_node("Mul", ["x", "x"], ["square"], name="square"),
        helper.make_node("Add", ["square", "minus"], ["y"], name="add"),
    ]
    graph = Graph(load_model(save(tmp_path / "net.onnx", nodes)))
    assert graph.opset == 20
    assert graph.producer["square"].name == "square"
    assert [node.name for node in graph.consumers["x"]] == ["square", "square"]
    assert (graph.element_type("square"), graph.shape("square")) == (TensorProto.FLOAT, (2, 3))
    assert graph.element_type("nowhere") is None
    assert graph.constant("one") == 1
    assert graph.constant("minus") is None
    assert (graph.is_constant("minus"), graph.is_constant("square")) == (True, False)


def test_a_rewrite_is_sorted_and_leaves_nothing_that_no_output_needs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="mul"),
        helper.make_node("Relu", ["a"], ["y"], name="relu"),
    ]
    model = load_model(save(tmp_path / "net.onnx", nodes, {"w": [1, 2, 3]}))
    graph = Graph(model)
    name = graph.add_constant("w", np.float32(5))
    assert name != "w"
    relu = graph.nodes[1]
    relu.input[0] = graph.fresh("a")
    graph.replace_nodes([relu, helper.make_node("Add", ["x", name], [relu.input[0]], name="add")])
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == ["add", "relu"]
    assert [(entry.name, tuple(entry.dims)) for entry in model.graph.initializer] == [(name, ())]


@pytest.mark.parametrize("package", ["onnx", "onnx_ir", "onnxscript"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"], name="relu")])
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"is not installed; run: pip install 'fptk\[export\]'"):
        load_float_model(path)
