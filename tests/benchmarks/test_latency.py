"""Latency: the sessions take turns, and the statistics are those of the timed calls."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fptk.benchmarks.latency import Latency, LatencyPlan, measure
from fptk.dataset import UInt8Array
from fptk.preprocess import PreprocessSpec
from fptk.session import Session

SPEC = PreprocessSpec(size=(32, 64))


class Sleeper(Session):
    """Takes a known time and writes its name into a shared diary."""

    def __init__(self, name: str, seconds: float, diary: list[str]) -> None:
        super().__init__(name, SPEC)
        self.seconds, self.diary = seconds, diary
        self.shapes: set[tuple[int, ...]] = set()

    def _infer(self, images: UInt8Array) -> UInt8Array:
        self.diary.append(self.name)
        self.shapes.add(images.shape)
        time.sleep(self.seconds)
        return np.zeros(images.shape[:3], np.uint8)


def test_sessions_take_turns_after_warming_up() -> None:
    diary: list[str] = []
    plan = LatencyPlan(rounds=2, calls=2, warmup=1)
    measure([Sleeper("a", 0, diary), Sleeper("b", 0, diary)], np.zeros((10, 10, 3), np.uint8), plan=plan)
    assert "".join(diary) == "ab" + "aaabbb" * 2


def test_timed_calls_measure_the_call_and_see_the_preprocessed_batch() -> None:
    slow, fast = Sleeper("slow", 0.02, []), Sleeper("fast", 0.005, [])
    plan = LatencyPlan(rounds=3, calls=2, warmup=0)
    results = measure([slow, fast], np.zeros((10, 10, 3), np.uint8), batch=3, plan=plan)
    assert slow.shapes == {(3, 32, 64, 3)}
    assert all(len(result.milliseconds) == plan.samples for result in results)
    assert results[0].percentile(50) >= 20
    assert 5 <= results[1].percentile(50) < results[0].percentile(50)


def test_fps_counts_images_at_the_median() -> None:
    latency = Latency(np.array([10.0, 10.0, 10.0, 1000.0]), batch=4)
    assert latency.fps == pytest.approx(400)
    assert latency.percentile(99) > 900


def test_rounds_are_reported() -> None:
    seen: list[int] = []
    plan = LatencyPlan(rounds=3, calls=1, warmup=0)
    measure([Sleeper("a", 0, [])], np.zeros((4, 4, 3), np.uint8), plan=plan, on_round=seen.append)
    assert seen == [1, 2, 3]
