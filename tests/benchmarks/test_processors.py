"""The processor matrix: which rows there are, which are judged, and real processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.benchmarks import processors
from fptk.benchmarks.processors import (
    MatrixImages,
    MatrixLimits,
    MatrixRequest,
    ProcessorMatrix,
    ProcessorRow,
    mark_failed,
    measure_processors,
)
from fptk.core.classes import CELEBAMASK
from fptk.core.cpu import FAMILIES, INSTRUCTION_SETS, ISA_VARIABLE, cpu_family, host_instruction_sets
from fptk.core.dataset import UInt8Array
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.engine_process import engine_command
from fptk.export.targets.base import BuildRequest
from fptk.export.targets.registry import get_target

SPEC = PreprocessSpec(size=(64, 64))
LIMITS = MatrixLimits(max_miou_drop=0.5, max_agreement_drop=2.0)


def row(name: str, agreement: float | None, miou: float | None, **more: object) -> ProcessorRow:
    fields = {"instruction_set": name, "family": "vnni", "promised": True, "status": "measured", **more}
    return ProcessorRow(**fields, agreement=agreement, mean_miou=miou, milliseconds=None if miou is None else 1.0)  # type: ignore[arg-type]


def test_a_promised_row_below_a_limit_fails_and_others_are_only_shown() -> None:
    rows = [
        row("AVX2", 0.30, 0.02),
        row("AVX512_CORE", 0.30, 0.02, promised=False),
        row("AVX512_CORE_VNNI", 0.995, 0.70),
        row("AVX512_CORE_BF16", 0.97, 0.70),
        row("AVX512_CORE_FP16", 0.994, 0.69),
        row("AVX512_CORE_AMX", None, None, status="crashed", reason="SIGSEGV"),
    ]
    judged = mark_failed(rows, 0.70, LIMITS)
    assert [each.failed for each in judged] == [True, False, False, True, True, True]
    matrix = ProcessorMatrix(processor="p", images=4, threads=1, reference_mean_miou=0.7, rows=tuple(judged))
    assert matrix.summary.startswith("wrong on a promised processor: AVX2 30.00 % of pixels as FP32")
    assert "AVX512_CORE_AMX (SIGSEGV)" in matrix.summary


def test_limits_themselves_pass() -> None:
    rows = mark_failed([row("AVX2", 0.98, 0.695), row("AVX512_CORE_VNNI", 1.0, 0.70)], 0.70, LIMITS)
    assert not any(each.failed for each in rows)


@pytest.fixture
def measured(graph: Path, images: UInt8Array, tmp_path: Path) -> tuple[MatrixRequest, MatrixImages]:
    """The untrained network's OpenVINO engine, and its own labels as reference and truth."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    target = get_target("openvino")
    engine = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    with target.load(engine, SPEC, threads=1) as session:
        labels = session(images[:2])
    command = engine_command("openvino", engine, SPEC, CELEBAMASK, threads=1, precision_hint="f32")
    request = MatrixRequest("openvino fp32", command, ISA_VARIABLE, FAMILIES, threads=1)
    return request, MatrixImages(images[:2], list(labels), labels)


def test_every_instruction_set_of_this_host_is_measured(
    measured: tuple[MatrixRequest, MatrixImages], heard: Any
) -> None:
    matrix = measure_processors(*measured, LIMITS, heard)
    assert [each.instruction_set for each in matrix.rows] == [each.name for each in INSTRUCTION_SETS]
    here = {each.name for each in host_instruction_sets()}
    for each in matrix.rows:
        assert each.status == ("measured" if each.instruction_set in here else "not tested"), each
        if each.status == "measured":
            assert each.agreement is not None
            assert each.agreement > 0.99
            assert each.milliseconds
        else:
            assert "does not have it" in each.reason
    assert not matrix.failed
    count = len(INSTRUCTION_SETS)
    assert heard.counted == [("openvino fp32: instruction sets", count, False, list(range(1, count + 1)))]


def test_a_precision_is_not_offered_where_the_instruction_set_lacks_it(
    measured: tuple[MatrixRequest, MatrixImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a process that says so is believed."""
    started: list[dict[str, str]] = []

    def refuse(*arguments: object) -> dict[str, object]:
        started.append(arguments[3])  # type: ignore[arg-type]
        return {"status": "not offered", "reason": "no"}

    monkeypatch.setattr(processors, "_measured", refuse)
    matrix = measure_processors(replace(measured[0], needs_bf16=True), measured[1], LIMITS)
    offered = {each.instruction_set: each.status for each in matrix.rows}
    assert offered["AVX2"] == offered["AVX512_CORE_VNNI"] == "not offered"
    assert len(started) == sum(each.bf16 for each in host_instruction_sets())
    assert not matrix.failed


def test_an_engine_that_cannot_be_told_is_measured_on_this_processor_alone(
    graph: Path, images: UInt8Array, tmp_path: Path
) -> None:
    engine = get_target("onnx").build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    labels = np.zeros((2, 64, 64), np.uint8)
    command = engine_command("onnx", engine, SPEC, CELEBAMASK, threads=1)
    request = MatrixRequest("onnx fp32", command, None, FAMILIES, threads=1)
    matrix = measure_processors(request, MatrixImages(images[:2], list(labels), labels), None)
    *told, native = matrix.rows
    assert (native.instruction_set, native.family, native.status) == ("native", cpu_family(), "measured")
    assert {each.status for each in told} == {"not tested"}


def test_an_engine_that_dies_there_is_told_from_one_that_is_not_offered(
    measured: tuple[MatrixRequest, MatrixImages], tmp_path: Path
) -> None:
    request, images = measured
    next(tmp_path.glob("*.xml")).write_bytes(b"no engine")
    matrix = measure_processors(request, images, LIMITS)
    crashed = [each for each in matrix.rows if each.status == "crashed"]
    assert len(crashed) == len(host_instruction_sets()) == len(matrix.failed)
    assert "cannot load" in crashed[0].reason
