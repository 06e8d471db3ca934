"""OpenVINO models quantised by NNCF (importing it takes four seconds: all slow)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.calibration.openvino_forms import attentions, gate_layers
from fptk.calibration.openvino_quantizer import (
    OpenVinoQuantSettings,
    layers_by_precision,
    openvino_layer_names,
    quantize_openvino,
    quantize_openvino_with_accuracy_control,
    settings_for,
)
from fptk.core.cpu import FAMILIES
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError

from .networks import Faces, attention_network, nearest_color_network, stream

pytestmark = pytest.mark.slow
openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")


def convert(path: Path) -> Any:
    return openvino.convert_model(path)


def predict(model: Any, images: list[UInt8Array]) -> UInt8Array:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(image)[0].copy() for image in images])


@pytest.mark.parametrize(
    "settings",
    [
        OpenVinoQuantSettings(),
        OpenVinoQuantSettings(preset="performance", overflow_fix="disable"),
        OpenVinoQuantSettings(transformer=True, smooth_quant_alpha=0.5),
        OpenVinoQuantSettings(range_estimator="percentile"),
        OpenVinoQuantSettings(range_estimator="mean_minmax", fast_bias_correction=False),
    ],
    ids=["default", "performance", "smooth", "percentile", "mean"],
)
def test_int8_labels_agree_with_float_and_the_source_is_untouched(
    settings: OpenVinoQuantSettings, tmp_path: Path, noise_images: list[UInt8Array], capfd: pytest.CaptureFixture[str]
) -> None:
    model = convert(attention_network(tmp_path))
    before = predict(model, noise_images)
    quantized, report = quantize_openvino(model, stream(noise_images), settings)
    assert (predict(quantized, noise_images) == before).mean() > 0.9
    np.testing.assert_array_equal(predict(model, noise_images), before)
    assert report.images == 4
    assert report.quantised
    assert report.settings["preset"] == settings.preset
    json.dumps(report.as_dict())
    assert capfd.readouterr().out == ""


def test_the_same_call_builds_the_same_model(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    def constants() -> list[bytes]:
        model, _ = quantize_openvino(convert(attention_network(tmp_path)), stream(noise_images))
        return [op.get_data().tobytes() for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]

    assert constants() == constants()


def test_ignored_layers_stay_float_with_a_reason(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    model = convert(attention_network(tmp_path))
    names = openvino_layer_names(model, ["fc1", "gate", "folded away"])
    assert "fc1" in names
    assert any(name.startswith("gate") for name in names)
    quantized, report = quantize_openvino(model, stream(noise_images), OpenVinoQuantSettings(ignored_names=names))
    kept = {layer.name: layer.reason for layer in report.kept_float}
    assert "settings" in kept["fc1"]
    assert "fc1" not in report.quantised
    assert layers_by_precision(quantized)[0] == list(report.quantised)


def test_forms_that_openvino_computes_wrongly_stay_float(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    """Behind a mean on every processor, attentions only where AMX is promised."""
    model = convert(attention_network(tmp_path))
    (gate,) = gate_layers(model)
    assert gate.startswith("gate")
    _, everywhere = quantize_openvino(model, stream(noise_images), settings_for(FAMILIES))
    assert {layer.name for layer in everywhere.kept_float} == {gate, *attentions(model)}
    assert "behind a mean" in {layer.name: layer.reason for layer in everywhere.kept_float}[gate]
    _, without_amx = quantize_openvino(model, stream(noise_images), settings_for(("vnni",)))
    assert [layer.name for layer in without_amx.kept_float] == [gate]
    assert everywhere.settings["overflow_fix"] == "enable"
    assert without_amx.settings["overflow_fix"] == "disable"


def test_bad_requests_are_refused(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    model = convert(nearest_color_network(tmp_path))
    quantized, _ = quantize_openvino(model, stream(noise_images))
    with pytest.raises(InputError, match="already quantised"):
        quantize_openvino(quantized, stream(noise_images))
    with pytest.raises(InputError, match="empty"):
        quantize_openvino(model, stream([]))
    with pytest.raises(InputError, match="no layer 'nowhere'"):
        quantize_openvino(model, stream(noise_images), OpenVinoQuantSettings(ignored_names=("nowhere",)))


def test_accuracy_control_returns_a_model_within_the_drop(tmp_path: Path, all_classes: Faces) -> None:
    model = convert(nearest_color_network(tmp_path))
    images = [sample.image[None] for sample in all_classes.samples]

    def pairs() -> Iterator[tuple[UInt8Array, UInt8Array]]:
        yield from ((sample.image[None], sample.mask) for sample in all_classes.samples)

    quantized, report = quantize_openvino_with_accuracy_control(model, stream(images), pairs, 0.5)
    truth = np.stack([sample.mask for sample in all_classes.samples])
    assert (predict(quantized, images) == truth).mean() > 0.99
    assert len(report.quantised) + len(report.kept_float) == 2
    assert report.settings["accuracy_control_max_miou_drop"] == 0.5
