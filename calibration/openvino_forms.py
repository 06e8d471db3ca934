"""Forms in an OpenVINO graph that OpenVINO computes wrongly on some processor, or crashes on: which layers have them.

The quantizer asks about float graphs, to keep such layers in float, and the checker
(:mod:`fptk.export.openvino.lint`) about finished ones. ``model`` is an ``openvino.Model`` throughout, an operation an
``openvino.Node``; a layer is named by its friendly name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fptk.core.cpu import Family

VALUE_KEEPING_OPS = frozenset({
    "Broadcast", "DepthToSpace", "Gather", "MaxPool", "Reshape", "ShuffleChannels", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze", "VariadicSplit",
})  # fmt: skip
"""Operations that hand on the values of their first input as they are, all or some of them."""

_ELEMENTWISE_OPS = frozenset({
    "Abs", "Add", "Clamp", "Divide", "Elu", "Erf", "Exp", "FakeQuantize", "Floor", "Gelu", "HSwish", "Maximum",
    "Minimum", "Multiply", "Negative", "Power", "Relu", "Select", "Sigmoid", "Sqrt", "Subtract", "Swish", "Tanh",
})  # fmt: skip
"""Elementwise operations that the CPU plugin fuses with others into one kernel."""

_PRODUCTS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})

_EIGHT_BITS = 256
"""Levels of an 8-bit FakeQuantize at most."""


def float_layers(model: Any, families: Collection[Family]) -> dict[str, str]:
    """Layers of a float graph that must stay in float for an INT8 engine to be right on these processors, and why.

    The convolutions and attentions are wrong on AMX only, the products behind a mean on every processor.
    """
    layers = dict.fromkeys(gate_layers(model), "behind a mean, OpenVINO's int8 form is wrong")
    if "amx" in families:
        layers |= dict.fromkeys(faulty_patch_convolutions(model), "OpenVINO's int8 kernel is wrong on AMX")
        layers |= dict.fromkeys(attentions(model), "with int8 query and key, OpenVINO's attention is wrong on AMX")
    return layers


def gate_layers(model: Any) -> tuple[str, ...]:
    """Matrix products that depend on a mean over a whole map: gates and their like.

    They cost next to nothing in float, and OpenVINO 2026.4.1 computes their int8 form wrongly or crashes on it: the
    mIoU of one network fell by 0.3 to 18 points, depending on its other fusions, and by 0.0 with its int8 execution
    (``LP_TRANSFORMS_MODE``) switched off.
    """
    tainted: set[str] = set()
    names = []
    for operation in model.get_ordered_ops():
        sources = {port.get_source_output().get_node().get_friendly_name() for port in operation.inputs()}
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        is_mean = kind in ("ReduceMean", "ReduceSum") and not is_root_mean_square(operation)
        if is_mean or not tainted.isdisjoint(sources):
            tainted.add(name)
            if kind == "MatMul":
                names.append(name)
    return tuple(names)


def is_root_mean_square(operation: Any) -> bool:
    """Whether a mean is that of a normalization of tokens: of squares, over the last axis, which it keeps.

    OpenVINO makes one node of it and what follows, as it does of a LayerNorm, and the int8 products behind either are
    right.
    """
    if operation.get_type_name() != "ReduceMean" or not operation.get_attributes()["keep_dims"]:
        return False
    axes, rank = _constant(operation, 1), operation.get_input_partial_shape(0).rank
    if axes is None or rank.is_dynamic:
        return False
    return bool(np.isin(axes, (-1, rank.get_length() - 1)).all()) and _squares(operation.input_value(0).get_node())


def _squares(operation: Any) -> bool:
    kind = operation.get_type_name()
    if kind == "Multiply":
        first, second = operation.inputs()
        return bool(first.get_source_output() == second.get_source_output())
    exponent = _constant(operation, 1) if kind == "Power" else None
    return exponent is not None and bool((exponent == 2).all())


def faulty_patch_convolutions(model: Any) -> tuple[str, ...]:
    """Convolutions whose int8 form oneDNN's ``brg_conv_fwd`` turns into noise on AMX.

    Unpadded, not dilated, kernel = stride, and a side k of the kernel that :func:`_is_faulty` names.
    """
    return tuple(
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "Convolution" and _cuts_faulty_patches(operation)
    )


def _cuts_faulty_patches(convolution: Any) -> bool:
    weights = convolution.get_input_partial_shape(1)
    if weights.is_dynamic or len(weights) != 4:
        return False
    _, channels, *kernel = weights.to_shape()
    attributes = convolution.get_attributes()
    padded = any((*attributes["pads_begin"], *attributes["pads_end"]))
    dilated = any(side != 1 for side in attributes["dilations"])
    if padded or dilated or list(attributes["strides"]) != kernel:
        return False
    return any(_is_faulty(channels, side) for side in kernel)


def _is_faulty(channels: int, side: int) -> bool:
    """Whether a patch convolution of this many input channels is wrong with a kernel of this side.

    Measured on square kernels of side 2 to 8 and 16, 3 to 192 input channels: wrong are exactly those that this names.
    Kernels that are not square were not measured; they are taken for wrong where either side would be.
    """
    return side % 4 == 0 and channels < 64 and channels * side % 64 == 0 and channels * side >= 128


def attentions(model: Any) -> tuple[str, ...]:
    """The ScaledDotProductAttention operations."""
    return tuple(
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "ScaledDotProductAttention"
    )


def fake_quantizers(operation: Any, port: int = 0) -> tuple[Any, ...]:
    """The FakeQuantize operations that an input comes from; empty unless all of the input does.

    Nothing but operations that hand on values as they are may lie between. NNCF puts the FakeQuantize as early as that
    leaves the values on the same grid: before a max-pooling, a split, or on every part of a concatenation.
    """
    source = operation.input_value(port).get_node()
    kind = source.get_type_name()
    if kind == "Concat":
        parts = [fake_quantizers(source, index) for index in range(source.get_input_size())]
        return tuple(quantizer for part in parts for quantizer in part) if all(parts) else ()
    if kind in VALUE_KEEPING_OPS:
        return fake_quantizers(source)
    return (source,) if kind == "FakeQuantize" else ()


def reads_fake_quantize(operation: Any, port: int = 0) -> bool:
    """Whether all of an input comes from FakeQuantize operations; see :func:`fake_quantizers`."""
    return bool(fake_quantizers(operation, port))


def reads_int8(operation: Any, port: int = 0) -> bool:
    """Whether an input is quantized to 8 bits: by FakeQuantize, or weights that the file stores so.

    NNCF stores weights as an int8 Constant that a Convert and a Multiply turn into float.
    """
    quantizers = fake_quantizers(operation, port)
    if quantizers:
        return all(quantizer.get_attributes()["levels"] <= _EIGHT_BITS for quantizer in quantizers)
    source = operation.input_value(port).get_node()
    while source.get_type_name() in ("Convert", "Multiply", "Reshape", "Subtract", "Transpose"):
        source = source.input_value(0).get_node()
    stored = source.get_output_element_type(0).get_type_name() if source.get_type_name() == "Constant" else None
    return stored in ("i8", "u8")


def reads_symmetric_int8(operation: Any, port: int = 0) -> bool:
    """Whether an input is quantized to 8 bits with zero point 0 in signed int8, by FakeQuantize."""
    quantizers = fake_quantizers(operation, port)
    return bool(quantizers) and all(_is_symmetric(quantizer) for quantizer in quantizers)


def _is_symmetric(quantizer: Any) -> bool:
    """|low + high| is at most one step, in every channel: NNCF writes low = -high * 128 / 127."""
    levels = quantizer.get_attributes()["levels"]
    low, high = _constant(quantizer, 1), _constant(quantizer, 2)
    if low is None or high is None or levels > _EIGHT_BITS:
        return False
    step = (high - low) / (levels - 1)
    return bool(np.all(np.abs(low + high) <= 1.01 * step))  # ranges are rounded to float32


def constant_input(operation: Any, port: int) -> Any:
    """The Constant that an input is, or is converted from; ``None`` if it is computed."""
    source = operation.input_value(port).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def _constant(operation: Any, port: int) -> Any:
    """Values of a constant input, float64; ``None`` if it is computed."""
    constant = constant_input(operation, port)
    return None if constant is None else constant.get_data().astype(np.float64)


@dataclass(frozen=True)
class Attention:
    """One attention: a ScaledDotProductAttention (both fields), or the two matrix products around a Softmax."""

    scores: Any
    """The operation that multiplies queries (port 0) by keys (port 1)."""
    mixed: Any
    """The operation that multiplies the result by the values."""


def find_attentions(model: Any) -> Iterator[Attention]:
    """Every attention, as one operation or as MatMul, scale and mask, Softmax, MatMul."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "ScaledDotProductAttention":
            yield Attention(operation, operation)
        elif operation.get_type_name() == "Softmax":
            for scores in _products_behind(operation.input_value(0).get_node()):
                yield from (Attention(scores, mixed) for mixed in _products_ahead(operation))


def _products_behind(operation: Any) -> Iterator[Any]:
    """The matrix products that a Softmax takes its scores from: behind scale, mask and changes of shape."""
    waiting, seen = [operation], set()
    while waiting:
        node = waiting.pop()
        kind = node.get_type_name()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if kind == "MatMul":
            yield node
        elif kind in VALUE_KEEPING_OPS:
            waiting.append(node.input_value(0).get_node())
        elif kind in _ELEMENTWISE_OPS:
            waiting += _operands(node)  # not the mask, which is smaller than the scores


def _products_ahead(operation: Any) -> Iterator[Any]:
    """The matrix products that read the result of a Softmax."""
    for reader in operation.output(0).get_target_inputs():
        node = reader.get_node()
        if node.get_type_name() == "MatMul":
            yield node
        elif node.get_type_name() in VALUE_KEEPING_OPS | {"FakeQuantize"}:
            yield from _products_ahead(node)


def crashing_attentions(model: Any) -> tuple[str, ...]:
    """Attentions that make OpenVINO 2026.4.1 crash when it compiles the graph, float graphs included.

    The attention's result meets another elementwise result in an elementwise operation, such as a residual sum, with at
    most elementwise operations between; and what comes out has two readers. The plugin then merges the fused attention
    with the elementwise kernel (its pass TokenizeSnippets) and dies. A change of shape or a matrix product between the
    attention and the sum keeps the two apart. So does a shape that is not static.

    Measured with 3-D and 4-D attentions, one head and more, in f32 and bf16, with all instruction sets and with those
    up to AVX2 and AVX512_CORE_VNNI: this names the graphs that crash, but for a few (a ReduceMean as the other result).
    """
    mixed = [attention.mixed for attention in find_attentions(model) if _has_queries(attention.mixed)]
    names = {operation.get_name(): operation.get_friendly_name() for operation in mixed}
    hit: dict[str, None] = {}
    for operation in model.get_ordered_ops() if names else ():
        if operation.get_type_name() not in _ELEMENTWISE_OPS or _readers(operation) < 2:
            continue
        operands = _operands(operation)
        for index, operand in enumerate(operands):
            if any(_is_kernel(other) for other in operands[:index] + operands[index + 1 :]):
                hit.update(dict.fromkeys(names[name] for name in _fused_with(operand) if name in names))
    return tuple(hit)


def _has_queries(mixed: Any) -> bool:
    """Whether an attention has more than one query, of known number; it is not fused otherwise."""
    shape = mixed.get_output_partial_shape(0)
    return bool(shape.is_static and len(shape) > 1 and shape[-2].get_length() > 1)


def _operands(operation: Any) -> list[Any]:
    """What an elementwise operation computes on, of its own static shape: no constants, nothing that is broadcast."""
    shape = operation.get_output_partial_shape(0)
    values = [operation.input_value(port) for port in range(operation.get_input_size())]
    same = [value.get_node() for value in values if shape.is_static and value.get_partial_shape() == shape]
    return [_without_reshape(node) for node in same if node.get_type_name() != "Constant"]


def _fused_with(operation: Any) -> Iterator[str]:
    """Unique names of an operation and of those whose results reach it through elementwise operations only."""
    yield operation.get_name()
    if operation.get_type_name() in _ELEMENTWISE_OPS and _readers(operation) == 1:
        for operand in _operands(operation):
            yield from _fused_with(operand)


def _is_kernel(operation: Any) -> bool:
    """Whether an elementwise operation runs in a kernel of its own: a product takes bias and activation with it."""
    if operation.get_type_name() not in _ELEMENTWISE_OPS:
        return False
    sources = [operation.input_value(port).get_node() for port in range(operation.get_input_size())]
    computed = [source for source in sources if source.get_type_name() not in ("Constant", "Convert")]
    if len(computed) != 1:
        return True
    kind = computed[0].get_type_name()
    return kind not in _PRODUCTS and (kind not in _ELEMENTWISE_OPS or _is_kernel(computed[0]))


def _without_reshape(operation: Any) -> Any:
    """The operation behind changes of shape that lead back to the same shape, which OpenVINO drops."""
    shape, kept = operation.get_output_partial_shape(0), operation
    while operation.get_type_name() in ("Reshape", "Squeeze", "Unsqueeze"):
        operation = operation.input_value(0).get_node()
        if operation.get_output_partial_shape(0) == shape:
            kept = operation
    return kept


def _readers(operation: Any) -> int:
    """How many inputs read the result, seen through operations that change no shape."""
    nodes = [reader.get_node() for reader in operation.output(0).get_target_inputs()]
    passing = [node for node in nodes if node.get_type_name() == "Reshape" and _keeps_shape(node)]
    return len(nodes) - len(passing) + sum(_readers(node) for node in passing)


def _keeps_shape(operation: Any) -> bool:
    before, after = operation.get_input_partial_shape(0), operation.get_output_partial_shape(0)
    return bool(before.is_static and before == after)
