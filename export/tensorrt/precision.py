"""Precision lives in the ONNX file: copied for FP32, converted for FP16, explicit Q/DQ nodes for INT8."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fptk.errors import InputError
from fptk.export.targets.base import BuildRequest, Precision
from fptk.export.tensorrt.graph import Graph, activation_products
from fptk.export.tensorrt.half import convert_to_half
from fptk.export.tensorrt.options import TensorRTOptions, quantiser_settings
from fptk.files import atomic_file


def write_precision_onnx(
    request: BuildRequest, options: TensorRTOptions, quantiser: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Write the ONNX file that a strongly typed network of ``request.precision`` is parsed from.

    Args:
        request: the build; INT8 needs its calibration images, FP16 uses them for its range analysis where given.
        options: the builder's settings, of which ``attention_int8`` concerns the file.
        quantiser: fields of ``OnnxQuantSettings``; only INT8 takes any.
        path: file to write, whole or not at all.

    Returns:
        What the bundle records of it: quantiser settings, nodes kept in float32 and why.

    Raises:
        InputError: no calibration images for INT8, unknown settings, or the file is no ONNX file.
    """
    if request.precision is Precision.INT8:
        from fptk.calibration.onnx_quantiser import quantise_onnx

        if not options.attention_int8:
            products = activation_products(Graph.read(request.onnx_path))
            quantiser = {**quantiser, "float_nodes": (*quantiser.get("float_nodes", ()), *products)}
        settings = quantiser_settings(quantiser)
        images = request.calibration_images()
        details = {"quantiser": quantise_onnx(request.onnx_path, path, images, settings).model_dump(mode="json")}
        if options.int8_rest == "fp16":
            details["rest"] = convert_to_half(request.onnx_path, path, images, quantised=path).as_dict()
        return details
    if quantiser:
        raise InputError(f"option '{min(quantiser)}' belongs to INT8 and has no meaning for {request.precision}")
    if request.precision is Precision.FP16:
        return convert_to_half(request.onnx_path, path, request.calibration).as_dict()
    with atomic_file(path) as temporary:
        shutil.copyfile(request.onnx_path, temporary)
    return {}
