"""Ranking of layers by what int8 costs them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fptk.calibration.onnx_graph import load_float_model, node_group
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, quantize_onnx
from fptk.calibration.range_cache import RangeCache
from fptk.calibration.sensitivity import SensitivityPlan, measure_sensitivity, module_groups, ratio_db
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError

from .networks import Steps, attention_network, stream

LAYERS = 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A network whose LayerNorm has an outlier channel: the layers that read it suffer."""
    return attention_network(tmp_path, outlier=50)


@pytest.fixture
def cache(tmp_path: Path) -> RangeCache:
    return RangeCache(tmp_path / "cache", "list", "spec")


def test_every_layer_is_ranked_and_readers_of_the_outlier_come_first(
    source: Path, cache: RangeCache, noise_images: list[UInt8Array]
) -> None:
    steps = Steps()
    found = measure_sensitivity(source, stream(noise_images), cache, SensitivityPlan(images=2), steps)
    assert [(done, total) for done, total, _ in steps.heard] == [(number, LAYERS) for number in range(LAYERS)]
    assert len(found.rows) == LAYERS
    assert found.unmeasured == ()
    assert found.images == 2
    decibels = [row.snr_db for row in found.rows]
    assert decibels == sorted(decibels)
    readers = {"q", "k", "mix", "scores", "fc1", "fc2"}
    assert found.rows[0].group in readers
    assert found.nodes_of_worst(2) == (*found.rows[0].nodes, *found.rows[1].nodes)


def test_a_group_costs_what_quantizing_it_alone_costs(
    source: Path, cache: RangeCache, noise_images: list[UInt8Array], tmp_path: Path
) -> None:
    found = measure_sensitivity(source, stream(noise_images), cache, SensitivityPlan(groups={"attention": ["q", "k"]}))
    (row,) = found.rows
    path = tmp_path / "alone.onnx"
    quantize_onnx(source, path, stream(noise_images), OnnxQuantSettings(only_nodes=("q", "k")))
    from .test_onnx_quantizer import logits_snr

    assert row.snr_db == pytest.approx(logits_snr(source, path, noise_images), abs=1e-3)


def test_a_stopped_call_goes_on_where_it_stopped(
    source: Path, cache: RangeCache, noise_images: list[UInt8Array]
) -> None:
    class StopError(Exception):
        pass

    class StopAtFourth(Steps):
        def on_step(self, done: int) -> None:
            if done == 3:
                raise StopError

    with pytest.raises(StopError):
        measure_sensitivity(source, stream(noise_images), cache, listener=StopAtFourth())
    steps = Steps()
    resumed = measure_sensitivity(source, stream(noise_images), cache, listener=steps)
    assert len(steps.heard) == LAYERS - 3
    fresh = measure_sensitivity(source, stream(noise_images), RangeCache(cache.folder / "other", "list", "spec"))
    assert resumed.rows == fresh.rows


def test_time_limit_leaves_the_rest_for_the_next_call(
    source: Path, cache: RangeCache, noise_images: list[UInt8Array]
) -> None:
    found = measure_sensitivity(source, stream(noise_images), cache, SensitivityPlan(max_seconds=0))
    assert len(found.unmeasured) == LAYERS
    assert found.rows == ()
    assert measure_sensitivity(source, stream(noise_images), cache).unmeasured == ()


def test_other_images_or_settings_are_measured_anew(
    source: Path, cache: RangeCache, noise_images: list[UInt8Array]
) -> None:
    def steps(cache: RangeCache, plan: SensitivityPlan) -> int:
        seen = Steps()
        measure_sensitivity(source, stream(noise_images), cache, plan, seen)
        return len(seen.heard)

    plan = SensitivityPlan(groups={"a": ["q"], "b": ["fc1"]})
    assert steps(cache, plan) == 2
    assert steps(cache, plan) == 0
    assert steps(cache, SensitivityPlan(groups={"a": ["k"], "b": ["fc1"]})) == 1
    assert steps(RangeCache(cache.folder, "other list", "spec"), plan) == 2
    assert steps(cache, SensitivityPlan(OnnxQuantSettings(reduce_range=True), groups=plan.groups)) == 2


def test_unknown_node_in_a_group_is_refused(source: Path, cache: RangeCache, noise_images: list[UInt8Array]) -> None:
    with pytest.raises(InputError, match="'nowhere'"):
        measure_sensitivity(source, stream(noise_images), cache, SensitivityPlan(groups={"a": ["nowhere"]}))


def test_nodes_are_grouped_by_the_module_that_they_were_exported_from(source: Path) -> None:
    model = load_float_model(source)
    for name, scopes in (
        ("q", "['', 'stages.0', 'stages.0.attention', 'linear']"),
        ("k", "['stages.0.attention', 'k']"),
    ):
        node = next(node for node in model.graph.node if node.name == name)
        node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=scopes))
        assert node_group(node) == "stages.0.attention"
    groups = module_groups(model, OnnxQuantSettings())
    assert groups["stages.0.attention"] == ["q", "k"]
    assert groups["fc1"] == ["fc1"]


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(100.0, 1.0, 20.0), (1.0, 0.0, 200.0), (0.0, 1.0, -200.0), (1.0, float("nan"), -200.0)],
)
def test_ratio_in_decibels_is_always_finite(signal: float, noise: float, expected: float) -> None:
    assert ratio_db(signal, noise) == pytest.approx(expected)
