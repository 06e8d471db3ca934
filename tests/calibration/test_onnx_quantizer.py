"""Q/DQ graphs made by the ONNX quantiser: their parameters, their weights, and what they compute."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import BaseModel, ValidationError

from fptk.calibration.onnx_graph import COMPUTE_OPS, load_float_model, open_session
from fptk.calibration.onnx_quantizer import (
    OnnxQuantSettings,
    check_qdq,
    cpu_settings,
    measured_ranges,
    quantize_onnx,
)
from fptk.calibration.openvino_quantizer import OpenVinoQuantSettings
from fptk.calibration.range_cache import RangeCache
from fptk.calibration.ranges import RangeEstimator
from fptk.calibration.sensitivity import ratio_db
from fptk.calibration.smoothquant import smooth
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError

from .networks import attention_network, nearest_color_network, run, smooth_noise, stream

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = pytest.importorskip("hypothesis.strategies")

LAYERS = {"embed", "depthwise", "q", "k", "scores", "mix", "fc1", "fc2", "gate", "classifier"}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}


def logits_snr(float_path: Path, int8_path: Path, images: list[UInt8Array]) -> float:
    """Signal to noise ratio in decibels of the logits that the int8 file states, whatever kernels the processor has."""
    sessions = [open_session(onnx.load(str(path)), ["logits"], float_only=True) for path in (float_path, int8_path)]
    a, b = (np.stack([session.run(None, {"images": image})[0] for image in images]) for session in sessions)
    return ratio_db(float(np.square(a).sum()), float(np.square(a - b).sum()))


def dequantized_weights(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(float value, scale broadcast to it) of every int8 weight, by the layer that reads it."""
    stored = constants(model)
    by_output = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in model.graph.node:
        if node.op_type not in COMPUTE_OPS or len(node.input) < 2 or node.input[1] not in by_output:
            continue
        dq = by_output[node.input[1]]
        if dq.input[0] not in stored:
            continue  # an activation on the second input of an attention product
        weight, scale, zero = (stored[name] for name in dq.input)
        axis = next((attribute.i for attribute in dq.attribute if attribute.name == "axis"), 1)
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[axis] = -1
        scale = np.broadcast_to(scale.reshape(shape), weight.shape)
        found[node.name] = ((weight.astype(np.float64) - zero.reshape(shape)) * scale, scale)
    return found


def assert_in_range(zero: np.ndarray, scale: np.ndarray, measured: tuple[float, float]) -> None:
    """A zero point is an integer of its type and sits where it lets the type reach all values that were measured."""
    info = np.iinfo(zero.dtype)
    assert info.bits == 8
    low, high = ((limit - int(zero)) * float(scale) for limit in (info.min, info.max))
    half = 0.5001 * float(scale)  # the zero point itself was rounded
    assert low <= 0 <= high
    assert low - half <= measured[0]
    assert measured[1] <= high + half


@hypothesis.settings(
    max_examples=12, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    seed=st.integers(0, 1000),
    outlier=st.sampled_from([0.0, 1.0, 50.0]),
    recipe=st.sampled_from(["tensorrt", "cpu"]),
    per_channel=st.booleans(),
    reduce_range=st.booleans(),
    estimator=st.sampled_from(["minmax", "percentile", "entropy", "mse"]),
)
def test_every_scale_zero_point_and_weight_is_sound(
    tmp_path: Path,
    seed: int,
    outlier: float,
    recipe: str,
    per_channel: bool,
    reduce_range: bool,
    estimator: RangeEstimator,
) -> None:
    source, destination = attention_network(tmp_path, seed, outlier), tmp_path / "int8.onnx"
    chosen = OnnxQuantSettings(
        recipe=recipe,  # type: ignore[arg-type]
        per_channel=per_channel,
        reduce_range=reduce_range,
        range_estimator=estimator,
    )
    quantize_onnx(source, destination, stream(smooth_noise(2)), chosen)
    model = onnx.load(str(destination))
    onnx.checker.check_model(model, full_check=True)
    check_qdq(model)
    stored = constants(model)
    ranges = measured_ranges(load_float_model(source), "", stream(smooth_noise(2)), chosen).ranges
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = stored[node.input[1]], stored[node.input[2]]
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
            if recipe == "tensorrt":
                assert zero.dtype == np.int8
            if recipe == "tensorrt" or node.input[0] in stored:
                assert (zero == 0).all(), "weights and biases are symmetric in both recipes"
        if node.op_type == "QuantizeLinear":
            assert_in_range(zero, scale, ranges[node.input[0]])
    originals = {node.name: node.input[1] for node in onnx.load(str(source)).graph.node if node.op_type in COMPUTE_OPS}
    floats = constants(onnx.load(str(source)))
    weights = dequantized_weights(model)
    assert set(weights) == LAYERS - {"scores", "mix"}
    for name, (value, scale) in weights.items():
        assert (np.abs(value - floats[originals[name]]) <= 0.5 * scale * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    "chosen",
    [
        OnnxQuantSettings(),
        OnnxQuantSettings(recipe="cpu"),
        OnnxQuantSettings(range_estimator="percentile"),
        OnnxQuantSettings(range_estimator="mse"),
        OnnxQuantSettings(smooth_quant=True),
        OnnxQuantSettings(reduce_range=True),
    ],
    ids=lambda chosen: f"{chosen.recipe}-{chosen.range_estimator}-{chosen.smooth_quant}-{chosen.reduce_range}",
)
def test_int8_logits_stay_close_to_float(
    chosen: OnnxQuantSettings, tmp_path: Path, noise_images: list[UInt8Array]
) -> None:
    source, destination = attention_network(tmp_path), tmp_path / "int8.onnx"
    report = quantize_onnx(source, destination, stream(noise_images), chosen)
    assert set(report.quantised) == LAYERS
    assert report.kept_float == ()
    assert report.images == 4
    assert logits_snr(source, destination, noise_images) > 20
    assert (run(source, noise_images) == run(destination, noise_images)).mean() > 0.9


def test_tensorrt_recipe_leaves_biases_and_outputs_in_float(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    destination = tmp_path / "int8.onnx"
    quantize_onnx(attention_network(tmp_path), destination, stream(noise_images))
    model = onnx.load(str(destination))
    stored = constants(model)
    assert not any(value.dtype in (np.int32, np.uint8) for value in stored.values())
    producers = {name: node for node in model.graph.node for name in node.output}
    consumers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node.name)
    for node in model.graph.node:
        if node.name in LAYERS:
            dq = [producers[name] for name in node.input[:2]]
            assert all(source.op_type == "DequantizeLinear" for source in dq)
            assert all(len(consumers[source.output[0]]) == 1 for source in dq), "Q/DQ pairs are not shared"


def test_cpu_recipe_fuses_into_integer_kernels_and_keeps_softmax_in_float(
    tmp_path: Path, noise_images: list[UInt8Array]
) -> None:
    import onnxruntime

    destination, optimized = tmp_path / "int8.onnx", tmp_path / "optimised.onnx"
    quantize_onnx(attention_network(tmp_path), destination, stream(noise_images), OnnxQuantSettings(recipe="cpu"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(destination), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(str(optimized)).graph.node]
    assert kinds.count("QLinearConv") == 3
    assert kinds.count("QLinearMatMul") + kinds.count("MatMulIntegerToFloat") == 6
    assert "Softmax" in kinds
    assert not {"QLinearSoftmax", "Conv", "MatMul", "FusedMatMul", "Gemm"} & set(kinds)


def test_cpu_default_gives_weights_seven_bits_where_sums_saturate() -> None:
    assert cpu_settings(("avx2", "vnni")).reduce_range
    assert not cpu_settings(("vnni", "amx")).reduce_range
    assert cpu_settings().recipe == "cpu"


def test_metadata_and_interface_are_those_of_the_source(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, destination = attention_network(tmp_path), tmp_path / "int8.onnx"
    quantize_onnx(source, destination, stream(noise_images))
    before, after = onnx.load(str(source)), onnx.load(str(destination))
    assert {entry.key: entry.value for entry in after.metadata_props} == {"fptk.model": "test"}
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output


@pytest.mark.parametrize("recipe", ["tensorrt", "cpu"])
def test_quantizing_twice_is_refused(recipe: str, tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    destination = tmp_path / "int8.onnx"
    chosen = OnnxQuantSettings(recipe=recipe)  # type: ignore[arg-type]
    quantize_onnx(nearest_color_network(tmp_path), destination, stream(noise_images), chosen)
    with pytest.raises(InputError, match="already quantised"):
        quantize_onnx(destination, tmp_path / "twice.onnx", stream(noise_images), chosen)
    assert not (tmp_path / "twice.onnx").exists()


def test_float_layers_are_kept_and_the_report_says_why(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, destination = attention_network(tmp_path), tmp_path / "int8.onnx"
    report = quantize_onnx(source, destination, stream(noise_images), OnnxQuantSettings(float_nodes=("fc1", "mix")))
    assert {layer.name for layer in report.kept_float} == {"fc1", "mix"}
    assert all("settings" in layer.reason for layer in report.kept_float)
    assert set(report.quantised) == LAYERS - {"fc1", "mix"}
    assert set(dequantized_weights(onnx.load(str(destination)))) == LAYERS - {"fc1", "mix", "scores"}
    assert report.summary.startswith("8 of 10 layers int8, 4 images")
    json.dumps(report.as_dict())


def test_only_the_named_layers_are_quantized(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, destination = attention_network(tmp_path), tmp_path / "int8.onnx"
    report = quantize_onnx(source, destination, stream(noise_images), OnnxQuantSettings(only_nodes=("embed",)))
    assert report.quantised == ("embed",)
    assert set(dequantized_weights(onnx.load(str(destination)))) == {"embed"}


def test_no_layer_left_is_a_float_model(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, destination = attention_network(tmp_path), tmp_path / "int8.onnx"
    report = quantize_onnx(source, destination, stream(noise_images), OnnxQuantSettings(only_nodes=()))
    assert report.quantised == ()
    np.testing.assert_array_equal(run(source, noise_images), run(destination, noise_images))


def test_bad_requests_are_one_line(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, out = attention_network(tmp_path), tmp_path / "int8.onnx"
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(source.read_bytes()[:500])
    cases = [
        (source, OnnxQuantSettings(float_nodes=("nowhere",)), noise_images, "no node 'nowhere'"),
        (source, OnnxQuantSettings(), [], "empty"),
        (tmp_path / "none.onnx", OnnxQuantSettings(), noise_images, "does not exist"),
        (damaged, OnnxQuantSettings(), noise_images, "not a readable ONNX model"),
    ]
    for path, chosen, images, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            quantize_onnx(path, out, stream(images), chosen)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_the_quantizer_says_nothing(
    tmp_path: Path, noise_images: list[UInt8Array], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        quantize_onnx(attention_network(tmp_path), tmp_path / "int8.onnx", stream(noise_images))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not [record for record in caplog.records if "onnxruntime" in record.pathname]


def test_smoothing_changes_no_output_and_evens_out_the_channels(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    path = attention_network(tmp_path, outlier=50)
    model = load_float_model(path)
    smoothed = smooth(model, sorted(LAYERS), stream(noise_images), 0.5)
    onnx.checker.check_model(smoothed)
    sessions = [open_session(graph, ["logits"]) for graph in (model, smoothed)]
    for image in noise_images:
        a, b = (session.run(None, {"images": image})[0] for session in sessions)
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())
    ratio = {}
    for name, graph in (("before", model), ("after", smoothed)):
        reader = next(node for node in graph.graph.node if node.name == "q")
        peaks = np.abs(open_session(graph, [reader.input[0]]).run(None, {"images": noise_images[0]})[0]).max((0, 1))
        ratio[name] = peaks.max() / np.median(peaks)
    assert ratio["after"] < ratio["before"] / 3


def test_smoothing_repairs_an_outlier_channel(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    source, destination = attention_network(tmp_path, outlier=50), tmp_path / "int8.onnx"
    only = ("q", "k", "fc1", "fc2")
    snr = {}
    for smoothing in (False, True):
        chosen = OnnxQuantSettings(smooth_quant=smoothing, only_nodes=only)
        quantize_onnx(source, destination, stream(noise_images), chosen)
        snr[smoothing] = logits_snr(source, destination, noise_images)
    assert snr[True] > snr[False] + 1


def test_products_of_weights_are_folded_before_they_are_taken_for_layers(
    tmp_path: Path, noise_images: list[UInt8Array]
) -> None:
    source = attention_network(tmp_path)
    model = onnx.load(str(source))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(16, dtype=np.float32), "eye"))
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["wq", "eye"], ["wq_folded"], name="weights"))
    next(node for node in model.graph.node if node.name == "q").input[1] = "wq_folded"
    onnx.save(model, str(source))
    report = quantize_onnx(source, tmp_path / "int8.onnx", stream(noise_images))
    assert set(report.quantised) == LAYERS
    assert "q" in dequantized_weights(onnx.load(str(tmp_path / "int8.onnx")))


def test_cached_ranges_are_used_until_anything_they_depend_on_changes(
    tmp_path: Path, noise_images: list[UInt8Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = attention_network(tmp_path), tmp_path / "int8.onnx"
    passes = 0

    def counted() -> object:
        nonlocal passes
        passes += 1
        return iter(noise_images)

    def quantize(cache: RangeCache, path: Path = source, **changes: object) -> int:
        """Passes over the images that one quantisation made."""
        nonlocal passes
        passes = 0
        quantize_onnx(path, out, counted, OnnxQuantSettings(**changes), cache=cache)  # type: ignore[arg-type]
        return passes

    cache = RangeCache(tmp_path / "cache", "list-a", "spec-a")
    assert quantize(cache) == 1
    first = out.read_bytes()
    assert quantize(cache) == 0
    assert out.read_bytes() == first
    assert quantize(cache, float_nodes=("q",)) == 0, "ranges do not depend on which layers stay float"
    assert quantize(RangeCache(tmp_path / "cache", "list-b", "spec-a")) == 1
    assert quantize(RangeCache(tmp_path / "cache", "list-a", "spec-b")) == 1
    assert quantize(cache, attention_network(tmp_path, seed=1)) == 1
    assert quantize(cache, recipe="cpu") == 1
    assert quantize(cache, range_estimator="percentile") == 2
    assert quantize(cache) == 0
    monkeypatch.setattr("fptk.calibration.onnx_quantizer.tool_versions", lambda *names: {"onnxruntime": "0.0"})
    assert quantize(cache) == 1


def test_damaged_cache_counts_as_absent(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    cache = RangeCache(tmp_path / "cache", "list", "spec")
    source, out = attention_network(tmp_path), tmp_path / "int8.onnx"
    quantize_onnx(source, out, stream(noise_images), cache=cache)
    expected = out.read_bytes()
    (entry,) = cache.folder.iterdir()
    for text in ("", "[]", "{", '{"key": 1}', entry.read_text()[:-40], entry.read_text().replace('"key"', '"yek"')):
        entry.write_text(text)
        quantize_onnx(source, out, stream(noise_images), cache=cache)
        assert out.read_bytes() == expected


@pytest.mark.parametrize("recipe", ["cpu", "tensorrt"])
def test_the_file_passes_the_full_check_and_loads_without_a_word(
    recipe: str, tmp_path: Path, noise_images: list[UInt8Array], capfd: pytest.CaptureFixture[str]
) -> None:
    """At the default level of its log, ONNX Runtime warns of every constant that nothing reads."""
    import onnx
    import onnxruntime

    path = tmp_path / "int8.onnx"
    quantize_onnx(attention_network(tmp_path), path, stream(noise_images), OnnxQuantSettings(recipe=recipe))  # type: ignore[arg-type]
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    read = {name for node in model.graph.node for name in node.input}
    assert {constant.name for constant in model.graph.initializer} <= read
    capfd.readouterr()
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("settings_type", [OnnxQuantSettings, OpenVinoQuantSettings])
def test_settings_are_a_value_that_survives_json(settings_type: type[BaseModel]) -> None:
    """Both are the options of a target: what a bundle recorded gives the same settings back."""
    chosen = settings_type()
    assert settings_type.model_validate(json.loads(chosen.model_dump_json())) == chosen
    with pytest.raises(ValidationError, match="frozen"):
        chosen.name = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "wrong",
    [{"recipe": "gpu"}, {"op_types": ["Softmax"]}, {"percentile": 50}, {"smooth_alpha": 1.1}, {"calibrate": True}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_setting_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        OnnxQuantSettings.model_validate(wrong)
    assert caught.value.errors()[0]["loc"][0] == next(iter(wrong))
