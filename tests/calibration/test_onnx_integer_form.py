"""Q/DQ graphs in the form of ONNX Runtime's integer kernels: what they compute, and what the engine makes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fptk.calibration.onnx_graph import load_float_model
from fptk.calibration.onnx_integer_form import take_pixels_as_they_are
from fptk.calibration.onnx_quantizer import cpu_settings, quantize_onnx

from .networks import attention_network, smooth_noise, stream

MEAN = np.array([123.675, 116.28, 103.53])
SIDE = 16


def pixels_network(path: Path, *, operator: str = "Add", transposed: bool = True, batch: int | None = 1) -> Path:
    """A padded convolution of pixels minus a mean, in the ways that exporters write it."""
    rng = np.random.default_rng(0)
    shape = [batch or "N", SIDE, SIDE, 3] if transposed else [batch or "N", 3, SIDE, SIDE]
    offset = (MEAN if operator == "Sub" else -MEAN).astype(np.float32).reshape(1, 3, 1, 1)
    weights = {
        "offset": offset,
        "weight": rng.normal(0, 0.02, (8, 3, 7, 7)).astype(np.float32),
        "bias": rng.normal(0, 1, 8).astype(np.float32),
    }
    nodes = [helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2])] if transposed else []
    nodes += [
        helper.make_node("Cast", ["nchw" if transposed else "images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["floats", "offset"], ["centered"]),
        helper.make_node(
            "Conv", ["centered", "weight", "bias"], ["out"], name="conv", strides=[2, 2], pads=[3, 2, 1, 3]
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch or "N", 8, 7, 7])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), str(path))
    return path


def run(model: onnx.ModelProto, images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, np.dtype[np.float32]] = session.run(None, {"images": images})[0]
    return result


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("operator", ["Add", "Sub"])
def test_pixels_without_their_mean_give_what_they_gave(
    operator: str, transposed: bool, batch: int | None, tmp_path: Path
) -> None:
    path = pixels_network(tmp_path / "pixels.onnx", operator=operator, transposed=transposed, batch=batch)
    model = load_float_model(path)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    ranges, _ = take_pixels_as_they_are(model, {"centered": (-124.0, 152.0)}, ["conv"])
    assert (0.0, 255.0) in ranges.values()
    assert not any(node.op_type in ("Add", "Sub") for node in model.graph.node)
    shape = (batch or 2, SIDE, SIDE, 3) if transposed else (batch or 2, 3, SIDE, SIDE)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    expected, found = run(before, images), run(model, images)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert found.shape == expected.shape
    assert np.abs(found - expected)[inside].max() < 1e-4
    weight = next(numpy_helper.to_array(each) for each in before.graph.initializer if each.name == "weight")
    rounding = np.abs(MEAN - np.rint(MEAN))  # the padding holds whole means
    bound = (np.abs(weight).sum(axis=(2, 3)) * rounding).sum(axis=1).max()
    assert 0 < np.abs(found - expected).max() < bound + 1e-4


def test_a_mean_that_is_no_pixel_stays_where_it_is(tmp_path: Path) -> None:
    """Padding with it could not be written in uint8."""
    path = pixels_network(tmp_path / "pixels.onnx")
    model = load_float_model(path)
    for entry in model.graph.initializer:
        if entry.name == "offset":
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) - 200, "offset"))
    before = model.SerializeToString(deterministic=True)
    assert take_pixels_as_they_are(model, {}, ["conv"]) == ({}, {})
    assert Counter(node.op_type for node in model.graph.node) == Counter(
        node.op_type for node in onnx.load_from_string(before).graph.node
    )


def test_quantized_pixels_are_not_cast(tmp_path: Path) -> None:
    path = pixels_network(tmp_path / "pixels.onnx")
    images = [np.random.default_rng(each).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8) for each in range(2)]
    quantize_onnx(path, tmp_path / "int8.onnx", lambda: iter(images), cpu_settings())
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert not any(node.op_type == "Cast" for node in model.graph.node)
    expected, found = run(onnx.load(str(path)), images[0]), run(model, images[0])
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    gray = np.full_like(images[0], 0) + np.rint(MEAN).astype(np.uint8)  # nothing is left but the bias
    expected, found = run(onnx.load(str(path)), gray), run(model, gray)
    assert np.abs(found - expected).max() < 0.01 * np.abs(run(onnx.load(str(path)), images[0])).max()


def optimized(path: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_only_what_a_quantized_product_reads_is_rounded_to_8_bits(tmp_path: Path) -> None:
    quantize_onnx(attention_network(tmp_path), tmp_path / "int8.onnx", stream(smooth_noise(4)), cpu_settings())
    found = optimized(tmp_path / "int8.onnx")
    assert found["QLinearMatMul"] == 3, f"q, k, and the mix that the MLP reads: {found}"
    assert found["MatMulIntegerToFloat"] == 3, f"scores and the MLP's two: {found}"
    assert not {"MatMul", "Gemm"} & set(found), found


def in_float_and_int8(
    folder: Path, nodes: list[Any], weights: dict[str, Any], shape: list[int]
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """What a graph of these nodes gives for an image of noise, before and after ``int8.onnx`` was made of it."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = folder / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(4)]
    quantize_onnx(path, folder / "int8.onnx", stream(images), cpu_settings())
    return [run(onnx.load(str(each)), images[0]) for each in (path, folder / "int8.onnx")]


@pytest.mark.parametrize("huge", [False, True])
def test_a_bias_becomes_part_of_the_integer_product(huge: bool, tmp_path: Path) -> None:
    """One that int32 could not hold stays float; its numbers are right all the same."""
    rng = np.random.default_rng(0)
    weights = {
        "shape": np.array([1, SIDE * SIDE, 3], np.int64),
        "w1": rng.normal(0, 0.01, (3, 8)).astype(np.float32),
        "b1": rng.normal(0, 1e9 if huge else 1, 8).astype(np.float32),
        "w2": rng.normal(0, 1, (8, 4)).astype(np.float32),
        "b2": rng.normal(0, 1, 4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "w1"], ["m1"], name="fc1"),
        helper.make_node("Add", ["b1", "m1"], ["a1"]),
        helper.make_node("Tanh", ["a1"], ["t1"]),
        helper.make_node("MatMul", ["t1", "w2"], ["m2"], name="fc2"),
        helper.make_node("Add", ["m2", "b2"], ["out"]),
    ]
    expected, found = in_float_and_int8(tmp_path, nodes, weights, [1, SIDE * SIDE, 4])
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    if not huge:
        assert optimized(tmp_path / "int8.onnx")["QGemm"] == 2


@pytest.mark.parametrize("exact", [True, False])
def test_a_mean_over_quantized_pixels_is_a_product_of_integers(exact: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = SIDE * SIDE
    row = np.full((1, count), 1 / count, np.float32) * (1 if exact else rng.uniform(0.5, 1, (1, count)))
    weights = {
        "shape": np.array([1, count, 3], np.int64),
        "row": row.astype(np.float32),
        "w": rng.normal(0, 1, (3, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "w"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["row", "pixels"], ["mean"], name="mean"),
        helper.make_node("Concat", ["mixed", "mixed"], ["both"], axis=2),
        helper.make_node("ReduceMax", ["both"], ["most"], keepdims=0),
        helper.make_node("Add", ["mean", "most"], ["out"]),
    ]
    expected, found = in_float_and_int8(tmp_path, nodes, weights, [1, 1, 3])
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert optimized(tmp_path / "int8.onnx")["MatMulIntegerToFloat"] == (2 if exact else 1)
