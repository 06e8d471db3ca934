"""Precision lives in the ONNX file: copied for FP32, converted for FP16, explicit Q/DQ nodes for INT8."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fptk.calibration.onnx_graph import Graph, activation_products, load_model
from fptk.core.errors import InputError
from fptk.core.files import atomic_file
from fptk.core.precision import Precision
from fptk.export.targets.base import BuildRequest
from fptk.export.tensorrt.fp16 import convert_to_fp16
from fptk.export.tensorrt.lowering import lower_transposed, lower_uint8
from fptk.export.tensorrt.options import TensorRTOptions, quantizer_settings


def write_precision_onnx(
    request: BuildRequest, options: TensorRTOptions, quantizer: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Write the ONNX file that a strongly typed network of ``request.precision`` is parsed from.

    Args:
        request: the build; INT8 needs its calibration images, FP16 uses them for its range analysis where given.
        options: the builder's settings, of which ``attention_int8`` concerns the file.
        quantizer: fields of ``OnnxQuantSettings``; only INT8 takes any.
        path: file to write, whole or not at all.

    Returns:
        What the bundle records of it: quantizer settings, nodes kept in float32 and why.

    Raises:
        InputError: no calibration images for INT8, unknown settings, or the file is no ONNX file.
    """
    if quantizer and request.precision is not Precision.INT8:
        raise InputError(f"option '{min(quantizer)}' belongs to INT8 and has no meaning for {request.precision}")
    with tempfile.TemporaryDirectory(prefix="fptk-") as scratch:
        source = Path(scratch) / "float.onnx"
        details: dict[str, Any] = {"lowered": _write_lowered(request.onnx_path, source, request.precision)}
        if request.precision is Precision.INT8:
            return details | _quantize(source, request, options, quantizer, path)
        if request.precision is Precision.FP16:
            return (
                details
                | convert_to_fp16(source, path, request.calibration.images if request.calibration else None).as_dict()
            )
        with atomic_file(path) as temporary:
            shutil.copyfile(source, temporary)
        return details


def _write_lowered(source: Path, destination: Path, precision: Precision) -> list[str]:
    """Write ``source`` without what TensorRT has no kernels for; byte for byte the same where there is nothing."""
    model = load_model(source)
    lowered = lower_uint8(model)
    if precision is Precision.INT8:
        lowered += lower_transposed(model)
    if lowered:
        destination.write_bytes(model.SerializeToString())
    else:
        shutil.copyfile(source, destination)
    return lowered


def _quantize(
    source: Path, request: BuildRequest, options: TensorRTOptions, quantizer: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    from fptk.calibration.onnx_quantizer import quantize_onnx

    if not options.attention_int8:
        products = activation_products(Graph(load_model(source)))
        quantizer = {**quantizer, "float_nodes": (*quantizer.get("float_nodes", ()), *products)}
    settings = quantizer_settings(quantizer)
    calibration = request.calibrate()
    images = calibration.images
    report = quantize_onnx(
        source, path, images, settings, calibration_sha256=calibration.sha256, cache=calibration.ranges()
    )
    details = {"quantiser": report.as_dict()}
    if options.int8_rest == "fp16":
        details["rest"] = convert_to_fp16(source, path, images, quantized=path).as_dict()
    return details
