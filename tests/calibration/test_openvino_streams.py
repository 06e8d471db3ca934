"""Which Linears of a float OpenVINO graph begin a residual stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fptk.calibration.openvino_quantizer import OpenVinoQuantSettings, quantize_openvino
from fptk.calibration.openvino_streams import stream_starts

openvino = pytest.importorskip("openvino", reason="openvino is not installed")
ops = openvino.opset13

RNG = np.random.default_rng(0)
CHANNELS = 6


def linear(value: Any, name: str) -> Any:
    weights = RNG.normal(size=(CHANNELS, CHANNELS)).astype(np.float32)
    product = ops.matmul(value, ops.constant(weights), False, True, name=name)
    return ops.add(product, ops.constant(np.full((1, 1, CHANNELS), 0.5, np.float32)))


def layer_norm(value: Any) -> Any:
    return ops.mvn(value, ops.constant(np.array([-1])), True, 1e-5, "inside_sqrt")


def root_mean_square(value: Any) -> Any:
    return ops.divide(value, ops.sqrt(ops.reduce_mean(ops.multiply(value, value), ops.constant(np.array([-1])), True)))


def blocks(norm: Any) -> Any:
    """uint8 (1, 2, 2, 3) images to two blocks x + linear(norm(x)) behind a Linear."""
    images = ops.parameter([1, 2, 2, 3], np.uint8, name="images")
    tokens = ops.reshape(ops.convert(images, np.float32), ops.constant(np.array([1, 2, CHANNELS])), False)
    stream = linear(tokens, "first")
    for index in range(2):
        # As an attention's residual is added: behind a change of shape.
        wide = ops.unsqueeze(linear(norm(stream), f"block{index}"), ops.constant(np.array(1)))
        stream = ops.squeeze(ops.add(ops.unsqueeze(stream, ops.constant(np.array(1))), wide), ops.constant(np.array(1)))
    return openvino.Model([linear(norm(stream), "last")], [images], "blocks")


@pytest.mark.parametrize("norm", [layer_norm, root_mean_square])
def test_the_linear_before_the_first_block_begins_a_stream(norm: Any) -> None:
    assert stream_starts(blocks(norm)) == ("first",)


def test_without_normalization_there_is_no_stream() -> None:
    assert stream_starts(blocks(ops.relu)) == ()


def test_the_quantizer_keeps_it_in_float_and_says_why() -> None:
    images = RNG.integers(0, 256, (4, 1, 2, 2, 3), dtype=np.uint8)
    _, report = quantize_openvino(blocks(layer_norm), lambda: iter(images), OpenVinoQuantSettings(transformer=False))
    assert [(layer.name, layer.reason) for layer in report.kept_float] == [
        ("first", "it begins a residual stream, which would carry its rounding on")
    ]
    assert set(report.quantised) == {"block0", "block1", "last"}
