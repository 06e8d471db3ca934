"""The fallback ladder, alone and with real engines under the gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fptk.calibration.fallback import (
    Candidate,
    CandidateSkippedError,
    onnx_candidates,
    openvino_candidates,
    try_in_order,
)
from fptk.calibration.gate import GatePolicy, Verdict, evaluate_gate
from fptk.calibration.onnx_quantizer import OnnxQuantSettings, quantize_onnx
from fptk.calibration.openvino_quantizer import OpenVinoQuantSettings
from fptk.calibration.range_cache import RangeCache
from fptk.calibration.sensitivity import GroupSensitivity, Sensitivity, SensitivityPlan, measure_sensitivity
from fptk.core.classes import CLASSES

from .networks import Faces, nearest_color_network, score, stream
from .test_gate import LARGE, scores

POLICY = GatePolicy(min_class_pixels=200)
BROKEN = "eye_g"


def verdict(drop: float) -> Verdict:
    return evaluate_gate(scores(skin=(0.9, LARGE)), scores(skin=(0.9 - drop / 100, LARGE)))


def ranking(groups: int) -> Sensitivity:
    rows = tuple(GroupSensitivity(group=f"g{i}", nodes=(f"n{i}",), snr_db=float(i)) for i in range(groups))
    return Sensitivity(rows=rows, unmeasured=(), images=1, settings={}, seconds=0.0)


def test_climbing_stops_at_the_first_rung_that_passes() -> None:
    drops = {"a": 5.0, "b": 0.1, "c": 0.0}
    tried: list[str] = []
    result = try_in_order(
        [Candidate(name, OnnxQuantSettings(name=name)) for name in drops],
        lambda candidate: (f"engine {candidate.name}", verdict(drops[candidate.name])),
        lambda attempt: tried.append(attempt.candidate),
    )
    assert tried == ["a", "b"]
    assert result.winner is not None
    assert result.winner.artifact == "engine b"
    assert result.best == result.winner
    value = json.loads(json.dumps(result.as_dict()))
    assert value["passed"] == "b"
    assert [attempt["passed"] for attempt in value["attempts"]] == [False, True]
    assert value["attempts"][0]["verdict"]["miou_drop"] == pytest.approx(5)
    assert value["attempts"][0]["settings"]["name"] == "a"


def test_where_none_passes_the_least_bad_is_best_and_skipped_rungs_are_kept() -> None:
    drops = {"a": 5.0, "b": 2.0, "c": 4.0}

    def build(candidate: Candidate[OnnxQuantSettings]) -> tuple[str, Verdict]:
        if candidate.name == "skip":
            raise CandidateSkippedError("nothing to smooth")
        return candidate.name, verdict(drops[candidate.name])

    result = try_in_order([Candidate(name, OnnxQuantSettings(name=name)) for name in ("a", "skip", "b", "c")], build)
    assert result.winner is None
    assert result.best is not None
    assert result.best.candidate == "b"
    assert [attempt.skipped for attempt in result.attempts] == ["", "nothing to smooth", "", ""]
    assert result.as_dict()["passed"] is None


def test_an_empty_ladder_has_no_best() -> None:
    result = try_in_order([], lambda candidate: ("", verdict(0)))
    assert result.winner is None
    assert result.best is None


def test_onnx_rungs_grow_gentler_and_measure_sensitivity_only_when_reached() -> None:
    calls = 0

    def measure() -> Sensitivity:
        nonlocal calls
        calls += 1
        return ranking(9)

    candidates = onnx_candidates(OnnxQuantSettings(recipe="cpu"), measure, saturates=True)
    first = [next(candidates) for _ in range(5)]
    assert calls == 0
    rest = list(candidates)
    assert calls == 1
    assert all(candidate.settings.recipe == "cpu" for candidate in first + rest)
    assert all(candidate.settings.reduce_range for candidate in first[1:] + rest)
    assert [len(candidate.settings.float_nodes) for candidate in rest] == [1, 2, 4]
    assert rest[1].settings.float_nodes == ("n0", "n1")


def test_seven_bit_weights_are_not_tried_where_nothing_saturates() -> None:
    assert not any(
        candidate.settings.reduce_range for candidate in onnx_candidates(OnnxQuantSettings(), saturates=False)
    )
    assert any(candidate.settings.reduce_range for candidate in onnx_candidates(OnnxQuantSettings(), saturates=True))


def test_openvino_rungs_end_with_accuracy_control() -> None:
    candidates = list(
        openvino_candidates(OpenVinoQuantSettings(preset="performance", overflow_fix="disable"), lambda: ranking(4))
    )
    assert [bool(candidate.extra) for candidate in candidates] == [False] * (len(candidates) - 1) + [True]
    assert candidates[-1].extra == {"accuracy_control": True}
    assert candidates[1].settings.preset == "mixed"
    assert candidates[1].settings.overflow_fix == "enable"
    assert candidates[-2].settings.ignored_names == ("n0", "n1")
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    default = list(openvino_candidates(OpenVinoQuantSettings()))
    assert default[1].name == "percentile ranges", "overflow fix and transformer mode are the default: not tried twice"


def break_weight_scale(path: Path, class_name: str) -> None:
    """Multiply the scale of one class's classifier weights by 8."""
    model = onnx.load(str(path))
    by_output = {node.output[0]: node for node in model.graph.node}
    classifier = next(node for node in model.graph.node if node.name == "classifier")
    name = by_output[classifier.input[1]].input[1]
    constant = next(constant for constant in model.graph.initializer if constant.name == name)
    scale = numpy_helper.to_array(constant).copy()
    scale[CLASSES.index(class_name)] *= 8
    constant.CopyFrom(numpy_helper.from_array(scale, name))
    onnx.save(model, str(path))


def test_a_weight_scale_times_eight_is_refused_and_its_class_named(tmp_path: Path, all_classes: Faces) -> None:
    source, destination = nearest_color_network(tmp_path), tmp_path / "int8.onnx"
    images = [sample.image[None] for sample in all_classes.samples]
    quantize_onnx(source, destination, stream(images))
    reference = score(source, all_classes)
    sound = evaluate_gate(reference, score(destination, all_classes), POLICY)
    assert sound.passed, sound.summary
    assert all(row.judged for row in sound.classes)
    break_weight_scale(destination, BROKEN)
    refused = evaluate_gate(reference, score(destination, all_classes), POLICY)
    assert not refused.passed
    assert refused.failed_classes[0] == BROKEN
    assert BROKEN in refused.summary


def test_the_ladder_repairs_what_its_first_rung_breaks(tmp_path: Path, all_classes: Faces) -> None:
    """Hidden channels of a huge range ruin the activation scale of all others; a gentler rung repairs it."""
    source = spoil_hidden_range(nearest_color_network(tmp_path))
    images = stream([sample.image[None] for sample in all_classes.samples])
    reference = score(source, all_classes)
    cache = RangeCache(tmp_path / "cache", "list", "spec")
    measured: list[Sensitivity] = []

    def sensitivity() -> Sensitivity:
        measured.append(measure_sensitivity(source, images, cache, SensitivityPlan(images=2)))
        return measured[-1]

    def build(candidate: Candidate[OnnxQuantSettings]) -> tuple[Path, Verdict]:
        path = tmp_path / "rung.onnx"
        quantize_onnx(source, path, images, candidate.settings, cache=cache)
        return path, evaluate_gate(reference, score(path, all_classes), POLICY)

    result = try_in_order(onnx_candidates(OnnxQuantSettings(), sensitivity, saturates=False), build)
    assert not result.attempts[0].passed
    assert result.winner is not None, [attempt.verdict for attempt in result.attempts]
    assert len(result.attempts) > 1


def spoil_hidden_range(path: Path) -> Path:
    """Give background's hidden channels 300 times their range; its classifier weights take it back exactly."""
    model = onnx.load(str(path))
    for constant in model.graph.initializer:
        if constant.name in ("w1", "b1", "w2"):
            value = numpy_helper.to_array(constant).copy()
            if constant.name == "w2":
                value[:, :6] /= np.float32(300)
            else:
                value[:6] *= np.float32(300)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    onnx.save(model, str(path))
    return path
