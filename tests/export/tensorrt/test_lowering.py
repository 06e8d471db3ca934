"""What TensorRT has no kernels for is rewritten without a change of what the graph computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from fptk.export.tensorrt.lint import lint_tensorrt
from fptk.export.tensorrt.lowering import lower_transposed, lower_uint8

Images = Callable[[], Iterator[Any]]


def transpose_as_bytes(model: onnx.ModelProto) -> None:
    """Move the Transpose of the image before its Cast, where ONNX Runtime moves a quarter of the bytes."""
    nodes = {node.name: node for node in model.graph.node}
    turn, cast, scale = nodes["to_nchw"], nodes["to_float"], nodes["normalise"]
    turn.input[0], turn.output[0] = "images", "turned"
    cast.input[0] = "turned"
    scale.output[0] = "to_nchw_out"
    ordered = [turn, *(node for node in model.graph.node if node.name != "to_nchw")]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def compare_as_bytes(model: onnx.ModelProto) -> None:
    """Replace the closing Cast by uint8 arithmetic that keeps labels below 7 and writes 7 for the others."""
    last = model.graph.node[-1]
    last.output[0] = "bytes"
    limit = numpy_helper.from_array(np.array(7, np.uint8), "limit")
    model.graph.initializer.append(limit)
    model.graph.node.extend(
        [
            helper.make_node("Less", ["bytes", "limit"], ["below"], name="below"),
            helper.make_node("Where", ["below", "bytes", "limit"], ["labels"], name="choose"),
        ]
    )


def labels(model: onnx.ModelProto, image: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": image})[0]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([transpose_as_bytes], ["to_nchw"]),
        ([compare_as_bytes], ["below", "choose"]),
        ([transpose_as_bytes, compare_as_bytes], ["to_nchw", "below", "choose"]),
    ],
    ids=["image", "labels", "both"],
)
def test_lowered_file_gives_the_same_labels(
    changes: list[Callable[[Any], None]], found: list[str], face_net: Path, images: Images, tmp_path: Path
) -> None:
    model = onnx.load(str(face_net))
    for change in changes:
        change(model)
    onnx.checker.check_model(model, full_check=True)
    before = tmp_path / "before.onnx"
    onnx.save(model, str(before))
    assert {entry.node for entry in lint_tensorrt(before)} == set(found)
    expected = [labels(model, image) for image in images()]

    assert lower_uint8(model) == found

    onnx.checker.check_model(model, full_check=True)
    after = tmp_path / "after.onnx"
    onnx.save(model, str(after))
    assert lint_tensorrt(after) == []
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [
        TensorProto.UINT8,
        TensorProto.UINT8,
    ]
    for image, labelled in zip(images(), expected, strict=True):
        np.testing.assert_array_equal(labels(model, image), labelled)


def test_leaves_a_file_that_needs_nothing_alone(face_net: Path) -> None:
    model = onnx.load(str(face_net))
    before = model.SerializeToString()
    assert lower_uint8(model) == []
    assert model.SerializeToString() == before


def upsampler(**changed: Any) -> onnx.ModelProto:
    """A transposed convolution 6 -> 4 channels with kernel and stride 2, or with what ``changed`` says."""
    random = np.random.default_rng(0)
    size, bias, attributes = changed.pop("size", 2), changed.pop("bias", True), {"strides": [2, 2], **changed}
    shape = (6, 4 // attributes.get("group", 1), size, size)
    constants = [numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), "w")]
    if bias:
        constants.append(numpy_helper.from_array(random.standard_normal(4).astype(np.float32), "b"))
    node = helper.make_node("ConvTranspose", ["x", "w", *(["b"] if bias else [])], ["y"], name="up", **attributes)
    graph = helper.make_graph(
        [node],
        "up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 5, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, value: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": value})[0]


@pytest.mark.parametrize("changed", [{}, {"bias": False}, {"size": 4, "strides": [4, 4]}], ids=["2", "no-bias", "4"])
def test_upsampling_by_the_kernels_size_becomes_a_convolution(changed: dict[str, Any]) -> None:
    model = upsampler(**changed)
    value = np.random.default_rng(1).standard_normal((2, 6, 5, 7)).astype(np.float32)
    expected = run(model, value)
    assert lower_transposed(model) == ["up"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "DepthToSpace"]
    assert "w" not in {entry.name for entry in model.graph.initializer}
    np.testing.assert_allclose(run(model, value), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [{"size": 3}, {"pads": [1, 1, 0, 0]}, {"group": 2}, {"output_padding": [1, 1]}, {"auto_pad": "SAME_UPPER"}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_transposed_convolutions_stay(changed: dict[str, Any]) -> None:
    model = upsampler(**changed)
    before = model.SerializeToString()
    assert lower_transposed(model) == []
    assert model.SerializeToString() == before
