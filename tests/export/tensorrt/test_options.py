"""Options of a build are checked before anything is built."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.export.targets.options import describe_options, read_options
from fptk.export.targets.registry import get_target
from fptk.export.targets.tensorrt import TrtRtxOptions
from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.product import DEFAULT_SM, TENSORRT, TENSORRT_RTX, Product
from fptk.export.tensorrt.trtexec import measure_command, trtexec_command


def read(target: str, *assignments: str) -> dict[str, Any]:
    return read_options([target], assignments)[target]


def test_parts_the_builders_options_from_the_quantizers() -> None:
    given = TrtRtxOptions.model_validate(read("trt-rtx", "sm=[86, 89, 86]", "range_estimator=percentile"))
    assert given.builder.sm == (86, 89)
    assert given.quantizer.range_estimator == "percentile"
    assert given.builder == TensorRTOptions(sm=(86, 89))


@pytest.mark.parametrize(
    ("target", "assignment", "named"),
    [
        ("trt-rtx", "sm=[70]", "compute capability 70"),
        ("trt-rtx", "sm=now", "or current, found now"),
        ("trt", "sm=86", "no chosen target has this option"),
        ("trt-rtx", "dla_core=0", "no chosen target has this option"),
        ("trt", "dynamic_batch=4:2:8", "4:2:8"),
        ("trt", "dynamic_batch=0:2:8", "0:2:8"),
        ("trt", "dynamic_batch=4", "MIN:OPT:MAX"),
        ("trt", "min_int8_layers=90", "min_int8_layers=90"),
        ("trt", "min_int8_layers=.nan", "min_int8_layers=nan"),
        ("trt", "hardware_compatibility=all", "hardware_compatibility"),
        ("trt", "workspace_mib=0", "workspace_mib"),
        ("trt", "workspace_mib=99999999999", "workspace_mib"),
        ("trt", "min_int8_layer=0.9", "did you mean min_int8_layers"),
        ("trt", "percentile=3", "percentile"),
        ("trt", "workspace_mib", "KEY=VALUE"),
    ],
)
def test_refuses_an_option_by_name(target: str, assignment: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read(target, assignment)


def test_an_option_goes_to_the_targets_that_have_it() -> None:
    found = read_options(["onnx", "openvino", "trt-rtx"], ["int8_rest=fp32", "openvino.cpu=vnni", "sm=86"])
    assert found == {"openvino": {"int8_rest": "fp32", "cpu": "vnni"}, "trt-rtx": {"int8_rest": "fp32", "sm": 86}}


def test_every_option_is_described() -> None:
    for name in ("onnx", "openvino", "trt", "trt-rtx"):
        rows = describe_options(get_target(name))
        assert rows
        assert all(row.meaning and row.values for row in rows), name


def test_compiles_ahead_of_time_only_where_no_gpu_decides() -> None:
    assert TensorRTOptions().compute_capabilities(TENSORRT_RTX) == DEFAULT_SM
    assert TensorRTOptions(sm=(120,)).compute_capabilities(TENSORRT_RTX) == (120,)
    assert TensorRTOptions().compute_capabilities(TENSORRT) == ()
    assert TensorRTOptions(sm="current").compute_capabilities(TENSORRT_RTX) == ()


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
    assert "--useGpu" in command(TENSORRT_RTX, TensorRTOptions(sm="current"), open_batch=False)
    assert "--stronglyTyped" not in words


@pytest.mark.parametrize(
    ("product", "graph", "transfers", "shape", "flags"),
    [
        (TENSORRT, False, True, None, ["--exposeDMA"]),
        (TENSORRT, True, False, None, ["--useCudaGraph", "--noDataTransfers"]),
        (TENSORRT, False, False, "images:4x64x96x3", ["--shapes=images:4x64x96x3", "--noDataTransfers"]),
        (TENSORRT_RTX, False, True, None, []),
        (TENSORRT_RTX, True, False, None, ["--rtxCudaGraphStrategy=wholeGraph", "--noDataTransfers"]),
    ],
)
def test_the_command_that_measures_asks_for_what_fptk_does(
    product: Product, graph: bool, transfers: bool, shape: str | None, flags: list[str]
) -> None:
    command = measure_command(product, "my model.engine", cuda_graph=graph, transfers=transfers, shape=shape)
    assert shlex.split(command) == [product.tool, "--loadEngine=my model.engine", "--useSpinWait", *flags]


def test_the_command_for_throughput_lets_copies_and_kernels_overlap() -> None:
    command = measure_command(TENSORRT, "a.engine", cuda_graph=False, transfers=True, shape=None, several=True)
    assert shlex.split(command) == ["trtexec", "--loadEngine=a.engine", "--useSpinWait", "--infStreams=2"]
