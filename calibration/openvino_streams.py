"""Linears of an OpenVINO graph that begin a residual stream, whose rounding every block behind them reads.

``model`` is an ``openvino.Model``, an operation an ``openvino.Node``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fptk.calibration.openvino_forms import VALUE_KEEPING_OPS, constant_input, is_root_mean_square


def stream_starts(model: Any) -> tuple[str, ...]:
    """Friendly names of the matrix products by constants that begin a residual stream.

    What such a product returns, with its bias, is normalized for a block and added to what the block returns. A Linear
    at a block's end is no beginning: its result is added to the stream first. MicroSegFormer has one in a stage, of 32
    to 192 channels. In int8 they cost 0.11 points of mIoU and saved no time (docs/measurements/low-precision.md).
    """
    return tuple(
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "MatMul"
        and constant_input(operation, 1) is not None
        and _begins_stream(operation)
    )


def _begins_stream(product: Any) -> bool:
    readers = list(_readers(product))
    return any(map(_normalizes, readers)) and any(map(_adds, readers))


def _readers(operation: Any) -> Iterator[Any]:
    """What reads an operation's values: behind the addition of a constant, and operations that hand them on."""
    for reader in _direct_readers(operation):
        handed_on = reader.get_type_name() in VALUE_KEEPING_OPS
        shifted = reader.get_type_name() == "Add" and any(constant_input(reader, port) is not None for port in (0, 1))
        if handed_on or shifted:
            yield from _readers(reader)
        else:
            yield reader


def _direct_readers(operation: Any) -> list[Any]:
    return [port.get_node() for output in operation.outputs() for port in output.get_target_inputs()]


def _normalizes(operation: Any) -> bool:
    """Whether this is a LayerNorm, or squares what a root mean square is taken of."""
    return operation.get_type_name() == "MVN" or any(map(is_root_mean_square, _direct_readers(operation)))


def _adds(operation: Any) -> bool:
    return bool(operation.get_type_name() == "Add")
