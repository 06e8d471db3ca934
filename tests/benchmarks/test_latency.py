"""Latency: the sessions take turns, and the statistics are those of the timed calls."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fptk.benchmarks.latency import Latency, LatencyPlan, as_call, time_in_turns
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

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


IMAGE = np.zeros((10, 10, 3), np.uint8)


def test_sessions_take_turns_after_warming_up() -> None:
    diary: list[str] = []
    plan = LatencyPlan(rounds=2, calls=2, warmup=1)
    time_in_turns([as_call(Sleeper(name, 0, diary), IMAGE) for name in "ab"], plan)
    assert "".join(diary) == "ab" + "aaabbb" * 2


def test_timed_calls_measure_the_call_and_see_the_preprocessed_batch() -> None:
    slow, fast = Sleeper("slow", 0.02, []), Sleeper("fast", 0.005, [])
    plan = LatencyPlan(rounds=3, calls=2, warmup=0)
    times = time_in_turns([as_call(session, IMAGE, batch=3) for session in (slow, fast)], plan)
    assert slow.shapes == {(3, 32, 64, 3)}
    assert all(len(milliseconds) == plan.samples for milliseconds in times)
    assert np.median(times[0]) >= 20
    assert 5 <= np.median(times[1]) < np.median(times[0])


def test_fps_counts_images_at_the_median() -> None:
    latency = Latency(np.array([10.0, 10.0, 10.0, 1000.0]), batch=4)
    assert latency.fps == pytest.approx(400)
    assert latency.percentile(99) > 900


def test_rounds_are_reported(heard: Any) -> None:
    plan = LatencyPlan(rounds=3, calls=1, warmup=0)
    time_in_turns([as_call(Sleeper("a", 0, []), IMAGE)], plan, heard)
    assert heard.counted == [("timing, in turns", 3, True, [1, 2, 3])]


def test_an_engine_with_a_clock_of_its_own_is_timed_by_it_without_transfers() -> None:
    class OnDevice(Sleeper):
        def compute_ms(self) -> float:
            return 0.25

    plan = LatencyPlan(rounds=1, calls=2, warmup=0)
    sessions = [OnDevice("gpu", 0.005, []), Sleeper("cpu", 0.005, [])]
    gpu, cpu = time_in_turns([as_call(session, IMAGE, transfers=False) for session in sessions], plan)
    assert gpu.tolist() == [0.25, 0.25]
    assert min(cpu) >= 5
    (whole,) = time_in_turns([as_call(sessions[0], IMAGE)], plan)
    assert min(whole) >= 5
