"""Kernel faults: what counts as rounding, and which of the wrong layers is at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.calibration import kernel_faults
from fptk.calibration.kernel_faults import (
    LARGEST_ERROR,
    Agreement,
    KernelFault,
    measure_agreement,
    onnx_faults,
    relative_error,
    wrong_layers,
)
from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.calibration.onnx_quantizer import cpu_settings, quantize_onnx
from fptk.core.dataset import UInt8Array

from .networks import attention_network, stream


@pytest.mark.parametrize(
    ("engine", "simulation", "explained"),
    [(0.995, 0.999, True), (0.96, 0.95, True), (0.96, 0.97, False), (0.27, 0.996, False), (1.0, 0.5, True)],
)
def test_an_engine_may_turn_as_many_pixels_as_quantization_does(
    engine: float, simulation: float, explained: bool
) -> None:
    assert Agreement(images=4, engine=engine, simulation=simulation).explained is explained


def test_agreement_counts_pixels() -> None:
    simulation = np.zeros((1, 2, 5), np.uint8)
    engine, reference = simulation.copy(), simulation.copy()
    engine[0, 0, 0] = 1
    reference[0, 1, :2] = 3
    assert measure_agreement(engine, simulation, reference) == Agreement(images=1, engine=0.9, simulation=0.8)


def test_the_first_wrong_layer_is_at_fault_and_those_behind_it_are_not_asked_about() -> None:
    errors = {"a": 0.1, "b": 2.0, "d": LARGEST_ERROR}
    before = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("a",)}
    assert wrong_layers("abcd", before, errors.__getitem__) == {"b": 2.0, "d": LARGEST_ERROR}


def test_an_error_has_a_size_even_if_it_has_none() -> None:
    ones = np.ones(3, np.float32)
    assert relative_error(ones, ones) == 0
    assert relative_error(ones * 1.5, ones) == pytest.approx(0.5)
    for value in (np.inf, np.nan, 1e30):
        assert relative_error(np.full(3, value, np.float32), ones) == LARGEST_ERROR
    fault = KernelFault(layer="a", op_type="Conv", kernel="k", error=LARGEST_ERROR, processor="p", version="v 1")
    assert KernelFault.model_validate(json.loads(fault.model_dump_json())) == fault


@pytest.fixture
def quantized(tmp_path: Path, noise_images: list[UInt8Array]) -> Path:
    path = tmp_path / "int8.onnx"
    quantize_onnx(attention_network(tmp_path), path, stream(noise_images), cpu_settings())
    return path


def test_onnx_runtime_computes_every_layer_right_here(quantized: Path, noise_images: list[UInt8Array]) -> None:
    assert onnx_faults(quantized, np.concatenate(noise_images)) == []


def test_a_layer_that_onnx_runtime_computes_wrongly_is_named(
    quantized: Path,
    noise_images: list[UInt8Array],
    wrong_int8_layer: Callable[[Any, str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(model: Any, **options: Any) -> Any:
        return open_cpu_session(model if options.get("float_only") else wrong_int8_layer(model, "fc1"), **options)

    monkeypatch.setattr(kernel_faults, "open_cpu_session", wrong)
    (fault,) = onnx_faults(quantized, np.concatenate(noise_images))
    assert fault.layer == "fc1"
    assert fault.error > 0.5
    assert fault.version.startswith("onnxruntime ")
