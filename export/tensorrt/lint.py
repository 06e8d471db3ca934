"""The checker: what TensorRT would reject or silently mis-scale in an ONNX file, by node, before TensorRT is started.

Sources: *TensorRT: Explicit Quantization* (symmetric INT8, per-tensor activations), *ONNX operator support*; and builds
with TensorRT-RTX 1.7 (``tests/export/tensorrt/test_builds.py`` repeats them): it rejects a zero point other than 0, an
int32 bias, int16, a scale of 0 and uint8 arithmetic, reads uint8 as int8 with a warning, and the Attention operator
kills its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fptk.calibration.onnx_graph import COMPUTE_OPS, QUANTIZED_OPS, Graph, Node, attribute, load_model
from fptk.export.findings import ERROR, WARNING, Finding, raise_on_errors
from fptk.export.tensorrt.lowering import TAKES_UINT8

MAX_RANK = 8
"""TensorRT's tensors have at most this many dimensions."""
TURING = 75

UNSUPPORTED_OPS = frozenset({
    "AffineGrid", "Bernoulli", "BitShift", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger",
    "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool",
    "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement",
    "OptionalHasElement", "QLinearConv", "QLinearMatMul", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence",
    "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
})  # fmt: skip
"""Standard operators that the parser of TensorRT-RTX 1.7 has no importer for."""


def lint_tensorrt(path: Path, compute_capabilities: Iterable[int] = ()) -> list[Finding]:
    """Check an ONNX file for TensorRT.

    Args:
        path: ONNX file, quantized or not.
        compute_capabilities: GPUs to build for, without the dot (75 is Turing); empty checks what holds for all.

    Returns:
        The findings, errors first, in the order of the graph.

    Raises:
        InputError: the file is missing or no ONNX file.
    """
    graph = Graph(load_model(path))
    findings = [
        *_check_operators(graph),
        *_check_types(graph),
        *_check_quantizers(graph),
        *_check_partly_quantized(graph),
        *_check_turing(graph, compute_capabilities),
    ]
    return sorted(findings, key=lambda finding: finding.severity != ERROR)


def refuse_errors(path: Path, findings: Iterable[Finding]) -> None:
    """Turn errors into one message.

    Raises:
        InputError: there is an error among ``findings``; the first three are named.
    """
    raise_on_errors(f"TensorRT would not take {path.name}", findings)


def _check_operators(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield _error(
                "custom-domain",
                node,
                f"operator {node.domain}.{node.op_type} is no standard one; export without runtime-specific fusions",
            )
        elif node.op_type == "Attention":
            yield _error(
                "attention-op",
                node,
                f"opset {graph.opset} exported an Attention operator, which crashes or fails the build; "
                "export with opset_version=20",
            )
        elif node.op_type in UNSUPPORTED_OPS:
            yield _error("unsupported-op", node, f"the parser has no importer for {node.op_type}; rewrite the layer")


def _check_types(graph: Graph) -> Iterator[Finding]:
    import onnx

    for node in graph.nodes:
        taken = [graph.element_type(name) for name in node.input if name]
        if onnx.TensorProto.UINT8 in taken and node.op_type not in TAKES_UINT8:
            yield _error(
                "uint8-compute",
                node,
                f"{node.op_type} on a uint8 tensor; TensorRT takes uint8 at the input and output only: "
                "put the Cast to float before it",
            )
        if onnx.TensorProto.DOUBLE in taken and node.op_type != "Cast":
            yield _warning("float64", node, f"{node.op_type} in float64 is computed in float32")
        ranks = [len(shape) for name in (*node.input, *node.output) if (shape := graph.shape(name)) is not None]
        if max(ranks, default=0) > MAX_RANK:
            yield _error("rank", node, f"{node.op_type} on {max(ranks)} dimensions; TensorRT has at most {MAX_RANK}")
        elif max(ranks, default=0) >= 5 and node.op_type in (*COMPUTE_OPS, "Transpose"):
            yield _warning(
                "five-dimensions",
                node,
                f"{node.op_type} on {max(ranks)} dimensions; TensorRT flattens it, OpenVINO and ncnn may fail: "
                "reshape to 4-D or less",
            )


def _check_quantizers(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type in QUANTIZED_OPS:
            yield from _check_zero_point(graph, node)
            yield from _check_scale(graph, node)
        if node.op_type == "QuantizeLinear":
            others = {user.op_type for user in graph.consumers[node.output[0]]} - {"DequantizeLinear"}
            if others:
                yield _error(
                    "bare-quantize",
                    node,
                    f"its INT8 output goes to {', '.join(sorted(others))}; every Q needs a DQ behind it",
                )


def _check_zero_point(graph: Graph, node: Node) -> Iterator[Finding]:
    import onnx

    kind = _quantized_type(graph, node)
    if kind == onnx.TensorProto.UINT8:
        yield _error(
            "uint8-zero-point",
            node,
            "uint8 quantisation is read as int8 and halves the range; quantise activations and weights as signed int8",
        )
    elif kind == onnx.TensorProto.INT32:
        yield _error(
            "int32-bias",
            node,
            "an int32 bias behind a DequantizeLinear is rejected; keep biases in float (QuantizeBias=False)",
        )
    elif kind is not None and kind != onnx.TensorProto.INT8:
        yield _error("quantised-type", node, f"quantised type {_type_name(kind)} is not int8; quantise to int8")
    if len(node.input) < 3 or not node.input[2]:
        return
    zero_point = graph.constant(node.input[2])
    if zero_point is None:
        yield _error("computed-zero-point", node, "its zero point is computed; TensorRT needs the constant 0")
    elif np.any(zero_point.astype(np.int64)):
        value = zero_point.astype(np.int64).ravel()
        yield _error(
            "asymmetric",
            node,
            f"zero point {value[np.abs(value).argmax()]} is not 0; quantise symmetrically "
            "(ActivationSymmetric and WeightSymmetric)",
        )


def _quantized_type(graph: Graph, node: Node) -> int | None:
    """Element type of the quantized side of a Q or DQ; ``None`` where the file doesn't say."""
    import onnx

    if node.op_type == "DequantizeLinear":
        kind = graph.element_type(node.input[0])
        if kind:
            return kind
    if len(node.input) > 2 and node.input[2]:
        return graph.element_type(node.input[2])
    if node.op_type == "QuantizeLinear":
        # Without a zero point the standard says uint8 unless output_dtype tells otherwise.
        return int(attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8)
    return None


def _check_scale(graph: Graph, node: Node) -> Iterator[Finding]:
    scale = graph.constant(node.input[1])
    if scale is None:
        if not graph.is_constant(node.input[1]):
            yield _error("computed-scale", node, "its scale is computed at run time; TensorRT needs a constant")
        return
    values = scale.astype(np.float64).ravel()
    if not np.all(np.isfinite(values)) or np.any(values <= 0):
        bad = values[~(np.isfinite(values) & (values > 0))][0]
        yield _error("bad-scale", node, f"scale {bad:g} is not positive and finite; calibrate it again")
    if attribute(node, "block_size", 0):
        yield _error("block-scale", node, "block-wise scales exist for 4-bit weights only; use one scale a channel")
    elif values.size > 1 and not graph.is_constant(node.input[0]):
        yield _warning(
            "per-channel-activation",
            node,
            f"{values.size} scales on an activation; only one scale a tensor has INT8 kernels, the layer runs in float",
        )


def _check_partly_quantized(graph: Graph) -> Iterator[Finding]:
    if not any(node.op_type == "DequantizeLinear" for node in graph.nodes):
        return
    for node in graph.nodes:
        if node.op_type not in COMPUTE_OPS:
            continue
        bare = [name for name in node.input[:2] if not graph.is_dequantized(name)]
        if bare:
            yield _warning(
                "unquantised-input",
                node,
                f"{node.op_type} runs in float: no Q/DQ on {' and '.join(bare)}",
            )


def _check_turing(graph: Graph, compute_capabilities: Iterable[int]) -> Iterator[Finding]:
    import onnx

    if TURING not in compute_capabilities:
        return
    for node in graph.nodes:
        if node.op_type not in COMPUTE_OPS:
            continue
        if any(graph.is_dequantized(name) for name in node.input[:2]):
            yield _error("sm75-int8", node, f"TensorRT-RTX has no INT8 {node.op_type} for Turing (SM 75); use --fp16")
        elif graph.element_type(node.input[0]) == onnx.TensorProto.FLOAT:
            yield _error(
                "sm75-float32",
                node,
                f"TensorRT-RTX has no float32 {node.op_type} for Turing (SM 75); use --fp16 or leave 75 out of --sm",
            )


def _error(code: str, node: Node, message: str) -> Finding:
    return Finding(code, ERROR, node.name, message)


def _warning(code: str, node: Node, message: str) -> Finding:
    return Finding(code, WARNING, node.name, message)


def _type_name(kind: int) -> str:
    import onnx

    name: Any = onnx.TensorProto.DataType.Name(kind)
    return str(name).lower()
