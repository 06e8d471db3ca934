"""Options of a build are checked before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.export.tensorrt.options import TensorRTOptions, quantizer_settings, split_options
from fptk.export.tensorrt.product import DEFAULT_SM, TENSORRT, TENSORRT_RTX, Product
from fptk.export.tensorrt.trtexec import trtexec_command


def test_parts_the_builders_options_from_the_quantizers() -> None:
    options, rest = split_options({"sm": [86, 89, 86], "range_estimator": "percentile"}, TENSORRT_RTX)
    assert options.sm == (86, 89)
    assert quantizer_settings(rest).range_estimator == "percentile"


@pytest.mark.parametrize(
    ("given", "product", "named"),
    [
        ({"sm": [70]}, TENSORRT_RTX, "compute capability 70"),
        ({"sm": [86]}, TENSORRT, "no option 'sm'"),
        ({"dla_core": 0}, TENSORRT_RTX, "no option 'dla_core'"),
        ({"dynamic_batch": (4, 2, 8)}, TENSORRT, "4:2:8"),
        ({"dynamic_batch": (0, 2, 8)}, TENSORRT, "0:2:8"),
        ({"min_int8_layers": 90}, TENSORRT, "min_int8_layers=90"),
        ({"hardware_compatibility": "all"}, TENSORRT, "hardware_compatibility"),
        ({"workspace_mib": 0}, TENSORRT, "workspace_mib"),
    ],
)
def test_refuses_an_option_by_name(given: dict[str, Any], product: Product, named: str) -> None:
    with pytest.raises(InputError, match=named):
        split_options(given, product)


def test_refuses_an_option_that_belongs_to_nobody() -> None:
    with pytest.raises(InputError, match=r"unknown option 'min_int8_layer'.*min_int8_layers"):
        quantizer_settings({"min_int8_layer": 0.9})
    with pytest.raises(InputError, match="percentile"):
        quantizer_settings({"percentile": 3})


def test_compiles_ahead_of_time_only_where_no_gpu_decides() -> None:
    assert TensorRTOptions().compute_capabilities(TENSORRT_RTX) == DEFAULT_SM
    assert TensorRTOptions(sm=(120,)).compute_capabilities(TENSORRT_RTX) == (120,)
    assert TensorRTOptions().compute_capabilities(TENSORRT) == ()


def command(product: Product, options: TensorRTOptions, *, open_batch: bool) -> list[str]:
    words = trtexec_command(
        product, "m.onnx", "m.engine", options, input_name="images", size=(512, 384), open_batch=open_batch
    )
    return words.split()


def test_trtexec_command_says_everything_that_was_asked_for() -> None:
    options = TensorRTOptions(
        dynamic_batch=(1, 4, 8),
        workspace_mib=512,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        dla_core=1,
        optimization_level=5,
    )
    words = command(TENSORRT, options, open_batch=True)
    assert words[:3] == ["trtexec", "--onnx=m.onnx", "--saveEngine=m.engine"]
    assert {
        "--stronglyTyped",
        "--minShapes=images:1x512x384x3",
        "--optShapes=images:4x512x384x3",
        "--maxShapes=images:8x512x384x3",
        "--memPoolSize=workspace:512",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--builderOptimizationLevel=5",
    } <= set(words)


def test_trtexec_command_gives_no_shapes_for_a_fixed_batch() -> None:
    """trtexec refuses shapes for a model without an open dimension."""
    assert not [word for word in command(TENSORRT, TensorRTOptions(), open_batch=False) if "Shapes" in word]
    words = command(TENSORRT_RTX, TensorRTOptions(sm=(86, 89)), open_batch=False)
    assert words[0] == "tensorrt_rtx"
    assert "--computeCapabilities=86,89" in words
    assert "--stronglyTyped" not in words
