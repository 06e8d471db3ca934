"""Which layers of a float OpenVINO graph must not become int8, and what an input of a layer is quantized by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fptk.calibration.openvino_forms import (
    attentions,
    fake_quantizers,
    faulty_patch_convolutions,
    find_attentions,
    float_layers,
    gate_layers,
    reads_fake_quantize,
    reads_int8,
    reads_symmetric_int8,
)

openvino = pytest.importorskip("openvino", reason="openvino is not installed")
ops = openvino.opset13

AMX_FAULTS = {
    **dict.fromkeys([2, 3, 5, 6, 7], ()),
    4: (32, 48),
    8: (16, 24, 32, 40, 48, 56),
    16: (8, 16, 24, 32, 40, 48, 56),
}
"""Input channels, multiples of 8 up to 192, with which a square kernel of this side was measured wrong."""


def tensor(*shape: int) -> Any:
    return ops.parameter(list(shape), np.float32)


def weights(*shape: int) -> Any:
    return ops.constant(np.full(shape, 0.5, np.float32))


def quantizer(value: Any, low: Any = -1.28, high: Any = 1.27, levels: int = 256) -> Any:
    ends = [ops.constant(np.asarray(end, np.float32)) for end in (low, high)]
    return ops.fake_quantize(value, *ends, *ends, levels)


def graph(*results: Any) -> Any:
    """A model of all that leads to these operations, the last named ``last``."""
    found, waiting = {}, list(results)
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == "Parameter":
            found[node.get_name()] = node
        waiting += [value.get_node() for value in node.input_values()]
    results[-1].set_friendly_name("last")
    return openvino.Model(list(results), list(found.values()), "graph")


def convolution(
    channels: int, kernel: tuple[int, int], strides: tuple[int, int] | None = None, pad: int = 0, dilation: int = 1
) -> Any:
    data, kernels = tensor(1, channels, 64, 64), weights(4, channels, *kernel)
    return ops.convolution(data, kernels, strides or kernel, [pad] * 2, [pad] * 2, [dilation] * 2)


@pytest.mark.parametrize("side", AMX_FAULTS)
def test_a_patch_convolution_is_faulty_where_it_was_measured_so(side: int) -> None:
    channels = range(8, 193, 8)
    found = [count for count in channels if faulty_patch_convolutions(graph(convolution(count, (side, side))))]
    assert found == list(AMX_FAULTS[side])


@pytest.mark.parametrize(
    ("layer", "faulty"),
    [
        (convolution(32, (8, 8)), True),
        (convolution(32, (8, 8), pad=1), False),
        (convolution(32, (8, 8), (4, 4)), False),
        (convolution(32, (8, 8), (8, 4)), False),
        (convolution(32, (8, 8), dilation=2), False),
        (convolution(32, (8, 3)), True),
        (convolution(32, (3, 8)), True),
        (convolution(64, (8, 3)), False),
        (convolution(32, (2, 3)), False),
    ],
    ids=["square", "padded", "overlapping", "one-way", "dilated", "tall", "wide", "wide-channels", "small"],
)
def test_only_convolutions_that_cut_patches_are_faulty(layer: Any, faulty: bool) -> None:
    assert faulty_patch_convolutions(graph(layer)) == (("last",) if faulty else ())


def test_a_grouped_or_one_dimensional_convolution_is_not_faulty() -> None:
    grouped = ops.group_convolution(tensor(1, 32, 64, 64), weights(32, 1, 1, 8, 8), [8, 8], [0, 0], [0, 0], [1, 1])
    flat = ops.convolution(tensor(1, 32, 64), weights(4, 32, 8), [8], [0], [0], [1])
    assert faulty_patch_convolutions(graph(grouped, flat)) == ()


def attention(width: int = 32) -> Any:
    query, key, value = tensor(1, 1, 6, width), tensor(1, 1, 4, width), tensor(1, 1, 4, width)
    return ops.scaled_dot_product_attention(query, key, value)


def gate() -> Any:
    mean = ops.reduce_mean(tensor(1, 8, 4, 4), ops.constant(np.array([2, 3])), False)
    return ops.matmul(ops.relu(mean), weights(8, 8), False, True)


def test_layers_stay_float_for_the_processors_that_compute_them_wrongly() -> None:
    model = graph(convolution(32, (8, 8)), convolution(32, (7, 7)), attention(), gate())
    (patches,), (attending,), (gating,) = faulty_patch_convolutions(model), attentions(model), gate_layers(model)
    assert gating == "last"
    assert set(float_layers(model, ["amx"])) == {patches, attending, gating}
    assert set(float_layers(model, ["avx2", "vnni", "amx"])) == {patches, attending, gating}
    assert set(float_layers(model, ["avx2", "vnni"])) == {gating}


def test_a_product_before_a_mean_is_no_gate() -> None:
    product = ops.matmul(tensor(1, 8, 4, 4), weights(4, 4), False, True)
    assert gate_layers(graph(ops.reduce_mean(product, ops.constant(np.array([2, 3])), False))) == ()


def normalized(squares: Any, axes: int | list[int] = -1, keep: bool = True) -> Any:
    """A product behind x / sqrt(mean(squares of x))."""
    x = tensor(1, 6, 6)
    root = ops.sqrt(ops.reduce_mean(squares(x), ops.constant(np.array(axes)), keep))
    scaled = ops.divide(x, root) if keep else ops.matmul(root, x, False, False)
    return ops.matmul(scaled, weights(6, 6), False, True)


def test_a_product_behind_a_root_mean_square_is_no_gate() -> None:
    by_power = normalized(lambda x: ops.power(x, ops.constant(np.float32(2))))
    by_product = normalized(lambda x: ops.multiply(x, x), 2)
    assert gate_layers(graph(by_power, by_product)) == ()


def test_other_means_over_the_last_axis_may_be_those_of_gates() -> None:
    def square(x: Any) -> Any:
        return ops.multiply(x, x)

    def cube(x: Any) -> Any:
        return ops.power(x, ops.constant(np.float32(3)))

    def values(x: Any) -> Any:
        return ops.relu(x)

    faulty = [normalized(values), normalized(cube), normalized(square, [1, 2]), normalized(square, 2, keep=False)]
    assert all(gate_layers(graph(each)) for each in faulty)


def through(*moves: Callable[[Any], Any]) -> Any:
    """A relu that reads (2, 8, 4, 4) behind these operations."""
    value = tensor(2, 8, 4, 4)
    for move in moves:
        value = move(value)
    return ops.relu(value)


def concat(value: Any) -> Any:
    pooled = ops.max_pool(quantizer(value), [1, 1], [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.concat([quantizer(value), pooled.output(0)], 1)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (through(quantizer), 1),
        (through(quantizer, lambda x: ops.transpose(x, [0, 2, 3, 1]), lambda x: ops.reshape(x, [-1], False)), 1),
        (through(quantizer, lambda x: ops.gather(x, ops.constant([1, 0]), ops.constant(0))), 1),
        (through(concat), 2),
        (through(lambda x: ops.concat([quantizer(x), x], 1)), 0),
        (through(quantizer, ops.relu), 0),
        (through(), 0),
    ],
    ids=["direct", "moved", "gathered", "concat", "half a concat", "computed", "float"],
)
def test_finds_the_quantizers_behind_operations_that_keep_values(operation: Any, count: int) -> None:
    assert len(fake_quantizers(operation)) == count
    assert reads_fake_quantize(operation) == reads_int8(operation) == bool(count)


def test_stored_int8_weights_are_int8_and_sixteen_bits_are_not() -> None:
    stored = ops.convert(ops.constant(np.ones((4, 8), np.int8)), "f32")
    scaled = ops.multiply(ops.subtract(stored, weights(4, 1)), weights(4, 1))
    halves = ops.convert(ops.constant(np.ones((4, 8), np.float16)), "f32")
    data = tensor(1, 8)
    assert reads_int8(ops.matmul(data, scaled, False, True), 1)
    assert not reads_fake_quantize(ops.matmul(data, scaled, False, True), 1)
    assert not reads_int8(ops.matmul(data, halves, False, True), 1)
    assert not reads_int8(ops.relu(quantizer(data, levels=65536)))


@pytest.mark.parametrize(
    ("ranges", "symmetric"),
    [
        ((-1.28, 1.27), True),
        ((-1.27, 1.27, 255), True),
        ((-3.1 * 128 / 127, 3.1), True),
        ((0.0, 2.55), False),
        ((-1.0, 1.55), False),
        ((-1.31, 1.24), False),
        (([[-1.28], [-2.56]], [[1.27], [2.54]]), True),
        (([[-1.28], [0.0]], [[1.27], [2.55]]), False),
        ((-1.28, 1.27, 65536), False),
    ],
    ids=["int8", "narrow", "nncf", "unsigned", "asymmetric", "zero-point-3", "channels", "one-channel-not", "int16"],
)
def test_a_zero_point_of_0_is_symmetric(ranges: Any, symmetric: bool) -> None:
    assert reads_symmetric_int8(ops.relu(quantizer(tensor(2, 8), *ranges))) == symmetric


def test_a_range_that_is_computed_is_not_symmetric() -> None:
    low, high = tensor(1), ops.constant(np.float32(1))
    assert not reads_symmetric_int8(ops.relu(ops.fake_quantize(tensor(2, 8), low, high, low, high, 256)))


def test_finds_an_attention_behind_scale_mask_and_reshape() -> None:
    query, key, value, mask = tensor(2, 6, 8), tensor(2, 4, 8), tensor(2, 4, 8), tensor(1, 1, 4)
    scores = ops.matmul(query, key, False, True)
    masked = ops.add(ops.multiply(scores, np.float32(0.3)), ops.matmul(mask, weights(4, 4), False, False))
    weighted = ops.transpose(ops.softmax(ops.reshape(masked, [1, 2, 6, 4], False), 3), [0, 1, 2, 3])
    mixed = ops.matmul(weighted, ops.unsqueeze(value, 0), False, False)
    (found,) = find_attentions(graph(mixed))
    assert (found.scores.get_name(), found.mixed.get_name()) == (scores.get_name(), mixed.get_name())


def test_a_softmax_that_mixes_nothing_is_no_attention() -> None:
    classes = ops.softmax(ops.matmul(tensor(1, 8), weights(4, 8), False, True), 1)
    assert list(find_attentions(graph(classes))) == []
