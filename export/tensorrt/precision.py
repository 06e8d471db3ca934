"""Precision lives in the ONNX file: copied for FP32, converted for FP16, explicit Q/DQ nodes for INT8."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fptk.calibration.onnx_graph import Graph, activation_products, load_model
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, quantize_onnx
from fptk.core.files import atomic_file
from fptk.core.precision import Precision
from fptk.export.record import BuildRecord
from fptk.export.targets.base import BuildRequest
from fptk.export.tensorrt.fp16 import convert_to_fp16
from fptk.export.tensorrt.lowering import lower_transposed, lower_uint8
from fptk.export.tensorrt.options import TensorRTOptions


def write_precision_onnx(
    request: BuildRequest, options: TensorRTOptions, quantizer: OnnxQuantSettings, path: Path
) -> BuildRecord:
    """Write the ONNX file that a strongly typed network of ``request.precision`` is parsed from.

    Args:
        request: the build; INT8 needs its calibration images, FP16 uses them for its range analysis where given.
        options: the builder's settings, of which ``attention_int8`` concerns the file.
        quantizer: how INT8 is made.
        path: file to write, whole or not at all.

    Returns:
        What the bundle keeps of it: quantizer settings, nodes kept in float32 and why.

    Raises:
        InputError: no calibration images for INT8, or the file is no ONNX file.
    """
    with tempfile.TemporaryDirectory(prefix="fptk-") as scratch:
        source = Path(scratch) / "float.onnx"
        record = BuildRecord(details={"lowered": _write_lowered(request.onnx_path, source, request.precision)})
        if request.precision is Precision.INT8:
            _quantize(source, request, options, quantizer, path, record)
        elif request.precision is Precision.FP16:
            images = request.calibration.images if request.calibration else None
            record.details |= convert_to_fp16(source, path, images).as_dict()
        else:
            with atomic_file(path) as temporary:
                shutil.copyfile(source, temporary)
        return record


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
    source: Path,
    request: BuildRequest,
    options: TensorRTOptions,
    settings: OnnxQuantSettings,
    path: Path,
    record: BuildRecord,
) -> None:
    if not options.attention_int8:
        products = activation_products(Graph(load_model(source)))
        settings = settings.model_copy(update={"float_nodes": (*settings.float_nodes, *products)})
    calibration = request.calibrate()
    images = calibration.images
    record.quantizer = quantize_onnx(
        source, path, images, settings, calibration_sha256=calibration.sha256, cache=calibration.ranges()
    )
    if options.int8_rest == "fp16":
        record.details["rest"] = convert_to_fp16(source, path, images, quantized=path).as_dict()
