"""Static int8 quantization of an ONNX model into explicit Q/DQ form, by ONNX Runtime's quantizer.

Two recipes exist because two readers disagree about what Q/DQ should look like:

``tensorrt``
    int8 activations and weights, symmetric, a dedicated Q/DQ pair per input, no int32 bias, outputs left float: what
    TensorRT's parser takes whole. ONNX Runtime runs it too, but its CPU kernels fuse a convolution only where bias
    and output are quantized as well, so there it computes most layers in float on rounded numbers.
``cpu``
    uint8 asymmetric activations, int32 biases, outputs of convolutions quantized: what ONNX Runtime fuses into integer
    kernels (:mod:`fptk.calibration.onnx_integer_form`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fptk.calibration.images import ImageStream
from fptk.calibration.onnx_graph import (
    QUANTIZED_OPS,
    Graph,
    apply,
    common_passes,
    float_tensors,
    load_float_model,
    quantizable_nodes,
)
from fptk.calibration.onnx_integer_form import (
    Shift,
    correct_biases,
    drop_casts_of_pixels,
    free_products,
    integer_biases,
    integer_left_constants,
    take_pixels_as_they_are,
)
from fptk.calibration.range_cache import Range, RangeCache, RangeTable
from fptk.calibration.ranges import RangeEstimator, measure_ranges
from fptk.calibration.report import FloatLayer, QuantReport
from fptk.core.cpu import FAMILIES, Family
from fptk.core.errors import InputError, missing_package
from fptk.core.files import atomic_file, sha256_file
from fptk.core.host import tool_versions

if TYPE_CHECKING:
    import onnx

OpType = Literal["Conv", "ConvTranspose", "MatMul", "Gemm"]
"""Operators that can be quantized."""

ARITHMETIC_OPS: tuple[OpType, ...] = ("Conv", "MatMul", "Gemm")


class OnnxQuantSettings(BaseModel):
    """How an ONNX model is quantized.

    Raises:
        ValidationError: (pydantic's) a field is unknown or its value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "default"
    """What a table calls this setting."""
    recipe: Literal["tensorrt", "cpu"] = "tensorrt"
    """Form of the Q/DQ pairs. ``tensorrt``: symmetric int8, outputs left float. ``cpu``: asymmetric uint8 activations,
    int32 biases, outputs quantized: what ONNX Runtime fuses into integer kernels."""
    op_types: tuple[OpType, ...] = ARITHMETIC_OPS
    """Operator types that are quantized."""
    range_estimator: RangeEstimator = "minmax"
    """How the range of an activation follows from the values seen."""
    percentile: float = Field(default=99.999, gt=50, le=100)
    """Share of the values that ``percentile`` keeps, in percent."""
    per_channel: bool = True
    """One weight scale per output channel instead of one per tensor."""
    reduce_range: bool = False
    """Weights in 7 bits: no saturation on x86 processors without VNNI."""
    smooth_quant: bool = False
    """Shift the outliers of activations into the weights first (SmoothQuant, Xiao et al. 2023, equation 4)."""
    smooth_alpha: float = Field(default=0.5, ge=0, le=1)
    """0 leaves all difficulty in the activations, 1 moves all of it into the weights."""
    float_nodes: tuple[str, ...] = ()
    """Names of ONNX nodes kept in float."""
    only_nodes: tuple[str, ...] | None = None
    """Where given, every other node is kept in float."""


def cpu_settings(families: Iterable[Family] = FAMILIES) -> OnnxQuantSettings:
    """The default for ONNX Runtime on a processor: the recipe that its integer kernels take.

    Args:
        families: processors that the engine must be right on. Where one of them has no VNNI, weights get 7 bits: sums
            of full-range products saturate there.
    """
    return OnnxQuantSettings(recipe="cpu", reduce_range="avx2" in families)


def quantize_onnx(
    source: Path,
    destination: Path,
    images: ImageStream,
    settings: OnnxQuantSettings | None = None,
    *,
    calibration_sha256: str | None = None,
    cache: RangeCache | None = None,
) -> QuantReport:
    """Quantize the float model ``source`` and write ``destination``.

    Args:
        source: float ONNX, input uint8 (N, H, W, 3) with the normalisation inside, output uint8 (N, H, W).
        destination: file to write, whole or not at all; inputs, outputs and metadata are those of ``source``.
        images: starts a pass over the calibration images, uint8 (1, H, W, 3) each; at most two passes are made, three
            with SmoothQuant.
        settings: how; ``None`` is the default recipe.
        calibration_sha256: hash of the calibration list, for the report.
        cache: keeps measured ranges between runs; it must have been made for these images.

    Raises:
        InputError: ``source`` is missing, damaged or already quantized; the set is empty; an activation is not finite;
            a name in ``float_nodes`` or ``only_nodes`` is not in the graph.
    """
    started = time.monotonic()
    settings = settings or OnnxQuantSettings()
    model = load_float_model(source)
    chosen, kept = choose_layers(model, settings)
    source_sha256 = sha256_file(source)
    if settings.smooth_quant:
        from fptk.calibration.smoothquant import smooth

        model = smooth(model, chosen, images, settings.smooth_alpha)
    table = measured_ranges(model, source_sha256, images, settings, cache)
    quantized = insert_qdq(model, table.ranges, settings, chosen)
    del quantized.metadata_props[:]  # the quantizer adds marks of its own
    quantized.metadata_props.extend(model.metadata_props)
    with atomic_file(destination) as temporary:
        temporary.write_bytes(quantized.SerializeToString())
    return QuantReport(
        engine="onnx",
        settings=settings.model_dump(mode="json"),
        quantised=tuple(chosen),
        kept_float=tuple(kept),
        images=table.images,
        calibration_sha256=calibration_sha256,
        source_sha256=source_sha256,
        seconds=round(time.monotonic() - started, 3),
        versions=tool_versions("onnx", "onnxruntime"),
    )


def measured_ranges(
    model: onnx.ModelProto,
    source_sha256: str,
    images: ImageStream,
    settings: OnnxQuantSettings,
    cache: RangeCache | None = None,
) -> RangeTable:
    """Ranges of the activations that the recipe quantizes, from the cache where it has them.

    Args:
        model: float model (after SmoothQuant, where the settings ask for it).
        source_sha256: hash of the file that ``model`` came from.
        images: starts a pass over the calibration images.
        settings: recipe and estimator.
        cache: keeps tables between runs.

    Raises:
        InputError: the set is empty or an activation is not finite.
    """
    depends_on = {"recipe", "op_types", "range_estimator", "percentile"}
    if settings.smooth_quant:  # smoothing rewrites the chosen layers only
        depends_on |= {"smooth_quant", "smooth_alpha", "float_nodes", "only_nodes"}
    key = {
        "weights": source_sha256,
        "settings": {name: value for name, value in settings.model_dump(mode="json").items() if name in depends_on},
        "versions": tool_versions("fptk", "onnx", "onnxruntime"),
    }
    table = cache.fetch(key) if cache else None
    if table is None:
        tensors = tensors_to_measure(model, settings)
        table = measure_ranges(model, tensors, images, settings.range_estimator, settings.percentile)
        if cache:
            cache.store(key, table)
    return table


def choose_layers(model: onnx.ModelProto, settings: OnnxQuantSettings) -> tuple[list[str], list[FloatLayer]]:
    """Names of the nodes to quantize, and the quantizable ones that stay float with the reason.

    Raises:
        InputError: the settings name a node that the graph does not hold, or nothing is left to quantize.
    """
    names = {node.name for node in model.graph.node}
    for name in (*settings.float_nodes, *(settings.only_nodes or ())):
        if name not in names:
            raise InputError(f"the graph has no node '{name}'; names are those of the ONNX file's nodes")
    chosen, kept = [], []
    for node in quantizable_nodes(model, settings.op_types):
        if node.name in settings.float_nodes:
            kept.append(FloatLayer(name=node.name, op_type=node.op_type, reason="kept in float by the settings"))
        elif settings.only_nodes is not None and node.name not in settings.only_nodes:
            kept.append(FloatLayer(name=node.name, op_type=node.op_type, reason="not among the nodes to quantise"))
        else:
            chosen.append(node.name)
    return chosen, kept


def tensors_to_measure(model: onnx.ModelProto, settings: OnnxQuantSettings) -> list[str]:
    """Float activations that the recipe puts Q/DQ on, in graph order, whichever nodes are chosen.

    Covering every quantizable node makes one table of ranges serve every choice of nodes.
    """
    floats = float_tensors(model)
    names: dict[str, None] = {}
    for node in quantizable_nodes(model, settings.op_types):
        touched = [*node.input, *node.output] if settings.recipe == "cpu" else list(node.input)
        names.update((name, None) for name in touched if name in floats)
    return list(names)


def insert_qdq(
    model: onnx.ModelProto, ranges: dict[str, Range], settings: OnnxQuantSettings, nodes: Sequence[str]
) -> onnx.ModelProto:
    """A copy of the float ``model`` with Q/DQ around ``nodes``.

    Args:
        model: float model with inferred shapes and unique node names (:func:`load_float_model`).
        ranges: (low, high) of every activation that the recipe quantizes.
        settings: the recipe; its ``float_nodes`` and ``only_nodes`` are not looked at.
        nodes: names of the nodes to quantize.

    Raises:
        ValueError: the quantizer made a scale or zero point that no engine takes (a bug, not the user's).
    """
    try:
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    except ImportError as error:
        raise missing_package(error.name or "onnx", "export") from None
    import onnx

    passes = common_passes()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not nodes:  # an empty list means "all" to ONNX Runtime
        return copy
    shifts: dict[str, Shift] = {}
    if settings.recipe == "cpu":
        ranges, shifts = take_pixels_as_they_are(copy, ranges, nodes)
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    with quiet_quantizer():
        quantizer = QDQQuantizer(
            copy,
            settings.per_channel,
            settings.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if settings.recipe == "tensorrt" else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, limits),
            list(nodes),
            [],
            list(settings.op_types),
            _extra_options(settings),
        )
        quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    # It appends the pairs after their readers, which the checker refuses, and leaves the float weights behind.
    apply(result, passes.TopologicalSortPass(), passes.RemoveUnusedNodesPass())
    if settings.recipe == "cpu":
        free_products(result, nodes)
        integer_biases(result)
        integer_left_constants(result)
        correct_biases(result, shifts)
        drop_casts_of_pixels(result)
    check_qdq(result)
    return result


def check_qdq(model: onnx.ModelProto) -> None:
    """Check that every scale is positive and finite and every zero point lies in its type's range.

    Raises:
        ValueError: one is not; it is named.
    """
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type not in QUANTIZED_OPS:
            continue
        scale, zero_point = (graph.constant(name) for name in node.input[1:3])
        if scale is None or zero_point is None:
            raise ValueError(f"{node.name}: scale or zero point is computed; expected constants")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"{node.name}: scale {scale.min()}..{scale.max()} is not positive and finite")
        if zero_point.dtype not in (np.int8, np.uint8, np.int32):
            raise ValueError(f"{node.name}: zero point has type {zero_point.dtype}; expected int8, uint8 or int32")


def _extra_options(settings: OnnxQuantSettings) -> dict[str, Any]:
    if settings.recipe == "cpu":
        return {"ActivationSymmetric": False, "WeightSymmetric": True}
    return {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "DedicatedQDQPair": True,
        "OpTypesToExcludeOutputQuantization": list(settings.op_types),
    }


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Keep ONNX Runtime's quantizer, which writes advice to the root logger, from speaking to the user."""

    def foreign(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root = logging.getLogger()
    root.addFilter(foreign)
    try:
        yield
    finally:
        root.removeFilter(foreign)
