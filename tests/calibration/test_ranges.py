"""Measured ranges of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fptk.calibration.images import counted
from fptk.calibration.onnx_graph import load_float_model, logits_tensor, open_session
from fptk.calibration.ranges import RangeEstimator, channel_maxima, measure_ranges
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError

from .networks import Steps, attention_network, stream

TENSORS = ("x", "c2", "t3", "p", "m2", "pooled")


def values(path: Path, name: str, images: list[UInt8Array]) -> np.ndarray:
    session = open_session(load_float_model(path), [name])
    return np.stack([session.run(None, {"images": image})[0] for image in images])


def test_minmax_is_the_extremes_of_the_activations(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    path = attention_network(tmp_path)
    table = measure_ranges(load_float_model(path), TENSORS, stream(noise_images))
    assert table.images == 4
    for name in TENSORS:
        seen = values(path, name, noise_images)
        assert table.ranges[name] == pytest.approx((seen.min(), seen.max()), rel=1e-5)


@pytest.mark.parametrize("estimator", ["percentile", "entropy", "mse"])
def test_other_estimators_stay_within_the_extremes(
    estimator: RangeEstimator, tmp_path: Path, noise_images: list[UInt8Array]
) -> None:
    model = load_float_model(attention_network(tmp_path, outlier=30))
    full = measure_ranges(model, TENSORS, stream(noise_images)).ranges
    clipped = measure_ranges(model, TENSORS, stream(noise_images), estimator, 99.0).ranges
    for name in TENSORS:
        assert full[name][0] - 1e-6 <= clipped[name][0] <= clipped[name][1] <= full[name][1] + 1e-6


def test_percentile_cuts_the_stated_share(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    path = attention_network(tmp_path)
    table = measure_ranges(load_float_model(path), ["c2"], stream(noise_images), "percentile", 98.0)
    seen = values(path, "c2", noise_images)
    width = float(seen.max() - seen.min()) / 500
    assert table.ranges["c2"] == pytest.approx(tuple(np.percentile(seen, [1, 99])), abs=width)


def test_least_squares_clip_beats_the_extremes_where_outliers_are_rare(
    tmp_path: Path, noise_images: list[UInt8Array]
) -> None:
    path = attention_network(tmp_path)
    model = load_float_model(path)
    seen = values(path, "m2", noise_images)

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(np.clip(np.round(seen / step), -127, 127) * step - seen).mean())

    ranges = {
        kind: measure_ranges(model, ["m2"], stream(noise_images), kind).ranges["m2"] for kind in ("minmax", "mse")
    }
    limits = {kind: max(map(abs, pair)) for kind, pair in ranges.items()}
    assert error(limits["mse"]) <= error(limits["minmax"])


def test_channel_maxima_are_those_of_the_activation(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    path = attention_network(tmp_path)
    maxima = channel_maxima(load_float_model(path), [("c1", 1), ("t3", -1)], stream(noise_images))
    np.testing.assert_allclose(maxima["c1"], np.abs(values(path, "c1", noise_images)).max((0, 1, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(maxima["t3"], np.abs(values(path, "t3", noise_images)).max((0, 1, 2)), rtol=1e-5)


def test_a_counted_stream_tells_of_every_image_of_every_pass(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    steps = Steps()
    images = counted(stream(noise_images), "calibrating", 4, steps)
    model = load_float_model(attention_network(tmp_path))
    assert measure_ranges(model, TENSORS, images, "mse") == measure_ranges(model, TENSORS, stream(noise_images), "mse")
    assert steps.heard == [(done, 4, None) for done in (1, 2, 3, 4)] * 2


def test_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        measure_ranges(load_float_model(attention_network(tmp_path)), TENSORS, stream([]))


def test_activations_that_are_not_finite_are_refused(tmp_path: Path, noise_images: list[UInt8Array]) -> None:
    import onnx
    from onnx import numpy_helper

    path = attention_network(tmp_path)
    model = onnx.load(str(path))
    bias = next(constant for constant in model.graph.initializer if constant.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, np.inf, np.float32), "b1"))
    onnx.save(model, str(path))
    with pytest.raises(InputError, match=r"'c1' is not finite|'c2' is not finite"):
        measure_ranges(load_float_model(path), ["c1", "c2"], stream(noise_images))


def test_logits_are_found_behind_the_label_map(tmp_path: Path) -> None:
    assert logits_tensor(load_float_model(attention_network(tmp_path))) == "logits"
