"""ONNX files made in code: a small face parser with fptk's input and output, and one quantised layer to break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
CHANNELS = 16


class GraphWriter:
    """Collects nodes and constants of a graph; every method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(seed)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        scale = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else shape[0])
        return self.constant(name, (self.random.standard_normal(shape) * scale).astype(np.float32))

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def save(self, path: Path, labels: str, *, batch: int | str = 1, size: int = SIZE, opset: int = 20) -> Path:
        """Close the graph with input ``images`` and output ``labels``, both uint8."""
        self.nodes[-1].output[0] = "labels"
        graph = helper.make_graph(
            self.nodes,
            "face",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, size, size, 3])],
            [helper.make_tensor_value_info("labels", TensorProto.UINT8, [batch, size, size])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def open_image(writer: GraphWriter) -> str:
    """The uint8 NHWC input as normalised float32 NCHW."""
    pixels = writer.add("Cast", "to_float", "images", to=TensorProto.FLOAT)
    scaled = writer.add("Mul", "normalise", pixels, writer.constant("one_255th", np.float32(1 / 255)))
    return writer.add("Transpose", "to_nchw", scaled, perm=[0, 3, 1, 2])


def close_labels(writer: GraphWriter, logits: str, size: int = SIZE) -> str:
    """Logits at a quarter of the size as a uint8 label map."""
    scales = writer.constant("scales", np.array([1, 1, 4, 4], np.float32))
    large = writer.add(
        "Resize", "enlarge", logits, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    indices = writer.add("ArgMax", "argmax", large, axis=1, keepdims=0)
    return writer.add("Cast", "to_uint8", indices, to=TensorProto.UINT8)


def linear(writer: GraphWriter, name: str, tokens: str, inputs: int, outputs: int) -> str:
    product = writer.add("MatMul", name, tokens, writer.weight(f"{name}_weight", inputs, outputs))
    return writer.add("Add", f"{name}_add", product, writer.weight(f"{name}_bias", outputs))


def write_face_net(path: Path, *, batch: int | str = 1, size: int = SIZE, gain: float = 1.0) -> Path:
    """A patch embedding, one attention block with LayerNorm and a 19-class head: 2 Conv and 6 MatMul.

    ``gain`` multiplies the tokens before the LayerNorm: a large one overflows float16.
    """
    writer = GraphWriter()
    image = open_image(writer)
    patches = writer.add(
        "Conv", "embed", image, writer.weight("embed_weight", CHANNELS, 3, 7, 7), writer.weight("embed_bias", CHANNELS),
        strides=[4, 4], pads=[3, 3, 3, 3],
    )  # fmt: skip
    side = size // 4
    flat = writer.constant("flat", np.array([0, CHANNELS, side * side], np.int64))
    tokens = writer.add("Transpose", "to_tokens", writer.add("Reshape", "flatten", patches, flat), perm=[0, 2, 1])
    tokens = writer.add("Mul", "amplify", tokens, writer.constant("gain", np.float32(gain)))
    normal = writer.add(
        "LayerNormalization", "norm", tokens, writer.constant("gamma", np.ones(CHANNELS, np.float32)),
        writer.constant("beta", np.zeros(CHANNELS, np.float32)), axis=-1,
    )  # fmt: skip
    query, key, value = (linear(writer, name, normal, CHANNELS, CHANNELS) for name in ("query", "key", "value"))
    scores = writer.add("MatMul", "scores", query, writer.add("Transpose", "key_transpose", key, perm=[0, 2, 1]))
    mixed = writer.add("MatMul", "mix", writer.add("Softmax", "softmax", scores, axis=-1), value)
    tokens = writer.add("Add", "residual", normal, linear(writer, "project", mixed, CHANNELS, CHANNELS))
    square = writer.constant("square", np.array([0, CHANNELS, side, side], np.int64))
    grid = writer.add("Reshape", "to_grid", writer.add("Transpose", "to_channels", tokens, perm=[0, 2, 1]), square)
    head = writer.weight("head_weight", 19, CHANNELS, 1, 1)
    logits = writer.add("Conv", "head", grid, head, writer.weight("head_bias", 19))
    return writer.save(path, close_labels(writer, logits, size), batch=batch, size=size)


def write_quantized_conv(
    path: Path,
    *,
    activation: type = np.int8,
    zero_point: int = 0,
    scale: Any = 0.01,
    bias: str = "float",
    weight_scale: Any = None,
    quantize_weight: bool = True,
    opset: int = 20,
) -> Path:
    """One convolution with Q/DQ on its input (nodes ``input_q``, ``input_dq``, ``weight_dq``, ``bias_dq``, ``conv``).

    The defaults are what TensorRT takes; each argument breaks one thing.
    """
    writer = GraphWriter()
    image = open_image(writer)
    scale = np.asarray(scale, np.float32)
    axis = {} if np.ndim(scale) == 0 else {"axis": 1}
    pair = (writer.constant("scale", scale), writer.constant("zero", np.full(np.shape(scale), zero_point, activation)))
    quantized = writer.add("QuantizeLinear", "input_q", image, *pair, **axis)
    image = writer.add("DequantizeLinear", "input_dq", quantized, *pair, **axis)
    if quantize_weight:
        integers = writer.random.integers(-127, 128, (19, 3, 4, 4)).astype(np.int8)
        scales = np.full(19, 0.01, np.float32) if weight_scale is None else weight_scale
        weight = writer.add(
            "DequantizeLinear", "weight_dq", writer.constant("weight", integers), writer.constant("w_scale", scales),
            writer.constant("w_zero", np.zeros(19, np.int8)), axis=0,
        )  # fmt: skip
    else:
        weight = writer.weight("weight", 19, 3, 4, 4)
    if bias == "int32":
        offset = writer.add(
            "DequantizeLinear", "bias_dq", writer.constant("bias", np.arange(19, dtype=np.int32)),
            writer.constant("b_scale", np.full(19, 1e-4, np.float32)),
            writer.constant("b_zero", np.zeros(19, np.int32)), axis=0,
        )  # fmt: skip
    else:
        offset = writer.weight("bias", 19)
    logits = writer.add("Conv", "conv", image, weight, offset, strides=[4, 4])
    return writer.save(path, close_labels(writer, logits), opset=opset)


def write_attention(path: Path) -> Path:
    """A graph of opset 23 with the Attention operator (node ``attention``)."""
    writer = GraphWriter()
    image = open_image(writer)
    heads = writer.add(
        "Reshape", "heads", image, writer.constant("shape", np.array([1, 1, SIZE * SIZE // 8, 24], np.int64))
    )
    mixed = writer.add("Attention", "attention", heads, heads, heads)
    grid = writer.add("Reshape", "grid", mixed, writer.constant("back", np.array([1, 48, 16, 16], np.int64)))
    return writer.save(path, close_labels(writer, grid), opset=23)


@pytest.fixture
def face_net(tmp_path: Path) -> Path:
    """The small face parser, float32, batch 1."""
    return write_face_net(tmp_path / "face.onnx")


@pytest.fixture
def upsampling_net(tmp_path: Path) -> Path:
    """Two convolutions around a transposed one (node ``up``) that doubles the size."""
    writer = GraphWriter()
    image = open_image(writer)
    small = writer.add("Conv", "shrink", image, writer.weight("shrink_weight", 32, 3, 8, 8), strides=[8, 8])
    large = writer.add("ConvTranspose", "up", small, writer.weight("up_weight", 32, 16, 2, 2), strides=[2, 2])
    logits = writer.add("Conv", "head", large, writer.weight("head_weight", 19, 16, 1, 1))
    return writer.save(tmp_path / "up.onnx", close_labels(writer, logits))


@pytest.fixture
def write_net() -> Callable[..., Path]:
    """:func:`write_face_net`."""
    return write_face_net


@pytest.fixture
def write_conv() -> Callable[..., Path]:
    """:func:`write_quantized_conv`."""
    return write_quantized_conv


@pytest.fixture
def attention_file(tmp_path: Path) -> Path:
    """A file with the Attention operator of opset 23."""
    return write_attention(tmp_path / "attention.onnx")


def random_images() -> Iterator[Any]:
    """Four random images, uint8 (1, SIZE, SIZE, 3)."""
    for seed in range(4):
        yield np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def images() -> Callable[[], Iterator[Any]]:
    """Starts a pass over random images."""
    return random_images
