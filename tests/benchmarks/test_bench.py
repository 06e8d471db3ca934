"""Sessions are scored in one pass and timed in the same rounds; a plan says what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fptk.benchmarks.bench import Measurement, MeasurePlan, measure
from fptk.benchmarks.latency import LatencyPlan
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session
from fptk.data.synthetic.faces import SyntheticFaces

FACES = SyntheticFaces(3, (32, 32))
SPEC = PreprocessSpec(size=(32, 32))
IMAGE = FACES[0].image
LATENCY = LatencyPlan(rounds=2, calls=2, warmup=0)


class Oracle(Session):
    """Knows the true labels, and calls everything background when it is blind."""

    def __init__(self, name: str, diary: list[tuple[str, int]], *, blind: bool = False) -> None:
        super().__init__(name, SPEC)
        self.diary, self.blind = diary, blind

    def _infer(self, images: UInt8Array) -> UInt8Array:
        self.diary.append((self.name, len(images)))
        if self.blind:
            return np.zeros(images.shape[:3], np.uint8)
        truth = {FACES[index].image.tobytes(): FACES[index].mask for index in range(len(FACES))}
        return np.stack([truth[image.tobytes()] for image in images])


def test_each_session_is_scored_and_timed_in_its_own_place(heard: Any) -> None:
    diary: list[tuple[str, int]] = []
    sessions = [Oracle("blind", diary, blind=True), Oracle("right", diary)]
    blind, right = measure(sessions, IMAGE, MeasurePlan(FACES, LATENCY, batch=2), heard).sessions
    assert blind.scores is not None
    assert right.scores is not None
    assert blind.scores.miou < right.scores.miou == 1
    for figures in (blind, right):
        assert figures.latency is not None
        assert (figures.latency.milliseconds.shape, figures.latency.batch) == ((LATENCY.samples,), 2)
    assert diary == [("blind", 1), ("right", 1)] * 3 + ([("blind", 2)] * 3 + [("right", 2)] * 3) * 2
    assert [(what, total, still) for what, total, still, _ in heard.counted] == [
        ("scoring", 3, False),
        ("timing, in turns", 2, True),
    ]


def test_what_the_plan_leaves_out_is_not_measured() -> None:
    diary: list[tuple[str, int]] = []
    sessions = [Oracle("a", diary)]
    timed = measure(sessions, IMAGE, MeasurePlan(latency=LATENCY))
    assert timed.sessions[0].scores is None
    assert timed.limits is None
    diary.clear()
    (scored,) = measure(sessions, IMAGE, MeasurePlan(FACES, latency=None)).sessions
    assert scored.latency is None
    assert len(diary) == len(FACES)
    assert measure(sessions, IMAGE, MeasurePlan(latency=None)).sessions == [Measurement()]


def test_the_limits_run_in_the_same_rounds_and_are_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.setattr("fptk.benchmarks.roofline.copied_bytes", lambda: 2**22)
    found = measure([Oracle("a", [])], IMAGE, MeasurePlan(latency=LATENCY, limit_threads=1))
    assert len(found.sessions) == 1
    assert found.limits is not None
    assert min(rate for rate in found.limits.macs_per_s.values() if rate) > 1e6
    assert found.limits.bytes_per_s > 1e6


def test_nothing_is_measured_of_no_session() -> None:
    assert measure([], IMAGE, MeasurePlan(FACES, LATENCY, limit_threads=1)).sessions == []
